//! Several facades and workers with a real NATS and a real MongoDB.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, App, PATIENCE, answer};
use crate::process::{Process, Services};
use crate::processes::{is_alive, parent_of, signal};
use crate::services::mongod::Mongod;
use crate::wait::{block_until, wait_until};

/// After this time another worker owns the servers of a dead one, because the lease ends after 12 s.
const MOVED: Duration = Duration::from_secs(60);
/// A request fails within a second if a service is unavailable, and a busy machine needs a little longer.
const AT_ONCE: Duration = Duration::from_secs(9);

/// Returns the number of the worker that runs the process of a server.
pub fn worker_of(app: &App, pid: u32) -> usize {
    let worker = parent_of(parent_of(pid));
    app.processes
        .iter()
        .position(|process| process.pid() == worker)
        .expect("one of ours")
}

/// Returns the live processes of the fixture server.
fn fixtures(app: &App) -> Vec<u32> {
    let ours = crate::processes::left_of(app.dir.path()).into_iter();
    ours.filter(|(_, line)| line.contains("server.py") && !line.starts_with("mcp-api"))
        .map(|(pid, _)| pid)
        .collect()
}

async fn call(http: &reqwest::Client, url: &str, tool: &str, args: Value) -> Answer {
    let body = json!({ "serverName": "fixture", "methodName": tool, "args": args });
    answer(
        http.post(format!("{url}/mcp/tool/call"))
            .json(&body)
            .timeout(PATIENCE * 3),
    )
    .await
}

#[tokio::test]
async fn the_servers_of_a_killed_worker_move() {
    let mut app = App::distributed(3, &[]);
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let worker = worker_of(&app, pid);
    app.processes[worker].kill();
    let began = Instant::now();
    // A call waits for the new owner. An ask that the bus delivered to the dead worker is lost like a running
    // call, and the answer says so.
    let first = app.call("default", "fixture", "pid", json!({})).await;
    let moved = match first.body["code"] == "outcome_unknown" {
        true => app.pid_of("fixture").await,
        false => first.ok()["data"]["content"]
            .as_str()
            .expect("a text")
            .parse()
            .expect("a pid"),
    };
    println!(
        "a killed worker's server was called again after {:?}",
        began.elapsed()
    );
    assert!(began.elapsed() < MOVED, "{:?}", began.elapsed());
    assert!(!is_alive(pid));
    // The server also moves without a call.
    let worker = worker_of(&app, moved);
    app.processes[worker].kill();
    let began = Instant::now();
    wait_until("another worker has started it", async || {
        fixtures(&app).iter().any(|pid| *pid != moved)
    })
    .await;
    println!(
        "a killed worker's server ran again after {:?}",
        began.elapsed()
    );
    assert!(
        began.elapsed() < MOVED + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn the_servers_of_a_draining_worker_move_at_once() {
    let mut app = App::distributed(2, &[]);
    app.register_fixture("fixture").await.ok();
    let pid = app.idle("fixture").await;
    let worker = worker_of(&app, pid);
    let (url, http) = (app.url.clone(), app.http.clone());
    let running =
        tokio::spawn(async move { call(&http, &url, "sleep", json!({ "ms": 1000 })).await });
    crate::processes::under_way(pid, 1).await;
    signal(app.processes[worker].pid(), "TERM");
    let began = Instant::now();
    // The first calls may arrive before the signal.
    let mut moved = pid;
    wait_until("it has moved", async || {
        moved = app.pid_of("fixture").await;
        moved != pid
    })
    .await;
    assert_eq!(
        running.await.expect("a caller").ok()["data"]["content"],
        "slept 1000",
        "what ran was finished first"
    );
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    assert!(moved != pid && !is_alive(pid));
    assert_eq!(app.processes[worker].wait().code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_was_stopped_does_not_run_servers_that_others_took_over() {
    let app = App::distributed(2, &[("LEASE_TTL", "4s")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let stopped = app.processes[worker_of(&app, pid)].pid();
    signal(stopped, "STOP");
    // At no time are there two processes of the server.
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, dir, done) = (
        most.clone(),
        app.dir.path().to_owned(),
        Arc::new(AtomicBool::new(false)),
    );
    let end = done.clone();
    let watching = std::thread::spawn(move || {
        while !end.load(Ordering::Relaxed) {
            let alive = crate::processes::left_of(&dir);
            let servers = alive
                .iter()
                .filter(|(_, line)| line.contains("server.py") && !line.starts_with("mcp-api"));
            seen.fetch_max(servers.count(), Ordering::Relaxed);
        }
    });
    let until = Instant::now() + PATIENCE;
    let moved = loop {
        // A call that the stopped worker has received is lost, and the answer says so. A signal stops
        // the threads of a process one after another, so the worker may still answer the first call.
        let reported = call(&app.http, &app.url, "pid", json!({})).await;
        if reported.status == 200 {
            let answer = reported.body["data"]["content"].as_str().expect("a pid");
            let found = answer.parse::<u32>().expect("a pid");
            if found != pid {
                break found;
            }
        }
        assert!(
            Instant::now() < until,
            "nobody takes it over: {}",
            reported.body
        );
    };
    assert!(moved != pid && !is_alive(pid));
    signal(stopped, "CONT");
    let continued = Instant::now();
    while continued.elapsed() < Duration::from_secs(2) {
        assert_eq!(app.pid_of("fixture").await, moved);
    }
    done.store(true, Ordering::Relaxed);
    watching.join().expect("a watcher");
    assert_eq!(
        most.load(Ordering::Relaxed),
        1,
        "two processes of one server were there at once"
    );
}

#[tokio::test]
async fn replicas_each_spread_the_load() {
    let app = App::distributed(3, &[]);
    app.register("fixture", json!({ "replicas": "each" }))
        .await
        .ok();
    let calls = (0..60).map(|_| async { app.pid_of("fixture").await });
    let pids: HashSet<_> = futures::future::join_all(calls).await.into_iter().collect();
    assert_eq!(pids.len(), 3, "a process in each worker");
    // Every worker restarts the server, whichever worker received the command.
    app.put("/mcp/servers/fixture/enable", json!({})).await.ok();
    wait_until("all were restarted", async || {
        pids.iter().all(|pid| !is_alive(*pid))
    })
    .await;
}

#[tokio::test]
async fn a_change_through_one_facade_is_visible_at_another() {
    let mut app = App::distributed(1, &[]);
    let other = app.add("api");
    let other = app.processes[other].url.clone();
    for n in 0..20 {
        let made = app
            .register(&format!("s{n}"), json!({ "enabled": false }))
            .await;
        let position = made.headers["log-position"]
            .to_str()
            .expect("a position")
            .to_owned();
        made.ok();
        app.server(&format!("s{n}")).await;
        let asked = app
            .http
            .get(format!("{other}/mcp/servers/s{n}"))
            .header("log-position", position);
        answer(asked).await.ok();
    }
    let ahead = app
        .http
        .get(format!("{other}/mcp/servers"))
        .header("log-position", "1000000");
    answer(ahead).await.fails(400, "invalid_request");
}

#[tokio::test]
async fn large_bodies_pass() {
    let app = App::distributed(1, &[]);
    app.register_fixture("fixture").await.ok();
    let text = "x".repeat(5_900_000);
    assert_eq!(
        app.text("fixture", "echo", json!({ "message": text }))
            .await
            .len(),
        text.len()
    );
    assert_eq!(
        app.text("fixture", "big", json!({ "size": 10_000_000 }))
            .await
            .len(),
        10_000_000
    );
}

/// Calls without a pause, through all facades in turn, and counts the outcomes. A facade that accepts no connection
/// is skipped.
struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<()>>,
    outcomes: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Load {
    fn start(urls: Arc<Mutex<Vec<String>>>) -> Self {
        let (stop, outcomes) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<Mutex<BTreeMap<String, usize>>>::default(),
        );
        let callers = (0..8).map(|n| {
            let (stop, outcomes, urls) = (stop.clone(), outcomes.clone(), urls.clone());
            tokio::spawn(async move {
                // Each call has a connection of its own, because a facade may close an idle one under the next request.
                let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().expect("a client");
                for turn in n.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let url = {
                        let urls = urls.lock().expect("urls");
                        urls[turn % urls.len()].clone()
                    };
                    let body = json!({ "serverName": "fixture", "methodName": "sleep", "args": { "ms": 5 } });
                    let sent = http.post(format!("{url}/mcp/tool/call")).json(&body).send().await;
                    let outcome = match sent {
                        Ok(answer) if answer.status() == 200 => "done".to_owned(),
                        Ok(answer) => answer.text().await.unwrap_or_default(),
                        Err(error) if error.is_connect() => "not taken".to_owned(),
                        Err(error) => format!("{error:?}"),
                    };
                    *outcomes.lock().expect("outcomes").entry(outcome).or_default() += 1;
                }
            })
        });
        let callers = callers.collect();
        Self {
            stop,
            callers,
            outcomes,
        }
    }

    async fn stop(self) -> BTreeMap<String, usize> {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("a caller");
        }
        std::mem::take(&mut *self.outcomes.lock().expect("outcomes"))
    }
}

#[tokio::test]
async fn a_rolling_restart_fails_no_call() {
    let mut app = App::distributed(3, &[]);
    let second = app.add("api");
    app.register_fixture("fixture").await.ok();
    let urls = Arc::new(Mutex::new(vec![
        app.url.clone(),
        app.processes[second].url.clone(),
    ]));
    let load = Load::start(urls.clone());
    let dir = app.dir.path().to_owned();
    let count = app.processes.len();
    for n in (0..count).chain(0..count) {
        // A load balancer sends no new requests to a facade that ends.
        let facades = [0, second].into_iter().filter(|facade| *facade != n);
        *urls.lock().expect("urls") = facades
            .map(|facade| app.processes[facade].url.clone())
            .collect();
        signal(app.processes[n].pid(), "TERM");
        // This wait blocks its thread.
        let process = &mut app.processes[n];
        let status = tokio::task::spawn_blocking({
            let pid = process.pid();
            move || {
                let has_ended = block_until(|| !is_alive(pid));
                assert!(has_ended, "the process does not end after SIGTERM");
            }
        });
        status.await.expect("ended");
        assert_eq!(process.wait().code(), Some(0));
        process.restart(&dir);
        *urls.lock().expect("urls") = vec![
            app.processes[0].url.clone(),
            app.processes[second].url.clone(),
        ];
    }
    let outcomes = load.stop().await;
    println!("{outcomes:?}");
    let done = outcomes.get("done").copied().unwrap_or_default();
    assert!(done > 50, "{outcomes:?}");
    let failed: Vec<_> = outcomes
        .keys()
        .filter(|outcome| *outcome != "done" && *outcome != "not taken")
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    app.url = app.processes[0].url.clone();
}

#[tokio::test]
async fn without_nats_reads_continue_and_the_processes_recover() {
    let mut app = App::distributed(1, &[]);
    app.register_fixture("fixture").await.ok();
    app.pid_of("fixture").await;
    app.services.as_mut().expect("services").nats.kill();
    let gone = async || app.get("/readyz").await.status == 503;
    wait_until("it is noticed", gone).await;
    assert!(
        !app.get("/mcp/tools").await.ok()["tools"]
            .as_array()
            .expect("tools")
            .is_empty()
    );
    for _ in 0..3 {
        let began = Instant::now();
        app.call("default", "fixture", "pid", json!({}))
            .await
            .fails(503, "unavailable");
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    }
    app.services.as_mut().expect("services").nats.restart();
    let heals = async || {
        app.call("default", "fixture", "pid", json!({}))
            .await
            .status
            == 200
    };
    wait_until("it heals", heals).await;
}

#[tokio::test]
async fn without_mongo_warm_calls_continue_and_the_processes_recover() {
    let mut set = Mongod::set(1).await;
    let mut services = Services::start();
    services.mongo_url = Mongod::url(&set);
    let app = App::start_on(Some(services), 1, &[]);
    app.register_fixture("fixture").await.ok();
    app.pid_of("fixture").await;
    set[0].kill();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        app.pid_of("fixture").await;
    }
    app.get("/mcp/servers/fixture").await.ok();
    let asked = Instant::now();
    app.register("new", json!({}))
        .await
        .fails(503, "unavailable");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    // The server ends with its lease. After that its calls fail at once with the reason.
    let over = async || {
        app.call("default", "fixture", "pid", json!({}))
            .await
            .status
            == 503
    };
    wait_until("the lease is over", over).await;
    let asked = Instant::now();
    app.call("default", "fixture", "pid", json!({}))
        .await
        .fails(503, "unavailable");
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    set[0].restart();
    let heals = async || {
        app.call("default", "fixture", "pid", json!({}))
            .await
            .status
            == 200
    };
    wait_until("it heals", heals).await;
    let heals = async || app.register("new", json!({})).await.status == 200;
    wait_until("changes are made again", heals).await;
}

#[tokio::test]
async fn the_worker_of_a_job_that_has_just_ended_reads_its_answer_without_the_store() {
    let mut set = Mongod::set(1).await;
    let mut services = Services::start();
    services.mongo_url = Mongod::url(&set);
    let app = App::start_on(Some(services), 1, &[]);
    app.register_fixture("fixture").await.ok();
    let call = json!({ "serverName": "fixture", "methodName": "pid", "args": {} });
    let call = app
        .http
        .post(format!("{}/mcp/tool/call", app.url))
        .json(&call);
    let accepted = answer(call.header("prefer", "respond-async")).await;
    let id = accepted.body["jobId"].as_str().expect("an id").to_owned();
    let job = format!("/jobs/{id}?wait=60s");
    let first = app.get(&job).await.ok();
    assert_eq!(first["job"]["answer"]["status"], 200, "{first}");
    set[0].kill();
    assert_eq!(app.get(&job).await.ok(), first);
}

#[tokio::test]
async fn a_start_waits_for_its_services_and_logs_it() {
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    let mut services = Services::start();
    services.nats.kill();
    let (env, log, data_dir) = (
        services.env(),
        dir.path().join("log"),
        dir.path().to_owned(),
    );
    let starting = tokio::task::spawn_blocking({
        let log = log.clone();
        move || Process::start(&data_dir, log, env)
    });
    let waits = || {
        std::fs::read_to_string(&log).is_ok_and(|log| {
            log.contains("the program waits for a service") && log.contains("NATS")
        })
    };
    wait_until("the process logs that it waits for NATS", async || waits()).await;
    services.nats.restart();
    let mut process = starting.await.expect("it has started");
    signal(process.pid(), "TERM");
    assert_eq!(process.wait().code(), Some(0));
}
