//! All limits together: hostile clients, servers and users at once, and the calls of another user.
//!
//! The test measures the binary of all tests, which the profile `dev` builds without optimization. It needs the machine
//! for itself, so `tests/run` runs it alone, for three minutes. `MCP_TEST_SOAK` is its time in seconds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use parking_lot::Mutex;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::{Answer, answer, fixture, python};
use crate::process::Process;
use crate::processes::assert_no_process_left;

/// The limit of open files of the program.
const FILES: u32 = 1024;
const HALF_OPEN: usize = 10_000;
const STREAMS: usize = 1_000;
const JOBS: usize = 20_000;
/// Jobs that are submitted at the same time.
const SUBMITTERS: usize = 64;
/// The pause between two calls of one caller.
const PACE: Duration = Duration::from_millis(50);
const P99_LIMIT: Duration = Duration::from_millis(250);
const MEMORY_LIMIT_KIB: u64 = 300 * 1024;

/// The program under test, without the harness, because the limit of open files belongs to its start.
struct Soak {
    dir: TempDir,
    process: Process,
    http: Client,
}

impl Soak {
    fn start() -> Self {
        let dir = TempDir::new().expect("a temporary folder");
        let log = dir.path().join("log");
        let process = Process::start_with_file_limit(dir.path(), log, vec![], FILES);
        Self {
            dir,
            process,
            http: Client::new(),
        }
    }

    async fn register(&self, name: &str, more: Value) {
        let mut server =
            json!({ "name": name, "command": python(), "args": ["-u", fixture("server.py")] });
        let fields = server.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let request = self.http.post(format!("{}/mcp/servers", self.process.url));
        let registered = answer(request.json(&server)).await.ok();
        assert_eq!(registered["server"]["status"], "connected", "{registered}");
    }

    fn call(&self, http: &Client, user: &str, server: &str, tool: &str, args: Value) -> Call {
        let body = json!({
            "username": user, "serverName": server, "methodName": tool, "args": args, "timeoutMs": 2000,
        });
        let url = format!("{}/mcp/tool/call", self.process.url);
        Call(http.post(url).json(&body).timeout(Duration::from_secs(60)))
    }

    /// Submits the jobs of one user.
    async fn submit_jobs(&self) {
        let submitters = (0..SUBMITTERS).map(async |submitter| {
            for _ in (submitter..JOBS).step_by(SUBMITTERS) {
                let job = self.call(
                    &self.http,
                    "many-jobs",
                    "jobs",
                    "sleep",
                    json!({ "ms": 1000 }),
                );
                let job = Call(job.0.header("prefer", "respond-async"));
                let accepted = job.answer().await.expect("an answer");
                assert_eq!(accepted.status, 202, "{}", accepted.body);
            }
        });
        join_all(submitters).await;
    }

    fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path).expect("the program runs");
        let figure = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = figure.and_then(|figure| figure.split_whitespace().next());
        number
            .and_then(|number| number.parse().ok())
            .expect("a number")
    }
}

struct Call(reqwest::RequestBuilder);

impl Call {
    /// Returns the answer, or the reason why there is none.
    async fn answer(self) -> Result<Answer, String> {
        let response = self.0.send().await.map_err(|error| format!("{error:?}"))?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response
            .text()
            .await
            .map_err(|error| format!("{error:?}"))?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

/// The process that holds the hostile connections, and its last report.
struct HostileClients {
    child: Child,
    report: Arc<Mutex<Value>>,
}

impl HostileClients {
    /// Starts the process, and waits until it has opened all connections once.
    async fn start(url: &str) -> Self {
        let port = url.rsplit_once(':').expect("a port").1;
        let mut child = Command::new(python())
            .arg(fixture("hostile_clients.py"))
            .args([port, &HALF_OPEN.to_string(), &STREAMS.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let report = Arc::<Mutex<Value>>::default();
        let latest = report.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *latest.lock() = serde_json::from_str(&line).expect("JSON");
            }
        });
        let clients = Self { child, report };
        crate::wait::wait_until("all hostile connections were opened", async || {
            clients.report().is_object()
        })
        .await;
        clients
    }

    fn report(&self) -> Value {
        self.report.lock().clone()
    }
}

impl Drop for HostileClients {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The calls of the other user.
#[derive(Default)]
struct Measured {
    times: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
}

impl Measured {
    /// Returns the time that this part of all calls needs at most.
    fn quantile(&self, part: f64) -> Duration {
        let mut times = self.times.lock().clone();
        times.sort_unstable();
        times[((times.len() - 1) as f64 * part) as usize]
    }
}

/// Calls at a steady pace. With `is_fresh`, each call opens a connection of its own.
async fn call_steadily(soak: Arc<Soak>, measured: Arc<Measured>, caller: usize, is_fresh: bool) {
    let kept = Client::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0_u64.. {
        pace.tick().await;
        let fresh = is_fresh.then(Client::new);
        let http = fresh.as_ref().unwrap_or(&kept);
        let message = format!("{caller}-{number}");
        let args = json!({ "message": message });
        let began = Instant::now();
        let call = soak.call(http, "other", "good", "echo", args);
        match call.answer().await {
            Ok(answer) if answer.body["data"]["content"] == message => {
                measured.times.lock().push(began.elapsed());
            }
            Ok(answer) => measured.failures.lock().push(answer.body.to_string()),
            Err(error) => measured.failures.lock().push(error),
        }
    }
}

/// Keeps calling a server that does not read. The worker restarts it, and it stops reading again.
async fn keep_deaf(soak: Arc<Soak>) {
    let text = "d".repeat(100_000);
    loop {
        let stop = soak.call(&soak.http, "deaf-calls", "deaf", "stop_reading", json!({}));
        let _ = stop.answer().await;
        let calls = (0..32).map(|_| {
            let args = json!({ "message": text });
            soak.call(&soak.http, "deaf-calls", "deaf", "echo", args)
                .answer()
        });
        join_all(calls).await;
    }
}

/// Starts a flood without an end.
async fn start_flood(soak: &Soak) {
    let args = json!({});
    let flood = soak.call(&soak.http, "flood-calls", "flood", "flood_forever", args);
    // The call itself has no answer.
    let _ = flood.answer().await;
}

/// Samples the memory twice a second, and returns the largest sample.
async fn watch_memory(soak: &Soak, time: Duration) -> u64 {
    let mut ticks = interval(Duration::from_millis(500));
    let began = Instant::now();
    let mut largest = 0;
    while began.elapsed() < time {
        ticks.tick().await;
        largest = largest.max(soak.resident_kib());
    }
    largest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_users_calls_succeed_while_everything_else_misbehaves() {
    let Some(seconds) = std::env::var_os("MCP_TEST_SOAK") else {
        println!("the soak test needs the machine for itself; set MCP_TEST_SOAK to its seconds");
        return;
    };
    let seconds = seconds.to_str().and_then(|text| text.parse().ok());
    let time = Duration::from_secs(seconds.expect("MCP_TEST_SOAK is a number of seconds"));
    let soak = Arc::new(Soak::start());
    for server in ["good", "jobs", "flood"] {
        soak.register(server, json!({})).await;
    }
    soak.register("deaf", json!({ "toolTimeout": 2000 })).await;
    let began = Instant::now();
    soak.submit_jobs().await;
    println!("{JOBS} jobs were submitted in {:?}", began.elapsed());
    let hostile = HostileClients::start(&soak.process.url).await;
    println!("the hostile clients: {}", hostile.report());

    start_flood(&soak).await;
    let measured = Arc::<Measured>::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(keep_deaf(soak.clone()));
    for caller in 0..4 {
        tasks.spawn(call_steadily(
            soak.clone(),
            measured.clone(),
            caller,
            caller == 0,
        ));
    }
    let largest = watch_memory(&soak, time).await;
    let report = hostile.report();
    tasks.shutdown().await;
    drop(hostile);
    let failures = measured.failures.lock().clone();
    let calls = measured.times.lock().len();
    let median = measured.quantile(0.5);
    let p99 = measured.quantile(0.99);
    println!(
        "{calls} calls, {} failed; median {median:?}, p99 {p99:?}, slowest {:?}; {} MiB resident; hostile clients: {report}",
        failures.len(),
        measured.quantile(1.0),
        largest / 1024
    );
    assert!(
        failures.is_empty(),
        "{:?}",
        &failures[..failures.len().min(3)]
    );
    assert!(p99 < P99_LIMIT, "the p99 of {calls} calls is {p99:?}");
    assert!(largest < MEMORY_LIMIT_KIB, "{largest} KiB are resident");
    // The servers did what the test is about.
    for (server, line) in [("flood", "ffff"), ("deaf", "read nothing for 2000 ms")] {
        let request = soak
            .http
            .get(format!("{}/mcp/servers/{server}", soak.process.url));
        let logs = answer(request).await.ok()["server"]["logs"].to_string();
        assert!(logs.contains(line), "{server} did not misbehave: {logs}");
    }
    let soak = Arc::into_inner(soak).expect("all tasks have ended");
    drop(soak.process);
    assert_no_process_left(soak.dir.path());
}
