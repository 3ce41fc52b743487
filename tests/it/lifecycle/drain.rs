//! The end of the program: running calls, silent clients and the log.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, answer, fixture, python};
use crate::process::binary;
use crate::processes::{is_alive, signal, under_way};

#[tokio::test]
async fn sigterm_lets_a_running_call_finish() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let pid = app.idle("fixture").await;
    // A client that has connected and sends nothing does not delay the end.
    let silent = tokio::net::TcpStream::connect(app.url.strip_prefix("http://").expect("a URL"))
        .await
        .expect("connected");
    let body = json!({ "serverName": "fixture", "methodName": "sleep", "args": { "ms": 1500 } });
    let calling = tokio::spawn(crate::harness::answer(
        app.http
            .post(format!("{}/mcp/tool/call", app.url))
            .json(&body),
    ));
    under_way(pid, 1).await;
    let began = Instant::now();
    signal(app.pid(), "TERM");
    let answer = calling.await.expect("an answer").ok();
    assert_eq!(answer["data"]["content"], "slept 1500");
    let status = app.wait();
    assert_eq!(status.code(), Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    assert!(!is_alive(pid));
    drop(silent);
}

#[tokio::test]
async fn a_drain_ends_in_its_time() {
    let mut app = App::embedded_with(&[("DRAIN_TIMEOUT", "3s")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.idle("fixture").await;
    let body = json!({ "serverName": "fixture", "methodName": "sleep", "args": { "ms": 60_000 } });
    let calling = tokio::spawn(
        app.http
            .post(format!("{}/mcp/tool/call", app.url))
            .json(&body)
            .send(),
    );
    under_way(pid, 1).await;
    let began = Instant::now();
    assert_eq!(app.terminate().code(), Some(0));
    // The calls get three seconds, and the server two more.
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    assert!(!is_alive(pid));
    calling.abort();
}

/// Starts the program after a line of shell. Its log goes into a pipe.
fn start_by_hand(dir: &Path, line: &str) -> (Child, String, BufReader<ChildStderr>) {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{line} exec \"$0\" serve"), binary()])
        .current_dir(dir)
        .env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
        .env("DATA_DIR", dir.join("data"))
        .env("PORT", "0")
        .env("LOG_FORMAT", "json");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let address = log.by_ref().lines().map_while(Result::ok).find_map(|line| {
        let event: Value = serde_json::from_str(&line).ok()?;
        event["addr"].as_str().map(str::to_owned)
    });
    (
        child,
        format!("http://{}", address.expect("it listens")),
        log,
    )
}

async fn end(mut child: Child) {
    signal(child.id(), "TERM");
    let ended = tokio::task::spawn_blocking(move || child.wait().expect("its end"))
        .await
        .expect("its end");
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn calls_work_if_no_process_reads_the_log() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let (child, url, log) = start_by_hand(dir.path(), "");
    drop(log);
    let http = reqwest::Client::new();
    let body =
        json!({ "name": "fixture", "command": python(), "args": ["-u", fixture("server.py")] });
    answer(http.post(format!("{url}/mcp/servers")).json(&body))
        .await
        .ok();
    let body = json!({ "serverName": "fixture", "methodName": "echo", "args": { "message": "still here" } });
    let said = answer(http.post(format!("{url}/mcp/tool/call")).json(&body))
        .await
        .ok();
    assert_eq!(said["data"]["content"], "still here");
    drop(http);
    end(child).await;
}

#[tokio::test]
async fn the_program_raises_its_limit_of_open_files() {
    let dir = tempfile::TempDir::new().expect("a folder");
    let (child, _, _log) = start_by_hand(dir.path(), "ulimit -Sn 256;");
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).expect("its limits");
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .expect("a limit");
    let (soft, hard) = line.trim().split_once(' ').expect("two limits");
    let hard = hard
        .split_whitespace()
        .next()
        .and_then(|hard| hard.parse().ok())
        .unwrap_or(u64::MAX);
    assert_eq!(soft.parse(), Ok(hard.min(65_536)));
    end(child).await;
}

#[tokio::test]
async fn an_unfinished_request_does_not_delay_the_end() {
    use tokio::io::AsyncWriteExt;
    let mut app = App::embedded();
    let address = app.url.strip_prefix("http://").expect("a URL").to_owned();
    let mut half = tokio::net::TcpStream::connect(address)
        .await
        .expect("connected");
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
        .await
        .expect("sent");
    app.get("/healthz").await.ok();
    let began = Instant::now();
    assert!(app.terminate().success());
    // DRAIN_TIMEOUT is thirty seconds.
    assert!(
        began.elapsed() < Duration::from_secs(28),
        "{:?}",
        began.elapsed()
    );
}
