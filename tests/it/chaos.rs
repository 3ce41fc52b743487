//! Kills processes and services at random under load. Afterwards every acknowledged change exists, no call ran twice and
//! no process is left.
//!
//! It runs in the distributed pass of `tests/run`, for `MCP_TEST_CHAOS` seconds (150), and longer if the machine is too
//! slow for 1,000 changes. `MCP_TEST_SEED` repeats the kills of a seed that the test has printed.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, App, answer};
use crate::process::{Process, Services};
use crate::services::mongod::Mongod;
use crate::wait::{PATIENCE, wait_at_most, wait_for};

const CHANGERS: usize = 6;
const CALLERS: usize = 6;
/// The acknowledged changes after which the test shows something.
const ENOUGH_CHANGES: usize = 1000;
/// How many times longer than wanted the load lasts at most. The number of changes in a time depends on the disk and on
/// the other work of the machine.
const SLOWEST: u32 = 5;
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
    /// The first response that no client may get, which ends the load.
    wrong: Mutex<Option<String>>,
    turn: AtomicUsize,
}

impl Load {
    /// Creates a load on the facades with these addresses.
    fn on(urls: Vec<String>) -> Self {
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build();
        Self {
            http: http.expect("a client"),
            urls: Mutex::new(urls),
            stop: AtomicBool::new(false),
            changed: Mutex::default(),
            called: Mutex::default(),
            wrong: Mutex::default(),
            turn: AtomicUsize::new(0),
        }
    }

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

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the load with a response that no client may get.
    fn end_with(&self, wrong: String) {
        self.stop.store(true, Ordering::Relaxed);
        self.wrong.lock().expect("a response").get_or_insert(wrong);
    }

    /// Sets growing limits for one server.
    async fn change(self: Arc<Self>, n: usize) {
        for limit in 1.. {
            if self.is_over() {
                return;
            }
            let path = format!("/mcp/servers/changed-{n}");
            let (status, body) = self
                .send(reqwest::Method::PUT, &path, json!({ "toolTimeout": limit }))
                .await;
            match status {
                200 => self.changed.lock().expect("changes").push((n, limit)),
                0 | 502 | 503 | 504 => tokio::time::sleep(Duration::from_millis(50)).await,
                other => {
                    let change = format!("the change of changed-{n} to {limit}");
                    return self.end_with(format!("{change} ended with {other}: {body}"));
                }
            }
        }
    }

    /// Makes calls that write one line each.
    async fn call(self: Arc<Self>, n: usize, path: String) {
        for turn in 0.. {
            if self.is_over() {
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
                200 if body["data"]["content"] == "noted" => {}
                0 | 502 | 503 | 504 => tokio::time::sleep(Duration::from_millis(50)).await,
                other => {
                    let call = format!("the call {line} of server {server}");
                    return self.end_with(format!("{call} ended with {other}: {body}"));
                }
            }
            // A call with status 503 must not have started.
            self.called.lock().expect("calls").insert(line, status);
        }
    }
}

/// Prints the seed after the report of a failed test.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- repeat it with MCP_TEST_SEED={}", self.0);
        }
    }
}

/// The program under load, and the faults that it has survived.
struct Chaos {
    app: App,
    mongo: Vec<Mongod>,
    facades: [usize; 2],
    dice: Dice,
    kills: BTreeMap<&'static str, usize>,
}

impl Chaos {
    /// Starts two facades and three workers on services of their own, and registers the servers.
    async fn start(seed: u64) -> Self {
        let mongo = Mongod::set(1).await;
        let mut services = Services::start();
        services.mongo_url = Mongod::url(&mongo);
        let mut app = App::start_on(Some(services), 3, &[("LEASE_TTL", "6s")]);
        let second = app.add("api");
        for (name, more) in [("one", json!({})), ("each", json!({ "replicas": "each" }))] {
            app.register(name, more).await.ok();
        }
        for n in 0..CHANGERS {
            app.register(&format!("changed-{n}"), json!({ "enabled": false }))
                .await
                .ok();
        }
        Self {
            app,
            mongo,
            facades: [0, second],
            dice: Dice(seed),
            kills: BTreeMap::new(),
        }
    }

    fn urls(&self) -> Vec<String> {
        self.facades
            .map(|n| self.app.processes[n].url.clone())
            .to_vec()
    }

    /// Kills processes and services for a time, and longer on a slow machine: until there are enough kills and enough
    /// acknowledged changes to show anything. A wrong response ends it early.
    async fn rage(&mut self, seconds: u64, load: &Load) {
        let start = Instant::now();
        let time = Duration::from_secs(seconds);
        let enough_kills = 30.min(seconds as usize / 5);
        let enough_changes = ENOUGH_CHANGES.min(seconds as usize * 5);
        loop {
            let kills = self.kills.values().sum::<usize>();
            let changes = load.changed.lock().expect("changes").len();
            let is_enough = kills >= enough_kills && changes >= enough_changes;
            if start.elapsed() >= time && is_enough {
                return;
            }
            assert!(
                start.elapsed() < time * SLOWEST + PATIENCE,
                "after {:?} there are only {changes} acknowledged changes and the kills {:?}",
                start.elapsed(),
                self.kills
            );
            self.kill_next(load).await;
            let pause = PAUSE.mul_f64(0.5 + self.dice.roll(100) as f64 / 100.0);
            tokio::time::sleep(pause).await;
            if load.is_over() {
                return;
            }
        }
    }

    /// Kills a victim, which is down for a moment and up again at the end.
    async fn kill_next(&mut self, load: &Load) {
        let roll = self.dice.roll(10);
        let down = Duration::from_millis(self.dice.roll(1500));
        match roll {
            0 => {
                *self.kills.entry("nats").or_default() += 1;
                let nats = &mut self.app.services.as_mut().expect("services").nats;
                nats.kill();
                tokio::time::sleep(down).await;
                nats.restart();
            }
            1 => {
                *self.kills.entry("mongod").or_default() += 1;
                self.mongo[0].kill();
                tokio::time::sleep(down).await;
                self.mongo[0].restart();
            }
            n => {
                let (action, victim) = match n {
                    2..=4 => ("facade", self.facades[self.dice.roll(2) as usize]),
                    _ => ("worker", 1 + self.dice.roll(3) as usize),
                };
                *self.kills.entry(action).or_default() += 1;
                self.app.processes[victim].kill();
                tokio::time::sleep(down).await;
                self.start_again(victim).await;
                *load.urls.lock().expect("urls") = self.urls();
            }
        }
    }

    async fn start_again(&mut self, victim: usize) {
        let dir = self.app.dir.path().to_owned();
        let process = &self.app.processes[victim];
        let (log, env) = (process.log.clone(), process.env.clone());
        let started = tokio::task::spawn_blocking(move || Process::start(&dir, log, env));
        self.app.processes[victim] = match started.await {
            Ok(process) => process,
            // The panic says what the process printed.
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
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
    let _seed = Seed(seed);

    let mut chaos = Chaos::start(seed).await;
    let notes = chaos.app.dir.path().join("notes").display().to_string();
    let load = Arc::new(Load::on(chaos.urls()));
    let changers = (0..CHANGERS).map(|n| tokio::spawn(load.clone().change(n)));
    let callers = (0..CALLERS).map(|n| tokio::spawn(load.clone().call(n, notes.clone())));
    let loads: Vec<_> = changers.chain(callers).collect();

    chaos.rage(seconds, &load).await;
    load.stop.store(true, Ordering::Relaxed);
    for task in loads {
        task.await.expect("a part of the load");
    }
    let changed = std::mem::take(&mut *load.changed.lock().expect("changes"));
    let called = std::mem::take(&mut *load.called.lock().expect("calls"));
    let done = called.values().filter(|status| **status == 200).count();
    println!(
        "killed {:?}; {} changes acknowledged; {done} of {} calls done",
        chaos.kills,
        changed.len(),
        called.len()
    );
    if let Some(wrong) = load.wrong.lock().expect("a response").take() {
        panic!("{wrong}");
    }

    let Chaos {
        mut app, facades, ..
    } = chaos;
    app.url = app.processes[0].url.clone();
    wait_until_recovered(&app).await;
    every_acknowledged_change_exists(&app, &changed).await;
    no_call_ran_twice(&notes, &called);
    every_catalog_is_equal(&mut app, facades[1]).await;
}

/// Waits until calls work again, and until each server has the right number of processes.
async fn wait_until_recovered(app: &App) {
    for server in ["one", "each"] {
        let mut last = None;
        let works = wait_at_most(PATIENCE, async || {
            let answer = app.call("default", server, "pid", json!({})).await;
            let works = answer.status == 200;
            last = Some(answer);
            works.then_some(())
        });
        let works = works.await;
        assert!(works.is_some(), "calls of {server} never work: {last:?}");
    }
    let mut last = vec![];
    let is_complete = wait_at_most(PATIENCE, async || {
        last = crate::processes::left_of(app.dir.path());
        let servers = last
            .iter()
            .filter(|(_, line)| line.contains("server.py") && !line.starts_with("mcp-api"));
        (servers.count() == 4).then_some(())
    });
    let is_complete = is_complete.await;
    assert!(
        is_complete.is_some(),
        "one server has one process and the other has three; these processes run: {last:#?}"
    );
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
        let status = called.get(*line);
        assert_eq!(
            *times, 1,
            "the call {line} ran {times} times; its status: {status:?}"
        );
        assert_ne!(
            status,
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

/// Compares the servers of two old facades and of a new one at one position of the log. A change whose client got no
/// reply may still move the log.
async fn every_catalog_is_equal(app: &mut App, second: usize) {
    let fresh = app.add("api");
    let urls = [0, second, fresh].map(|n| format!("{}/mcp/servers", app.processes[n].url));
    let shown = wait_for("all facades answer at one position", async || {
        let before = position(&app.get("/mcp/tools").await);
        let mut shown = vec![];
        for url in &urls {
            let answer = answer(app.http.get(url).header("log-position", &before)).await;
            if position(&answer) != before {
                return None;
            }
            shown.push(without_live_status(answer.ok()));
        }
        let after = position(&app.get("/mcp/tools").await);
        (after == before).then_some(shown)
    })
    .await;
    assert_eq!(shown[0], shown[1], "the catalogs of the old facades differ");
    assert_eq!(shown[0], shown[2], "the catalog of the new facade differs");
}

fn position(answer: &Answer) -> String {
    let position = answer.headers["log-position"].to_str();
    position.expect("a position").to_owned()
}

/// Removes what is no state of the catalog.
fn without_live_status(mut body: Value) -> Value {
    for server in body["servers"].as_array_mut().expect("servers") {
        for live in ["status", "error", "details", "logs"] {
            server.as_object_mut().expect("a server").remove(live);
        }
    }
    body
}
