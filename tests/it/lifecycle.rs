//! The lifecycle of servers and their processes: start, stop, crash, permits, and isolation of processes.

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
    // The grandchild has left the process group and the session.
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
async fn a_crash_ends_the_grandchildren_too() {
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
async fn a_stopped_program_loses_its_children_and_recovers() {
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
    // The call takes three times the lease.
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

#[tokio::test]
async fn calls_to_a_killed_server_fail_and_the_next_do_not() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.text(
        "fixture",
        "stderr",
        json!({ "text": "a line of an earlier call" }),
    )
    .await;
    let pid = app.idle("fixture").await;
    let sleeping =
        (0..10).map(|_| app.call("default", "fixture", "sleep", json!({ "ms": 20_000 })));
    let (failed, ()) = tokio::join!(futures::future::join_all(sleeping), async {
        under_way(pid, 10).await;
        app.text("fixture", "stderr", json!({ "text": "before the end" }))
            .await;
        signal(pid, "KILL");
    });
    for answer in failed {
        assert_eq!(answer.body["mayHaveRun"], true);
        let details = answer.body["details"].as_str().expect("details");
        assert!(details.contains("before the end"), "{details}");
        assert!(!details.contains("an earlier call"), "{details}");
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
        logs.contains("an earlier call") && logs.contains("killed by signal 9"),
        "{logs}"
    );
}

/// The times of the starts that failed, in milliseconds since 1970.
async fn failed_starts(app: &App, server: &str) -> Vec<u64> {
    let shown = app.server(server).await;
    let logs = shown["logs"].as_array().into_iter().flatten();
    let failed = logs.filter(|line| {
        let text = line["text"].as_str();
        text.is_some_and(|text| text.starts_with("could not be started"))
    });
    failed.filter_map(|line| line["at"].as_u64()).collect()
}

#[tokio::test]
async fn changes_of_other_servers_do_not_restart_a_broken_server() {
    let app = App::embedded();
    app.register("broken", json!({ "command": "/nowhere" }))
        .await
        .ok();
    let before = failed_starts(&app, "broken").await.len();
    let start = Instant::now();
    for number in 0..30 {
        app.register(&format!("other-{number}"), json!({ "enabled": false }))
            .await
            .ok();
    }
    // The pauses are half a second, a second and so on, each up to twice as long.
    let allowed = (start.elapsed().as_secs_f64() / 0.5 + 2.0).log2().ceil() as usize;
    let starts = failed_starts(&app, "broken").await.len() - before;
    assert!(starts <= allowed, "{starts} starts, not {allowed}");
    let starts = failed_starts(&app, "broken").await.len();
    app.put("/mcp/servers/broken/enable", json!({})).await.ok();
    assert!(failed_starts(&app, "broken").await.len() > starts);
}

#[tokio::test]
async fn many_enables_of_a_slow_server_leave_room_for_changes() {
    let app = App::embedded();
    let slow =
        json!({ "env": { "FIXTURE_START": "silent" }, "startupTimeout": 20_000, "enabled": false });
    app.register("slow", slow).await.ok();
    app.register("other", json!({ "enabled": false }))
        .await
        .ok();
    let enable = || {
        let enable = app.http.put(format!("{}/mcp/servers/slow/enable", app.url));
        tokio::spawn(enable.json(&json!({})).send())
    };
    let enables: Vec<_> = (0..300).map(|_| enable()).collect();
    wait_until("the server starts", async || {
        app.server("slow").await["status"] == "connecting"
    })
    .await;
    for number in 0..10 {
        let timeout = json!({ "toolTimeout": 1000 + number });
        app.put("/mcp/servers/other", timeout).await.ok();
    }
    app.put("/mcp/servers/slow/disable", json!({})).await.ok();
    for enable in enables {
        let response = enable.await.expect("a task").expect("a response");
        assert_eq!(response.status(), 200);
    }
    let events = app.get("/events?limit=1000").await.ok();
    let events = events["events"].as_array().expect("events");
    let enabled = events
        .iter()
        .filter(|event| event["type"] == "server.enabled");
    assert!(enabled.count() < 300, "later enables join the first start");
}

#[tokio::test]
async fn hung_servers_leave_permits_for_other_servers() {
    let app = App::embedded_with(&[("MAX_CALLS", "32"), ("MAX_CALLS_PER_SERVER", "16")]);
    let hung = ["hung-1", "hung-2", "hung-3"];
    for server in hung {
        app.register_fixture(server).await.ok();
    }
    app.register_fixture("free").await.ok();
    app.pid_of("free").await;
    let mut calls = Vec::new();
    for server in hung {
        let pid = app.idle(server).await;
        let body = json!({ "serverName": server, "methodName": "sleep", "args": { "ms": 60_000 }, "timeoutMs": 60_000 });
        for _ in 0..16 {
            let call = app.http.post(format!("{}/mcp/tool/call", app.url));
            calls.push(tokio::spawn(call.json(&body).send()));
        }
        under_way(pid, 2).await;
    }
    app.call("default", "free", "echo", json!({ "message": "served" }))
        .await
        .ok();
    for call in calls {
        call.abort();
    }
}

#[tokio::test]
async fn a_failed_start_shows_the_first_lines_and_names_env() {
    let app = App::embedded();
    let script = "echo 'the first line' >&2; for i in $(seq 300); do echo \"at frame $i\" >&2; \
        if [ $i = 100 ]; then echo 'SHOP_API_KEY is required' >&2; fi; done; exit 1";
    let shell = json!({ "command": "sh", "args": ["-c", script] });
    let shown = app.register("shop", shell).await.ok();
    let error = shown["server"]["error"].as_str().expect("an error");
    assert!(
        error.contains("exited with code 1 before it answered"),
        "{error}"
    );
    assert!(error.contains("`env`"), "{error}");
    let details = shown["server"]["details"].as_str().expect("details");
    for line in ["the first line", "SHOP_API_KEY is required", "at frame 300"] {
        assert!(details.contains(line), "{line}: {details}");
    }
}

#[tokio::test]
async fn the_env_of_a_server_does_not_reach_its_guard() {
    let app = App::embedded_with(&[("SECRETS_KEY", "a passphrase")]);
    let env =
        json!({ "env": { "OWN": "1", "LD_PRELOAD": "/nowhere/own.so", "PATH": "/usr/bin:/bin" } });
    app.register("fixture", env).await.ok();
    let pid = app.pid_of("fixture").await;
    let environment =
        |pid: u32| fs::read_to_string(format!("/proc/{pid}/environ")).expect("variables");
    let child = environment(pid);
    assert!(
        child.contains("OWN=1") && child.contains("LD_PRELOAD="),
        "{child}"
    );
    let guard = environment(parent_of(pid));
    for name in ["OWN=", "LD_PRELOAD=", "SECRETS_KEY="] {
        assert!(!guard.contains(name), "{name} is in {guard}");
    }
}

#[tokio::test]
async fn a_stopped_guard_is_killed_with_all_that_its_child_has_started() {
    let app = App::embedded();
    app.register("stubborn", json!({ "env": { "FIXTURE_STOP": "never" } }))
        .await
        .ok();
    let pid = app.pid_of("stubborn").await;
    let grandchild: u32 = app
        .text("stubborn", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    signal(parent_of(pid), "STOP");
    app.delete("/mcp/servers/stubborn").await.ok();
    wait_until("the child and the grandchild ended", async || {
        !is_alive(pid) && !is_alive(grandchild)
    })
    .await;
    wait_until("no zombies", async || zombies_of(app.pid()).is_empty()).await;
}

#[tokio::test]
async fn a_chain_of_forks_ends_with_its_server() {
    let app = App::embedded();
    let mark = format!("chain-{}", app.pid());
    let file = app.dir.path().join(&mark);
    fs::write(&file, "sh \"$0\" &\n").expect("a script");
    app.register_fixture("fixture").await.ok();
    app.call(
        "default",
        "fixture",
        "run_detached",
        json!({ "script": file }),
    )
    .await
    .ok();
    let deleted = app.delete("/mcp/servers/fixture").await.ok();
    let is_running = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            .any(|line| String::from_utf8_lossy(&line).contains(&mark))
    };
    // A machine with cgroup v2 kills the chain at once. Elsewhere it may outrun the worker for a while.
    let is_named = deleted["processesLeft"].as_u64() > Some(0) && deleted["warning"].is_string();
    assert!(
        is_named || !is_running(),
        "the answer hides the chain: {deleted}"
    );
    wait_until("the chain ended", async || !is_running()).await;
    wait_until("no zombies", async || zombies_of(app.pid()).is_empty()).await;
}

#[tokio::test]
async fn one_tool_list_a_minute_is_recorded_and_the_live_list_is_shown() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    for number in 0..20 {
        let name = format!("newcomer-{number}");
        app.text("fixture", "add_tool", json!({ "name": name }))
            .await;
    }
    app.until("/mcp/servers/fixture", |body| {
        body["server"]["toolsList"]
            .to_string()
            .contains("newcomer-19")
    })
    .await;
    let events = app.get("/events?limit=1000").await.ok();
    let events = events["events"].as_array().expect("events").iter();
    let lists = events.filter(|event| event["type"] == "server.tools_discovered");
    assert_eq!(lists.count(), 2, "one of the start, one of the changes");
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
    // The first restart has no pause. The next pauses are half a second, a second and so on.
    let pauses: Vec<u64> = starts
        .iter()
        .skip(1)
        .zip(&ends)
        .map(|(start, end)| start - end)
        .collect();
    assert!(pauses[1] >= 500 && pauses[2] >= 1000, "{pauses:?}");
    // A client that disables the server does not wait for a pause.
    let asked = Instant::now();
    app.put("/mcp/servers/short/disable", json!({})).await.ok();
    assert!(
        asked.elapsed() < Duration::from_secs(25),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_killed_guard_ends_its_child_and_the_server_restarts() {
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
    // Before the program has noticed the end, a new call would count as started.
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
async fn a_server_cannot_read_or_signal_other_processes() {
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
        "a server may read its own environment"
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
async fn a_server_gets_its_env_and_the_passed_on_variables() {
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
    // Python sets LC_CTYPE itself.
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
async fn a_stop_closes_the_input_then_sends_sigterm_then_kills() {
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
