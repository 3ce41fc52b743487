//! Processes: how they end, who outlives whom, and what one may see of another.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, answer, fixture, python};
use crate::process::binary;
use crate::processes::{
    assert_no_process_left, is_alive, parent_of, signal, under_way, zombies_of,
};
use crate::wait::wait_until;

#[tokio::test]
async fn nothing_outlives_a_killed_program() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let server = app.pid_of("fixture").await;
    // It has left the process group and the session; only its ancestors know of it.
    let grandchild: u32 = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    assert!(is_alive(server) && is_alive(grandchild));
    app.kill();
    wait_until("all ended", async || {
        !is_alive(server) && !is_alive(grandchild)
    })
    .await;
    assert_no_process_left(app.dir.path());
}

#[tokio::test]
async fn a_crash_takes_the_grandchildren_along() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let grandchild: u32 = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    app.call("default", "fixture", "crash", json!({}))
        .await
        .fails(502, "upstream_error");
    wait_until("the grandchild ended", async || !is_alive(grandchild)).await;
    app.pid_of("fixture").await;
}

#[tokio::test]
async fn a_program_that_stands_still_loses_its_children_and_heals() {
    let app = App::embedded_with(&[("LEASE_TTL", "2s")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let grandchild: u32 = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    signal(app.pid(), "STOP");
    wait_until("the children ended", async || {
        !is_alive(pid) && !is_alive(grandchild)
    })
    .await;
    signal(app.pid(), "CONT");
    let noticed =
        |logs: String| logs.contains("ended:") || logs.contains("the lease could not be renewed");
    app.until("/mcp/servers/fixture", |body| {
        noticed(body["server"]["logs"].to_string())
    })
    .await;
    assert_eq!(
        app.text("fixture", "echo", json!({ "message": "healed" }))
            .await,
        "healed"
    );
    assert_ne!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn leases_are_renewed_while_all_is_well() {
    let app = App::embedded_with(&[("LEASE_TTL", "1s")]);
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    // Busy for three times the lease, and idle for none of it.
    app.call("default", "fixture", "sleep", json!({ "ms": 3000 }))
        .await
        .ok();
    assert_eq!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn sigterm_lets_a_running_call_finish() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let pid = app.idle("fixture").await;
    // Somebody who has connected and says nothing holds nobody up.
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
    // Three seconds for calls, two for what the server still does; its end comes with its input's.
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}",
        began.elapsed()
    );
    assert!(!is_alive(pid));
    calling.abort();
}

#[tokio::test]
async fn calls_to_a_killed_server_fail_and_the_next_do_not() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.text("fixture", "stderr", json!({ "text": "before the end" }))
        .await;
    let pid = app.idle("fixture").await;
    let sleeping =
        (0..10).map(|_| app.call("default", "fixture", "sleep", json!({ "ms": 20_000 })));
    let (failed, ()) = tokio::join!(futures::future::join_all(sleeping), async {
        under_way(pid, 10).await;
        signal(pid, "KILL");
    });
    for answer in failed {
        assert_eq!(answer.body["mayHaveRun"], true);
        assert!(
            answer.body["details"]
                .as_str()
                .is_some_and(|details| details.contains("before the end"))
        );
        assert!(
            answer
                .fails(502, "upstream_error")
                .contains("ended before it answered")
        );
    }
    let began = Instant::now();
    assert_ne!(app.pid_of("fixture").await, pid);
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        app.metric("mcp_api_server_restarts_total", &[("server", "fixture")])
            .await,
        Some(1.0)
    );
    let logs = app.server("fixture").await["logs"].to_string();
    assert!(
        logs.contains("before the end") && logs.contains("killed by signal 9"),
        "{logs}"
    );
}

#[tokio::test]
async fn a_crash_loop_backs_off() {
    let app = App::embedded();
    let short = json!({ "env": { "FIXTURE_START": "short" } });
    let times = |body: &Value, what: &str| -> Vec<u64> {
        let logs = body["server"]["logs"].as_array().into_iter().flatten();
        let lines = logs.filter(|line| {
            line["text"]
                .as_str()
                .is_some_and(|text| text.starts_with(what))
        });
        lines.filter_map(|line| line["at"].as_u64()).collect()
    };
    let (_, body) = tokio::join!(
        app.register("short", short),
        app.until("/mcp/servers/short", |body| times(body, "connected").len()
            >= 4)
    );
    let (starts, ends) = (
        times(&body, "connected"),
        times(&body, "ended: it exited with code 5"),
    );
    // The first end may be an accident. From then on half a second, a second and so on lie in between.
    let pauses: Vec<u64> = starts
        .iter()
        .skip(1)
        .zip(&ends)
        .map(|(start, end)| start - end)
        .collect();
    assert!(pauses[1] >= 500 && pauses[2] >= 1000, "{pauses:?}");
    // Somebody who wants it to stop does not wait for a pause.
    let asked = Instant::now();
    app.put("/mcp/servers/short/disable", json!({})).await.ok();
    assert!(
        asked.elapsed() < Duration::from_secs(25),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_killed_guard_takes_its_child_along_and_the_server_comes_back() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let grandchild = app
        .text("fixture", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    signal(parent_of(pid), "KILL");
    wait_until("the child ended", async || !is_alive(pid)).await;
    wait_until(
        "the grandchild ended, though it had left the group",
        async || !is_alive(grandchild),
    )
    .await;
    // Until the program has seen it too, a call would be one in flight.
    let noticed =
        |logs: String| logs.contains("ended:") || logs.contains("the lease could not be renewed");
    app.until("/mcp/servers/fixture", |body| {
        noticed(body["server"]["logs"].to_string())
    })
    .await;
    assert_ne!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn no_zombie_is_left() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.text("fixture", "fork", json!({})).await;
    app.call("default", "fixture", "crash", json!({}))
        .await
        .fails(502, "upstream_error");
    signal(parent_of(app.pid_of("fixture").await), "KILL");
    app.register("broken", json!({ "command": "/nowhere" }))
        .await
        .ok();
    app.register(
        "silent",
        json!({ "env": { "FIXTURE_START": "silent" }, "startupTimeout": 200 }),
    )
    .await
    .ok();
    app.put("/mcp/servers/fixture/enable", json!({})).await.ok();
    app.delete("/mcp/servers/silent").await.ok();
    app.put("/mcp/servers/broken/disable", json!({})).await.ok();
    wait_until("no zombies", async || zombies_of(app.pid()).is_empty()).await;
}

#[tokio::test]
async fn a_server_sees_nothing_of_other_processes() {
    let app = App::embedded();
    app.register_fixture("spy").await.ok();
    app.register_fixture("other").await.ok();
    let (spy, other) = (app.pid_of("spy").await, app.pid_of("other").await);
    let read = async |path: String| app.text("spy", "read_file", json!({ "path": path })).await;
    let kill = async |pid: u32| {
        app.text("spy", "kill_process", json!({ "pid": pid, "signal": 0 }))
            .await
    };
    assert!(
        read(format!("/proc/{spy}/environ"))
            .await
            .starts_with("read "),
        "its own it may read"
    );
    assert_eq!(kill(spy).await, "sent");
    for pid in [app.pid(), other, parent_of(other), parent_of(spy)] {
        for file in ["environ", "mem", "fd/0"] {
            assert_eq!(
                read(format!("/proc/{pid}/{file}")).await,
                "refused: Permission denied",
                "{file} of {pid}"
            );
        }
        assert_eq!(kill(pid).await, "refused: Operation not permitted", "{pid}");
    }
}

#[tokio::test]
async fn a_server_has_its_own_environment_and_little_of_the_hosts() {
    let planted = [
        ("PLANTED", "for nobody"),
        ("SECRETS_KEY", "a passphrase"),
        ("HTTPS_PROXY", "http://proxy.test:1"),
        ("ADMIN_TOKEN", ""),
    ];
    let app = App::embedded_with(&planted);
    app.register("fixture", json!({ "env": { "OWN": "1", "LANG": "xx" } }))
        .await
        .ok();
    let seen: Value =
        serde_json::from_str(&app.text("fixture", "environment", json!({})).await).expect("JSON");
    let passed_on = [
        "PATH",
        "HOME",
        "USER",
        "LANG",
        "TMPDIR",
        "HTTPS_PROXY",
        "OWN",
        "LC_CTYPE",
    ];
    // LC_CTYPE is Python's own doing.
    for name in seen.as_object().expect("variables").keys() {
        assert!(
            passed_on.contains(&name.as_str()),
            "{name} reached the server"
        );
    }
    assert_eq!((&seen["OWN"], &seen["LANG"]), (&json!("1"), &json!("xx")));
    assert_eq!(seen["HTTPS_PROXY"], "http://proxy.test:1");
    assert_eq!(
        seen["PATH"].as_str().map(str::to_owned),
        std::env::var("PATH").ok()
    );
}

#[tokio::test]
async fn stopping_is_asked_for_then_demanded_then_done() {
    let app = App::embedded();
    let diary = app.dir.path().join("diary");
    let entries = || -> Vec<(String, u64)> {
        let text = fs::read_to_string(&diary).unwrap_or_default();
        let entry = |line: &str| {
            line.rsplit_once(' ')
                .map(|(what, at)| (what.to_owned(), at.parse().expect("a time")))
        };
        text.lines().filter_map(entry).collect()
    };
    app.register("good", json!({ "env": { "FIXTURE_DIARY": diary } }))
        .await
        .ok();
    app.delete("/mcp/servers/good").await.ok();
    assert_eq!(
        entries()
            .iter()
            .map(|(what, _)| what.as_str())
            .collect::<Vec<_>>(),
        ["end of input"]
    );
    fs::remove_file(&diary).expect("removed");

    app.register(
        "stubborn",
        json!({ "env": { "FIXTURE_DIARY": diary, "FIXTURE_STOP": "never" } }),
    )
    .await
    .ok();
    let pid = app.pid_of("stubborn").await;
    let began = Instant::now();
    let answer = app
        .put("/mcp/servers/stubborn/disable", json!({}))
        .await
        .ok();
    assert_eq!(answer["server"]["status"], "disconnected");
    assert!(!is_alive(pid));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(7) && took < Duration::from_secs(45),
        "two seconds and five: {took:?}"
    );
    let entries = entries();
    assert_eq!(
        entries
            .iter()
            .map(|(what, _)| what.as_str())
            .collect::<Vec<_>>(),
        ["end of input", "SIGTERM"]
    );
    assert!(
        entries[1].1 - entries[0].1 >= 1900,
        "SIGTERM comes two seconds after: {entries:?}"
    );
}

/// Starts the program with its log on a pipe, after a line of shell.
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
async fn calls_are_answered_when_no_process_reads_the_log_output() {
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
async fn as_many_files_as_the_system_allows() {
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
async fn half_a_request_does_not_hold_up_the_end() {
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
