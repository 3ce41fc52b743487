//! Kills of processes while clients have open calls and streams: every stream ends soon, no call runs twice, sessions go
//! on, and an answer says whether its call may have run.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::worker_of;
use crate::harness::{App, answer};
use crate::mcp_endpoint::client::{FIXTURE, McpClient, Messages, modern_body, result, text_of};
use crate::wait::wait_until;

/// Streams of a killed facade end with their connections, at once.
const STREAMS_END: Duration = Duration::from_secs(5);
/// A facade notices the silence of a killed worker after 3 s.
const WORKER_LOST: Duration = Duration::from_secs(15);
/// The open calls of each kind.
const CALLS: usize = 10;

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

/// Opens streams of all kinds: of a session, of a subscription, and of calls with progress.
async fn open_streams(session: &McpClient, modern: &McpClient) -> Vec<Messages> {
    let listen = json!({ "notifications": { "toolsListChanged": true } });
    let mut streams = vec![
        Messages::open(session.request(Method::GET)).await,
        Messages::open(modern.modern_request("subscriptions/listen", listen)).await,
    ];
    for _ in 0..3 {
        let params = json!({
            "name": "progress", "arguments": { "steps": 1_000_000, "ms": 20 },
            "_meta": { "progressToken": "p" },
        });
        streams.push(Messages::open(modern.modern_request("tools/call", params)).await);
    }
    streams
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

/// Waits until all calls have written their lines.
async fn all_noted(path: &str) {
    wait_until("all calls have begun", async || {
        lines(path).len() == 2 * CALLS
    })
    .await;
}

/// Checks that each call has written its line once.
fn check_noted_once(path: &str) {
    let mut noted = lines(path);
    noted.dedup();
    assert_eq!((noted.len(), lines(path).len()), (2 * CALLS, 2 * CALLS));
}

#[tokio::test]
async fn the_streams_of_a_killed_facade_end_and_its_sessions_go_on() {
    let mut app = App::start();
    app.register_fixture("fixture").await.ok();
    let path = app.dir.path().join("notes").display().to_string();
    let (session, _) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
    let modern = McpClient::new(&app, FIXTURE);
    let calls = begin_calls(&session, &modern, &path);
    all_noted(&path).await;
    let streams = open_streams(&session, &modern).await;

    app.processes[0].kill();
    let killed = Instant::now();
    let ends = join_all(streams.into_iter().map(read_to_end)).await;
    let answers = join_all(calls).await;
    assert!(killed.elapsed() < STREAMS_END, "{:?}", killed.elapsed());
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
    let mut app = App::distributed(2, &[]);
    app.register_fixture("fixture").await.ok();
    let path = app.dir.path().join("notes").display().to_string();
    let worker = worker_of(&app, app.pid_of("fixture").await);
    let (session, _) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
    let modern = McpClient::new(&app, FIXTURE);
    let calls = begin_calls(&session, &modern, &path);
    all_noted(&path).await;
    let mut streams = open_streams(&session, &modern).await;
    let _subscriptions: Vec<_> = streams.drain(..2).collect();

    app.processes[worker].kill();
    let killed = Instant::now();
    let ends = join_all(streams.into_iter().map(read_to_end)).await;
    let answers = join_all(calls).await;
    eprintln!("all calls ended {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() < WORKER_LOST, "{:?}", killed.elapsed());
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
