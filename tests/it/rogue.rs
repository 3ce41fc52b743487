//! Servers that misbehave: each gives one clear error, and no other server is affected.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, App};
use crate::processes::is_alive;

/// The longest time for a call that no other call delays, on a busy machine.
const QUICK: Duration = Duration::from_secs(15);

/// Starts a server that will misbehave, and a correct one.
async fn two() -> App {
    let app = App::start();
    let (rogue, good) = tokio::join!(app.register_fixture("rogue"), app.register_fixture("good"));
    rogue.ok();
    good.ok();
    app
}

async fn quick(app: &App, user: &str, server: &str) {
    let began = Instant::now();
    let answer = app
        .call(user, server, "echo", json!({ "message": user }))
        .await
        .ok();
    assert_eq!(answer["data"]["content"], user);
    assert!(
        began.elapsed() < QUICK,
        "{server} kept {user} waiting: {:?}",
        began.elapsed()
    );
}

/// Calls the rogue while other users call the correct server, and the rogue itself with `same_server`.
async fn among_others(app: &App, tool: &str, args: Value, same_server: bool) -> Answer {
    let body =
        json!({ "serverName": "rogue", "methodName": tool, "args": args, "timeoutMs": 20_000 });
    let others = async {
        for _ in 0..10 {
            quick(app, "ana", "good").await;
            if same_server {
                quick(app, "ben", "rogue").await;
            }
        }
    };
    tokio::join!(app.post("/mcp/tool/call", body), others).0
}

#[tokio::test]
async fn text_between_messages_is_logged() {
    let app = two().await;
    let answer = among_others(&app, "rubbish", json!({}), true).await.ok();
    assert_eq!(answer["data"]["content"], "after rubbish");
    let logs = app.server("rogue").await["logs"].to_string();
    assert!(
        logs.contains("this is not JSON") && logs.contains("no JSON-RPC message"),
        "{logs}"
    );
    assert_eq!(
        app.server("good").await["logs"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn a_reply_to_another_request_is_dropped() {
    let app = two().await;
    let answer = among_others(&app, "wrong_id", json!({}), true).await.ok();
    assert_eq!(answer["data"]["content"], "mine");
    let body = json!({ "serverName": "rogue", "methodName": "wrong_id", "args": { "never": true }, "timeoutMs": 300 });
    app.post("/mcp/tool/call", body).await.fails(504, "timeout");
    quick(&app, "ben", "rogue").await;
}

#[tokio::test]
async fn a_line_above_the_limit_fails_one_call() {
    let app = two().await;
    let pid = app.pid_of("rogue").await;
    for dense in [false, true] {
        // The pipe carries one line at a time, so other calls of this server wait for the long line.
        let refused = among_others(&app, "long_line", json!({ "dense": dense }), false).await;
        assert!(
            refused
                .fails(502, "result_too_large")
                .contains("RESULT_LIMIT"),
            "dense: {dense}"
        );
        quick(&app, "ben", "rogue").await;
    }
    assert_eq!(app.pid_of("rogue").await, pid, "nothing was restarted");
}

#[tokio::test]
async fn a_call_without_a_reply_delays_no_other_call() {
    let app = two().await;
    let body =
        json!({ "serverName": "rogue", "methodName": "never", "args": {}, "timeoutMs": 2000 });
    let (late, ()) = tokio::join!(app.post("/mcp/tool/call", body), async {
        for _ in 0..10 {
            quick(&app, "ana", "good").await;
            quick(&app, "ben", "rogue").await;
        }
    });
    assert_eq!(late.body["mayHaveRun"], true);
    late.fails(504, "timeout");
}

#[tokio::test]
async fn a_crash_during_a_call_is_reported_with_the_last_lines() {
    let app = two().await;
    for (args, reason) in [
        (json!({ "code": 3 }), "code 3"),
        (json!({ "signal": 11 }), "signal 11"),
    ] {
        let refused = among_others(&app, "crash", args, false).await;
        assert_eq!(
            (&refused.body["mayHaveRun"], &refused.body["details"]),
            (&json!(true), &json!("about to crash"))
        );
        refused.fails(502, "upstream_error");
        // The pipe ends a moment before the process, and the reason follows.
        let is_reported = |server: &Value| server["logs"].to_string().contains(reason);
        app.until("/mcp/servers/rogue", |body| {
            body["server"]["status"] == "connected" && is_reported(&body["server"])
        })
        .await;
        quick(&app, "ben", "rogue").await;
    }
}

#[tokio::test]
async fn the_details_of_a_failure_begin_with_its_call() {
    let app = two().await;
    let line = json!({ "text": "a line of ben" });
    app.call("ben", "rogue", "stderr", line).await.ok();
    app.until("/mcp/servers/rogue", |body| {
        body["server"]["logs"].to_string().contains("a line of ben")
    })
    .await;
    let failed = app.call("ana", "rogue", "crash", json!({})).await;
    assert_eq!(failed.body["details"], "about to crash");
    failed.fails(502, "upstream_error");
}

#[tokio::test]
async fn a_server_that_closes_its_output_is_restarted() {
    let app = two().await;
    let pid = app.pid_of("rogue").await;
    let refused = among_others(&app, "close_output", json!({}), false).await;
    refused.fails(502, "upstream_error");
    assert_ne!(app.pid_of("rogue").await, pid);
    assert!(
        !is_alive(pid),
        "the old process is gone before there is a new one"
    );
}

#[tokio::test]
async fn a_process_that_the_server_started_ends_with_it() {
    let app = two().await;
    let forgotten: u32 = app
        .text("rogue", "fork", json!({}))
        .await
        .parse()
        .expect("a pid");
    quick(&app, "ben", "rogue").await;
    assert!(is_alive(forgotten), "it may live as long as its server");
    app.put("/mcp/servers/rogue/disable", json!({})).await.ok();
    assert!(!is_alive(forgotten));
}

#[tokio::test]
async fn a_flood_on_standard_error_is_slowed_down() {
    let app = two().await;
    let answer = among_others(&app, "flood", json!({ "lines": 3000 }), true)
        .await
        .ok();
    assert_eq!(answer["data"]["content"], "flooded");
    let logs = app.server("rogue").await["logs"].clone();
    assert!(
        logs.as_array().is_some_and(|lines| lines.len() <= 200),
        "the ring is bounded"
    );
    app.text("rogue", "stderr", json!({ "text": "after the flood" }))
        .await;
    app.until("/mcp/servers/rogue", |body| {
        body["server"]["logs"]
            .to_string()
            .contains("after the flood")
    })
    .await;
}

#[tokio::test]
async fn a_server_that_stops_reading_times_out_and_can_be_restarted() {
    let app = two().await;
    app.text("rogue", "stop_reading", json!({})).await;
    let large = "x".repeat(1 << 20);
    let body = json!({ "serverName": "rogue", "methodName": "echo", "args": { "message": large }, "timeoutMs": 1500 });
    let stuck = (0..20).map(|_| app.post("/mcp/tool/call", body.clone()));
    let (late, ()) = tokio::join!(futures::future::join_all(stuck), async {
        for _ in 0..10 {
            quick(&app, "ana", "good").await;
        }
    });
    late.into_iter()
        .for_each(|answer| drop(answer.fails(504, "timeout")));
    app.put("/mcp/servers/rogue/enable", json!({})).await.ok();
    quick(&app, "ben", "rogue").await;
}

#[tokio::test]
async fn a_server_that_sends_many_requests_delays_no_call() {
    let app = two().await;
    let answer = among_others(&app, "ask_roots", json!({ "times": 5000 }), true)
        .await
        .ok();
    assert_eq!(answer["data"]["content"], "asked");
    quick(&app, "ben", "rogue").await;
}

#[tokio::test]
async fn a_refused_tool_list_changes_nothing() {
    let app = two().await;
    let tools = app.get("/mcp/tools").await.ok();
    app.text("rogue", "refuse_list", json!({ "text": "not today" }))
        .await;
    app.until("/mcp/servers/rogue", |body| {
        body["server"]["logs"].to_string().contains("not today")
    })
    .await;
    assert_eq!(app.get("/mcp/tools").await.ok()["tools"], tools["tools"]);
    quick(&app, "ben", "rogue").await;
}

#[tokio::test]
async fn an_unreadable_reply_fails_its_call_at_once() {
    let app = two().await;
    let began = Instant::now();
    for reply in [
        r#"{"jsonrpc":"2.0","id":"ID","result":{"content":[],"structuredContent":{"x":NaN}}}"#,
        "{\"jsonrpc\": \"2.0\", \"id\": \"ID\", \"result\": {\"content\": [{\"type\": \"text\", \"text\": \"\u{ff}\"}]}}",
        r#"{"result":{"content":[]},"id":"ID","id":"ID"}"#,
    ] {
        let answer = app
            .call("ana", "rogue", "unreadable", json!({ "line": reply }))
            .await;
        assert_eq!(answer.body["mayHaveRun"], true);
        answer.fails(502, "upstream_error");
    }
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "it was waited for: {:?}",
        began.elapsed()
    );
    // A line that repeats the request is no reply.
    for printed in [
        r#"got {"id":"ID","result":1"#,
        r#"{"id":"ID","method":"tools/call","params":{"result":NaN}}"#,
    ] {
        let answer = app
            .call(
                "ana",
                "rogue",
                "unreadable",
                json!({ "line": printed, "answer": true }),
            )
            .await
            .ok();
        assert_eq!(answer["data"]["content"], "after it");
    }
}

#[tokio::test]
async fn a_server_that_closes_its_input_is_restarted() {
    let app = two().await;
    let pid = app.pid_of("rogue").await;
    app.call("ana", "rogue", "close_input", json!({}))
        .await
        .ok();
    // The server reads the first call without a reply, and the second call cannot be written.
    for _ in 0..2 {
        let echo =
            json!({ "serverName": "rogue", "methodName": "echo", "args": {}, "timeoutMs": 500 });
        assert_ne!(app.post("/mcp/tool/call", echo).await.status, 200);
    }
    assert_ne!(app.pid_of("rogue").await, pid, "it was started again");
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn endless_requests_of_a_server_use_no_memory() {
    let app = two().await;
    let before = memory(app.pid());
    let args = json!({ "times": 20_000, "size": 4000 });
    app.call("ana", "rogue", "ask_deaf", args).await.ok();
    let grown = memory(app.pid()).saturating_sub(before);
    assert!(grown < 50 << 10, "80 MB of requests used {grown} kB");
    quick(&app, "ben", "good").await;
}

/// Returns the resident memory of a process in kilobytes.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let size = status
        .lines()
        .find_map(|text| text.strip_prefix("VmRSS:"))
        .expect("a figure");
    size.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn all_pages_of_a_tool_list_have_one_limit() {
    let app = App::start_with(&[("RESULT_LIMIT", "64kb")]);
    app.register_fixture("rogue").await.ok();
    for n in 0..30 {
        app.call(
            "ana",
            "rogue",
            "add_tool",
            json!({ "name": format!("{n}{}", "x".repeat(4000)) }),
        )
        .await
        .ok();
    }
    let large = |body: &Value| {
        body["server"]["logs"]
            .to_string()
            .contains("larger than RESULT_LIMIT")
    };
    app.until("/mcp/servers/rogue", large).await;
    quick(&app, "ben", "rogue").await;
}
