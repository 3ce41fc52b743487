//! Servers that crash, fail to start or hang, and the leases and permits of the other servers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::App;
use crate::processes::{signal, under_way};
use crate::wait::wait_until;

#[tokio::test]
async fn a_lease_is_renewed_during_a_long_call() {
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
async fn calls_to_a_killed_server_fail_and_the_next_calls_succeed() {
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
async fn few_tool_lists_of_many_are_recorded_and_the_live_list_is_shown() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    for number in 0..20 {
        let name = format!("newcomer-{number}");
        app.text("fixture", "add_tool", json!({ "name": name }))
            .await;
        // Each change is read on its own, because changes in quick succession may be read as one.
        app.until("/mcp/servers/fixture", |body| {
            body["server"]["toolsList"].to_string().contains(&name)
        })
        .await;
    }
    let events = app.get("/events?limit=1000").await.ok();
    let events = events["events"].as_array().expect("events").iter();
    let lists = events.filter(|event| event["type"] == "server.tools_discovered");
    let count = lists.count();
    assert!(
        (2..=6).contains(&count),
        "one of the start, and five of the changes at most: {count}"
    );
}

#[tokio::test]
async fn a_crash_loop_backs_off() {
    let app = App::embedded();
    let short = json!({ "env": { "FIXTURE_START": "short" } });
    let times = |body: &Value, start: &str| -> Vec<u64> {
        let logs = body["server"]["logs"].as_array().into_iter().flatten();
        let lines = logs.filter(|line| {
            line["text"]
                .as_str()
                .is_some_and(|text| text.starts_with(start))
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
