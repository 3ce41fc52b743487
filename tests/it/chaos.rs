//! Kills processes and services at random under load. Afterwards every acknowledged change exists, no call ran twice and
//! no process is left.
//!
//! It runs in the distributed pass of `tests/run`, for `MCP_TEST_CHAOS` seconds (150), with the seed of
//! `MCP_TEST_SEED` or one that it prints.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, answer};
use crate::process::{Process, Services};
use crate::services::mongod::Mongod;
use crate::wait::wait_until;

const CHANGERS: usize = 6;
const CALLERS: usize = 6;
/// Mean time between two kills.
const PAUSE: Duration = Duration::from_millis(2500);

/// A generator that repeats its numbers for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// The shared state of all tasks that make load.
struct Load {
    http: reqwest::Client,
    urls: Mutex<Vec<String>>,
    stop: AtomicBool,
    /// Acknowledged changes: a server and the limit it was given.
    changed: Mutex<Vec<(usize, u64)>>,
    /// The status of each call that got a reply.
    called: Mutex<HashMap<String, u16>>,
    turn: AtomicUsize,
}

impl Load {
    fn url(&self) -> String {
        let urls = self.urls.lock().expect("urls");
        urls[self.turn.fetch_add(1, Ordering::Relaxed) % urls.len()].clone()
    }

    /// Returns the status and the body. Status 0: no reply.
    async fn send(&self, method: reqwest::Method, path: &str, body: Value) -> (u16, Value) {
        let request = self
            .http
            .request(method, format!("{}{path}", self.url()))
            .json(&body);
        match request.timeout(Duration::from_secs(40)).send().await {
            Ok(response) => (
                response.status().as_u16(),
                response.json().await.unwrap_or_default(),
            ),
            Err(_) => (0, Value::Null),
        }
    }

    /// Sets growing limits for one server.
    async fn change(self: Arc<Self>, n: usize) {
        for limit in 1.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/mcp/servers/changed-{n}");
            let (status, body) = self
                .send(reqwest::Method::PUT, &path, json!({ "toolTimeout": limit }))
                .await;
            match status {
                200 => self.changed.lock().expect("changes").push((n, limit)),
                0 | 502 | 503 | 504 => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("a change ended with {other}: {body}"),
            }
        }
    }

    /// Makes calls that write one line each.
    async fn call(self: Arc<Self>, n: usize, path: String) {
        for turn in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let line = format!("{n}-{turn}");
            let args = json!({ "path": path, "line": line });
            let server = if turn % 3 == 0 { "each" } else { "one" };
            let body = json!({ "serverName": server, "methodName": "note", "args": args, "timeoutMs": 30_000 });
            let (status, body) = self
                .send(reqwest::Method::POST, "/mcp/tool/call", body)
                .await;
            match status {
                200 => assert_eq!(body["data"]["content"], "noted", "{body}"),
                0 | 502 | 503 | 504 => tokio::time::sleep(Duration::from_millis(50)).await,
                other => panic!("a call ended with {other}: {body}"),
            }
            // A call with status 503 must not have started.
            self.called.lock().expect("calls").insert(line, status);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_change_is_lost_and_no_change_happens_twice() {
    if std::env::var_os("MCP_TEST_DISTRIBUTED").is_none() {
        return println!("left out: it runs with MCP_TEST_DISTRIBUTED");
    }
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    let seconds = number("MCP_TEST_CHAOS").unwrap_or(150);
    let seed = number("MCP_TEST_SEED").unwrap_or_else(|| uuid::Uuid::new_v4().as_u128() as u64);
    println!("MCP_TEST_SEED={seed}");

    let mut mongo = Mongod::set(1).await;
    let mut services = Services::start();
    services.mongo_url = Mongod::url(&mongo);
    let mut app = App::start_on(Some(services), 3, &[("LEASE_TTL", "6s")]);
    let second = app.add("api");
    let facades = [0, second];
    for (name, more) in [("one", json!({})), ("each", json!({ "replicas": "each" }))] {
        app.register(name, more).await.ok();
    }
    for n in 0..CHANGERS {
        app.register(&format!("changed-{n}"), json!({ "enabled": false }))
            .await
            .ok();
    }
    let notes = app.dir.path().join("notes").display().to_string();
    let load = Arc::new(Load {
        http: reqwest::Client::builder()
            .pool_max_idle_per_host(0)
            .build()
            .expect("a client"),
        urls: Mutex::new(facades.map(|n| app.processes[n].url.clone()).to_vec()),
        stop: AtomicBool::new(false),
        changed: Mutex::default(),
        called: Mutex::default(),
        turn: AtomicUsize::new(0),
    });
    let changers = (0..CHANGERS).map(|n| tokio::spawn(load.clone().change(n)));
    let callers = (0..CALLERS).map(|n| tokio::spawn(load.clone().call(n, notes.clone())));
    let loads: Vec<_> = changers.chain(callers).collect();

    let (mut dice, mut kills) = (Dice(seed), BTreeMap::<&str, usize>::new());
    let until = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < until || kills.values().sum::<usize>() < 30.min(seconds as usize / 5) {
        let roll = dice.roll(10);
        let down = Duration::from_millis(dice.roll(1500));
        // The victim is down for a moment, and up again before the next kill.
        match roll {
            0 => {
                *kills.entry("nats").or_default() += 1;
                let nats = &mut app.services.as_mut().expect("services").nats;
                nats.kill();
                tokio::time::sleep(down).await;
                nats.restart();
            }
            1 => {
                *kills.entry("mongod").or_default() += 1;
                mongo[0].kill();
                tokio::time::sleep(down).await;
                mongo[0].restart();
            }
            n => {
                let (action, victim) = match n {
                    2..=4 => ("facade", facades[dice.roll(2) as usize]),
                    _ => ("worker", 1 + dice.roll(3) as usize),
                };
                *kills.entry(action).or_default() += 1;
                app.processes[victim].kill();
                tokio::time::sleep(down).await;
                let dir = app.dir.path().to_owned();
                let process = &mut app.processes[victim];
                let (log, env) = (process.log.clone(), process.env.clone());
                let started =
                    tokio::task::spawn_blocking(move || Process::start(&dir, log, env)).await;
                app.processes[victim] = started.expect("started again");
                *load.urls.lock().expect("urls") =
                    facades.map(|n| app.processes[n].url.clone()).to_vec();
            }
        }
        tokio::time::sleep(PAUSE.mul_f64(0.5 + dice.roll(100) as f64 / 100.0)).await;
    }
    load.stop.store(true, Ordering::Relaxed);
    for task in loads {
        task.await.expect("a part of the load");
    }
    app.url = app.processes[0].url.clone();
    let changed = std::mem::take(&mut *load.changed.lock().expect("changes"));
    let called = std::mem::take(&mut *load.called.lock().expect("calls"));
    let done = called.values().filter(|status| **status == 200).count();
    println!(
        "killed {kills:?}; {} changes acknowledged; {done} of {} calls done",
        changed.len(),
        called.len()
    );
    assert!(
        seconds < 100 || changed.len() >= 1000,
        "too little was changed to show anything: {}",
        changed.len()
    );

    wait_until_recovered(&app).await;
    every_acknowledged_change_exists(&app, &changed).await;
    no_call_ran_twice(&notes, &called);
    every_catalog_is_equal(&mut app, second).await;
}

/// Waits until calls work again, and until each server has the right number of processes.
async fn wait_until_recovered(app: &App) {
    for server in ["one", "each"] {
        let works = async || app.call("default", server, "pid", json!({})).await.status == 200;
        wait_until("calls work again", works).await;
    }
    wait_until(
        "there is one process of the server and three of the other",
        async || {
            let alive = crate::processes::left_of(app.dir.path());
            let servers = alive
                .iter()
                .filter(|(_, line)| line.contains("server.py") && !line.contains("guard"));
            servers.count() == 4
        },
    )
    .await;
}

async fn every_acknowledged_change_exists(app: &App, changed: &[(usize, u64)]) {
    let (mut after, mut at, mut seen) = (String::new(), 0, HashMap::<(String, u64), usize>::new());
    loop {
        let page = app.get(&format!("/events?limit=1000{after}")).await.ok();
        let events = page["events"].as_array().expect("events");
        for event in events {
            let id = event["id"].as_str().expect("an id");
            let position: u64 = id
                .split('.')
                .next()
                .expect("a position")
                .parse()
                .expect("a number");
            assert!(
                position == at || position == at + 1,
                "a gap between {at} and {position}"
            );
            at = position;
            if event["type"] == "server.updated" {
                let limit = event["data"]["config"]["toolTimeout"]
                    .as_u64()
                    .expect("a limit");
                *seen
                    .entry((
                        event["subject"].as_str().expect("a subject").to_owned(),
                        limit,
                    ))
                    .or_default() += 1;
            }
        }
        if events.is_empty() {
            break;
        }
        after = format!("&after={}", page["next"].as_str().expect("a next"));
    }
    for (n, limit) in changed {
        let times = seen
            .get(&(format!("server/changed-{n}"), *limit))
            .copied()
            .unwrap_or_default();
        assert_eq!(
            times, 1,
            "the change of changed-{n} to {limit} was acknowledged"
        );
    }
}

fn no_call_ran_twice(notes: &str, called: &HashMap<String, u16>) {
    let text = std::fs::read_to_string(notes).expect("notes");
    let mut times = HashMap::<&str, usize>::new();
    text.lines()
        .for_each(|line| *times.entry(line).or_default() += 1);
    for (line, times) in &times {
        assert_eq!(*times, 1, "the call {line} ran {times} times");
        assert_ne!(
            called.get(*line),
            Some(&503),
            "the call {line} ran, and was said not to have begun"
        );
    }
    for (line, status) in called {
        assert!(
            *status != 200 || times.contains_key(line.as_str()),
            "the call {line} was answered and never ran"
        );
    }
}

/// Compares the servers of two old facades and of a new one.
async fn every_catalog_is_equal(app: &mut App, second: usize) {
    let fresh = app.add("api");
    let position = app.get("/mcp/tools").await.headers["log-position"]
        .to_str()
        .expect("a position")
        .to_owned();
    let mut shown = Vec::new();
    for n in [0, second, fresh] {
        let url = format!("{}/mcp/servers", app.processes[n].url);
        let mut body = answer(app.http.get(url).header("log-position", &position))
            .await
            .ok();
        for server in body["servers"].as_array_mut().expect("servers") {
            // The live status is no state of the catalog.
            for live in ["status", "error", "details", "logs"] {
                server.as_object_mut().expect("a server").remove(live);
            }
        }
        shown.push(body);
    }
    assert!(
        shown[0] == shown[1] && shown[1] == shown[2],
        "the catalogs differ"
    );
}
