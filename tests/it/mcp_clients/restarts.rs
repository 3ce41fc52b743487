//! Kills of processes while clients have open calls and streams: every stream ends soon, no call runs twice, sessions go
//! on, and an answer says whether its call may have run.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{ADMIN, Deployment};
use crate::cluster::worker_of;
use crate::harness::{App, answer};
use crate::mcp_endpoint::client::{FIXTURE, McpClient, Messages, modern_body, result, text_of};
use crate::wait::wait_until;

/// The promise: all streams end within this time after a kill. The streams of a killed facade end with their connections,
/// at once. The calls of a killed worker end when the facade has heard nothing of the worker for 3 s; that needs 3.0 s here.
const STREAMS_END: Duration = Duration::from_secs(5);
/// The open calls of each kind that report nothing.
const CALLS: usize = 10;
/// The open streams of each kind: of sessions, of subscriptions, and of calls in each era.
const STREAMS: [usize; 3] = [5, 5, 20];
/// The streams of calls.
const CALL_STREAMS: usize = 2 * STREAMS[2];

/// Begins calls of a session and of the modern era. Each call writes its line first and then waits.
fn begin_calls(
    session: &McpClient,
    modern: &McpClient,
    path: &str,
) -> Vec<JoinHandle<Option<Value>>> {
    let call = |number: usize| {
        let arguments = json!({ "path": path, "line": number.to_string(), "ms": 120_000 });
        let params = json!({ "name": "note_slowly", "arguments": arguments });
        let request = if number.is_multiple_of(2) {
            let body = json!({
                "jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params,
            });
            session.request(Method::POST).json(&body)
        } else {
            modern.modern_request("tools/call", params)
        };
        tokio::spawn(async move { request.send().await.ok()?.json().await.ok() })
    };
    (0..2 * CALLS).map(call).collect()
}

/// Opens the streams of sessions and of subscriptions.
async fn open_subscriptions(client: &McpClient) -> Vec<Messages> {
    let listen = json!({ "notifications": { "toolsListChanged": true } });
    let mut streams = vec![];
    for _ in 0..STREAMS[0] {
        let (session, _) = client.initialize("2025-11-25").await;
        streams.push(Messages::open(session.request(Method::GET)).await);
    }
    for _ in 0..STREAMS[1] {
        let request = client.modern_request("subscriptions/listen", listen.clone());
        streams.push(Messages::open(request).await);
    }
    streams
}

/// Opens streams of calls in both eras. Each call writes its line first and then reports progress until it is cancelled.
async fn open_calls(session: &McpClient, modern: &McpClient, path: &str) -> Vec<Messages> {
    let open = async |number: usize| {
        let line = format!("stream {number}");
        let params = json!({
            "name": "note_and_report", "_meta": { "progressToken": "p" },
            "arguments": { "path": path, "line": line, "steps": 1_000_000, "ms": 200 },
        });
        let request = if number.is_multiple_of(2) {
            let body = json!({
                "jsonrpc": "2.0", "id": format!("stream {number}"), "method": "tools/call", "params": params,
            });
            session.request(Method::POST).json(&body)
        } else {
            modern.modern_request("tools/call", params)
        };
        let mut messages = Messages::open(request).await;
        messages.notification("notifications/progress").await;
        messages
    };
    join_all((0..CALL_STREAMS).map(open)).await
}

async fn read_to_end(mut stream: Messages) -> Option<Value> {
    let mut last = None;
    while let Some(message) = stream.next().await {
        last = Some(message);
    }
    last
}

fn lines(path: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The lines of all calls.
const LINES: usize = 2 * CALLS + CALL_STREAMS;

/// Waits until all calls have written their lines.
async fn all_noted(path: &str) {
    wait_until("all calls have begun", async || lines(path).len() == LINES).await;
}

/// Checks that each call has written its line once.
fn check_noted_once(path: &str) {
    let mut noted = lines(path);
    noted.dedup();
    assert_eq!((noted.len(), lines(path).len()), (LINES, LINES));
}

#[tokio::test]
async fn the_streams_of_a_killed_facade_end_and_its_sessions_go_on() {
    let Deployment { mut app, tokens } = Deployment::start().await;
    app.register_fixture("fixture").await.ok();
    let path = app.dir.path().join("notes").display().to_string();
    let modern = McpClient::new(&app, FIXTURE).token(&tokens[0]);
    let (session, _) = modern.initialize("2025-11-25").await;
    let calls = begin_calls(&session, &modern, &path);
    let mut streams = open_subscriptions(&modern).await;
    streams.extend(open_calls(&session, &modern, &path).await);
    assert_eq!(streams.len(), 50);
    all_noted(&path).await;

    app.processes[0].kill();
    let killed = Instant::now();
    let ends = join_all(streams.into_iter().map(read_to_end)).await;
    let answers = join_all(calls).await;
    let elapsed = killed.elapsed();
    assert!(elapsed < STREAMS_END, "{elapsed:?}");
    for answer in answers {
        assert_eq!(
            answer.expect("a call"),
            None,
            "a dead facade answers nothing"
        );
    }
    for end in ends {
        assert!(end.is_none_or(|last| last.get("result").is_none()));
    }

    let facade = if app.services.is_some() {
        let number = app.add("api");
        app.processes[number].url.clone()
    } else {
        app.restart();
        app.url.clone()
    };
    let again = session.moved(&format!("{facade}{FIXTURE}"));
    let list = result(again.legacy("tools/list", json!({})).await);
    assert!(
        list["tools"]
            .as_array()
            .is_some_and(|tools| !tools.is_empty())
    );
    let _stream = Messages::open(again.request(Method::GET)).await;
    let modern = modern.moved(&format!("{facade}{FIXTURE}"));
    for client in [&again, &modern] {
        let body = modern_body(
            1,
            "tools/call",
            json!({ "name": "echo", "arguments": { "message": "x" } }),
        );
        let request = client
            .request(Method::POST)
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "echo")
            .json(&body);
        assert_eq!(text_of(&result(answer(request).await)), "x");
    }
    check_noted_once(&path);
}

#[tokio::test]
async fn the_calls_of_a_killed_worker_may_have_run_and_run_once() {
    let app = App::distributed(2, &[("ADMIN_TOKEN", ADMIN)]);
    let Deployment { mut app, tokens } = Deployment::with_tokens(app).await;
    app.register_fixture("fixture").await.ok();
    let path = app.dir.path().join("notes").display().to_string();
    let worker = worker_of(&app, app.pid_of("fixture").await);
    let modern = McpClient::new(&app, FIXTURE).token(&tokens[0]);
    let (session, _) = modern.initialize("2025-11-25").await;
    let calls = begin_calls(&session, &modern, &path);
    let _subscriptions = open_subscriptions(&modern).await;
    let streams = open_calls(&session, &modern, &path).await;
    all_noted(&path).await;

    app.processes[worker].kill();
    let killed = Instant::now();
    let ends = join_all(streams.into_iter().map(read_to_end)).await;
    let answers = join_all(calls).await;
    let elapsed = killed.elapsed();
    eprintln!("all calls ended {elapsed:?} after the kill");
    check_noted_once(&path);
    assert!(elapsed < STREAMS_END, "{elapsed:?}");
    let answers = answers.into_iter().map(|answer| answer.expect("a call"));
    for message in answers.chain(ends) {
        let message = message.expect("an answer");
        let failure = &message["result"]["_meta"]["mcp-api/failure"];
        assert_eq!(message["result"]["isError"], true, "{message}");
        assert_eq!(failure["mayHaveRun"], true, "{message}");
    }

    // The session goes on as soon as another worker runs the server.
    wait_until("another worker runs the server", async || {
        let echoed = session.call_legacy("echo", json!({ "message": "x" })).await;
        echoed["isError"] != true && text_of(&echoed) == "x"
    })
    .await;
    check_noted_once(&path);
}
