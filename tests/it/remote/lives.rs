//! Sessions and protocol modes: the program detects, stores and resumes them, and replaces a lost session.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures::future::join_all;
use serde_json::json;

use super::script::{Script, cut_off, result_of, session_of, stream, text};
use super::{Kind, Real, connected, eras, register};
use crate::harness::App;
use crate::wait::wait_until;

const STREAMABLE: Kind = Kind::Everything("streamableHttp", "/mcp");

async fn echo(app: &App, server: &str, message: &str) -> String {
    app.text(server, "echo", json!({ "message": message }))
        .await
}

#[tokio::test]
async fn a_real_server_is_called_with_secrets_and_its_session_outlives_a_kill() {
    let mut app = App::start();
    let everything = Real::start(STREAMABLE).await;
    let server = connected(&app, "everything", &everything.url()).await;
    let session = server["sessionId"].as_str().expect("a session").to_owned();
    assert_eq!(server["url"], everything.url());
    assert!(
        server["toolsList"].as_array().expect("tools").len() > 5,
        "{server}"
    );
    app.set_secret("ana", "everything", "message", "ana's own")
        .await;
    let answer = app
        .call("ana", "everything", "echo", json!({ "message": "x" }))
        .await
        .ok();
    assert_eq!(answer["data"]["content"], "Echo: ana's own");
    assert_eq!(eras(&app).await, ["session"]);
    assert_eq!(
        app.metric("mcp_api_children_alive", &[]).await,
        Some(0.0),
        "it is no child of ours"
    );

    app.kill_and_restart();
    assert_eq!(echo(&app, "everything", "again").await, "Echo: again");
    let server = app.server("everything").await;
    assert_eq!(server["sessionId"], session.as_str(), "{server}");
    assert!(server["logs"].to_string().contains("resumed"), "{server}");
    let opened = app
        .happened()
        .await
        .iter()
        .filter(|line| line.starts_with("server.session_opened"))
        .count();
    assert_eq!(opened, 1, "a session was opened again");
    for file in std::fs::read_dir(app.data())
        .into_iter()
        .flatten()
        .flatten()
    {
        let bytes = std::fs::read(file.path()).expect("a file");
        assert!(
            !String::from_utf8_lossy(&bytes).contains(&session),
            "{} has the session",
            file.path().display()
        );
    }
    assert!(
        !app.log().contains(&session),
        "the session stands in the log"
    );
}

#[tokio::test]
async fn a_restarted_server_fails_no_call() {
    let app = App::start();
    let mut everything = Real::start(STREAMABLE).await;
    let before = connected(&app, "everything", &everything.url()).await["sessionId"].clone();
    everything.restart().await;
    let calls = (0..20).map(async |n| echo(&app, "everything", &n.to_string()).await);
    for (n, said) in join_all(calls).await.into_iter().enumerate() {
        assert_eq!(said, format!("Echo: {n}"));
    }
    app.until("/mcp/servers/everything", |body| {
        body["server"]["sessionId"] != before
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_fails_only_the_calls_that_have_begun() {
    let app = App::start();
    let mut python = Real::start(Kind::Python).await;
    connected(&app, "python", &python.url()).await;
    let path = app.dir.path().join("held");
    let begun = app.call("ana", "python", "hold", json!({ "path": path }));
    let kill = async {
        wait_until("the call has begun", async || {
            std::fs::read_to_string(&path).is_ok_and(|said| said == "begun")
        })
        .await;
        python.kill();
    };
    let (begun, ()) = tokio::join!(begun, kill);
    assert_eq!(begun.body["mayHaveRun"], true, "{}", begun.body);
    begun.fails(502, "upstream_error");
    // No call begins before the server runs again: it fails without `mayHaveRun`, or it succeeds.
    let calls = join_all((0..8).map(async |_| {
        app.call("ana", "python", "echo", json!({ "message": "x" }))
            .await
    }));
    let (calls, ()) = tokio::join!(calls, python.restart());
    for call in calls {
        assert!(
            call.status == 200 || call.body.get("mayHaveRun").is_none(),
            "{}",
            call.body
        );
    }
    app.until("/mcp/servers/python", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    assert_eq!(echo(&app, "python", "back").await, "Echo: back");
}

#[tokio::test]
async fn an_unreachable_server_is_an_error_and_is_connected_again() {
    let app = App::start();
    let mut everything = Real::start(STREAMABLE).await;
    connected(&app, "everything", &everything.url()).await;
    everything.kill();
    let failed = app
        .call("ana", "everything", "echo", json!({ "message": "x" }))
        .await;
    let error = failed.fails(502, "upstream_error");
    assert!(error.contains("cannot be connected to"), "{error}");
    app.until("/mcp/servers/everything", |body| {
        body["server"]["status"] == "error"
    })
    .await;
    everything.restart().await;
    app.until("/mcp/servers/everything", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    assert_eq!(echo(&app, "everything", "back").await, "Echo: back");
}

#[tokio::test]
async fn http_sse_is_detected_and_stored() {
    let mut app = App::start();
    let mut everything = Real::start(Kind::Everything("sse", "/sse")).await;
    connected(&app, "everything", &everything.url()).await;
    assert_eq!(echo(&app, "everything", "x").await, "Echo: x");
    assert_eq!(eras(&app).await, ["sse"]);
    app.kill_and_restart();
    assert_eq!(echo(&app, "everything", "y").await, "Echo: y");
    everything.restart().await;
    app.until("/mcp/servers/everything", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    // The first call may find the old connection closed.
    let heals = async || {
        let said = app
            .call("ana", "everything", "echo", json!({ "message": "z" }))
            .await;
        assert!(matches!(said.status, 200 | 502), "{}", said.body);
        said.status == 200
    };
    wait_until("it is back", heals).await;
}

#[tokio::test]
async fn a_server_without_sessions_gets_requests_without_one() {
    let mut app = App::start();
    let mut python = Real::start(Kind::Python).await;
    let server = connected(&app, "python", &python.url()).await;
    assert!(server.get("sessionId").is_none(), "{server}");
    assert_eq!(eras(&app).await, ["stateless"]);
    assert_eq!(echo(&app, "python", "x").await, "Echo: x");
    // The server refuses the call unless a header repeats one argument.
    assert_eq!(
        app.text("python", "routed", json!({ "region": "zürich" }))
            .await,
        "to zürich"
    );
    // The server's own stream brings the change of its tools.
    app.text("python", "grow", json!({})).await;
    app.until("/mcp/servers/python", |body| {
        body["server"]["toolsList"].to_string().contains("grown")
    })
    .await;
    assert_eq!(app.text("python", "grown", json!({})).await, "grown");

    let path = app.dir.path().join("held");
    let call = json!({ "serverName": "python", "methodName": "hold", "args": { "path": path }, "timeoutMs": 1500 });
    app.post("/mcp/tool/call", call).await.fails(504, "timeout");
    wait_until("the call is cancelled", async || {
        std::fs::read_to_string(&path).is_ok_and(|said| said == "cancelled")
    })
    .await;

    app.kill_and_restart();
    assert_eq!(echo(&app, "python", "y").await, "Echo: y");
    python.restart().await;
    // A server that has failed refuses calls until the next try.
    wait_until("the server is connected again", async || {
        let called = app.call("default", "python", "echo", json!({ "message": "z" }));
        called.await.status == 200
    })
    .await;
    assert_eq!(echo(&app, "python", "z").await, "Echo: z");
    assert_eq!(eras(&app).await, ["stateless"]);
}

#[tokio::test]
async fn a_lost_session_costs_one_initialize() {
    for (status, body) in [
        (404, ""),
        (400, "no such session"),
        (
            400,
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no"}}"#,
        ),
    ] {
        let (newest, forgotten) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let before = forgotten.clone();
        let script = Script::start(move |seen| {
            if seen.about() == "initialize" {
                return Some(session_of(seen, newest.fetch_add(1, Ordering::SeqCst) + 1));
            }
            let session = seen
                .header("mcp-session-id")?
                .parse::<usize>()
                .expect("a number");
            let stale = session <= before.load(Ordering::SeqCst);
            stale.then(|| (StatusCode::from_u16(status).expect("a status"), body).into_response())
        })
        .await;
        let app = App::start();
        connected(&app, "script", &script.url).await;
        assert_eq!(script.times("initialize"), 1);
        forgotten.store(1, Ordering::SeqCst);
        let calls = join_all((0..8).map(async |_| echo(&app, "script", "x").await)).await;
        assert!(calls.iter().all(|said| said == "echoed"), "{calls:?}");
        // All calls lost the session, and it was opened once.
        assert_eq!(script.times("initialize"), 2);
        app.until("/mcp/servers/script", |body| {
            body["server"]["sessionId"] == "2"
        })
        .await;
    }
}

#[tokio::test]
async fn a_refusal_of_one_request_is_no_lost_session() {
    let script = Script::start(|seen| {
        let error = json!({ "jsonrpc": "2.0", "id": seen.body["id"], "error": { "code": -32602, "message": "no" } });
        (seen.about() == "tools/call").then(|| (StatusCode::BAD_REQUEST, axum::Json(error)).into_response())
    })
    .await;
    let app = App::start();
    connected(&app, "script", &script.url).await;
    app.call("ana", "script", "echo", json!({}))
        .await
        .fails(400, "invalid_request");
    assert_eq!(
        (script.times("initialize"), script.times("tools/call")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_given_session_is_resumed_and_another_may_be_given() {
    let script = Script::start(|_| None).await;
    let app = App::start();
    let given = json!({ "sessionId": "given-1" });
    let server = register(&app, "script", &script.url, given).await.ok()["server"].take();
    assert_eq!(
        (&server["status"], &server["sessionId"]),
        (&json!("connected"), &json!("given-1")),
        "{server}"
    );
    assert_eq!(script.times("initialize"), 0);
    assert!(
        script
            .seen()
            .iter()
            .all(|seen| seen.header("mcp-session-id") == Some("given-1"))
    );

    let before = app.happened().await.len();
    let server = app.put("/mcp/servers/script", server).await.ok()["server"].take();
    assert_eq!(
        app.happened().await.len(),
        before,
        "what was read and put back changed something"
    );
    assert_eq!(server["sessionId"], "given-1");

    let server = app
        .put("/mcp/servers/script", json!({ "sessionId": "given-2" }))
        .await
        .ok()["server"]
        .take();
    assert_eq!(server["sessionId"], "given-2", "{server}");
    let server = app
        .put("/mcp/servers/script", json!({ "sessionId": null }))
        .await
        .ok()["server"]
        .take();
    assert_eq!(server["sessionId"], "the-session", "{server}");
    assert_eq!(script.times("initialize"), 1);
    app.put("/mcp/servers/script", json!({ "sessionId": "a b" }))
        .await
        .fails(400, "invalid_request");
}

#[tokio::test]
async fn a_cut_reply_is_resumed_and_not_requested_again() {
    let asked = Arc::new(Mutex::new(json!(null)));
    let script = Script::start(move |seen| match (seen.about(), seen.header("last-event-id")) {
        ("tools/call", _) => {
            let lost = seen.body["params"]["arguments"]["lost"] == true;
            *asked.lock().expect("an id") = seen.body["id"].clone();
            let (known, cut) = if lost { (41, 42) } else { (6, 7) };
            let text = format!("id: {known}\nretry: 30\ndata:\n\nid: {cut}\ndata: {{\"jsonrpc\":");
            Some(stream(cut_off(&text)))
        }
        ("GET", Some("6")) => {
            let reply = json!({ "jsonrpc": "2.0", "id": *asked.lock().expect("an id"), "result": text("kept") });
            Some(stream(format!("id: 7\ndata: {reply}\n\n")))
        }
        // The server cannot resume any other stream.
        _ => None,
    })
    .await;
    let app = App::start();
    connected(&app, "script", &script.url).await;
    assert_eq!(app.text("script", "echo", json!({})).await, "kept");
    assert_eq!(script.times("tools/call"), 1, "the call was sent twice");

    let failed = app
        .call("ana", "script", "echo", json!({ "lost": true }))
        .await;
    assert_eq!(failed.body["mayHaveRun"], true, "{}", failed.body);
    let error = failed.fails(502, "upstream_error");
    assert!(error.contains("cut off"), "{error}");
    assert!(
        script
            .seen()
            .iter()
            .any(|seen| seen.header("last-event-id") == Some("41")),
        "it was not resumed"
    );
    assert_eq!(script.times("tools/call"), 2, "the call was sent twice");
}

#[tokio::test]
async fn requests_of_a_server_are_answered_and_its_log_messages_are_stored() {
    let script = Script::start(|seen| {
        if seen.about() != "tools/call" {
            return None;
        }
        let lines = [
            json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" }),
            json!({ "jsonrpc": "2.0", "id": "8", "method": "sampling/createMessage", "params": {} }),
            json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": seen.body["params"]["arguments"]["key"] } }),
            json!({ "jsonrpc": "2.0", "id": seen.body["id"], "result": text("done") }),
        ];
        Some(stream(lines.map(|line| format!("event: message\ndata: {line}\n\n")).concat()))
    })
    .await;
    let app = App::start();
    connected(&app, "script", &script.url).await;
    app.set_secret("ana", "script", "key", "hunter2hunter2")
        .await;
    let answer = app.call("ana", "script", "echo", json!({})).await.ok();
    assert_eq!(answer["data"]["content"], "done");
    let answered = |id: serde_json::Value| {
        script
            .seen()
            .into_iter()
            .find(|seen| seen.body["id"] == id && seen.body.get("method").is_none())
    };
    wait_until("both are answered", async || {
        answered(json!(7)).is_some() && answered(json!("8")).is_some()
    })
    .await;
    assert_eq!(
        answered(json!(7)).expect("an answer").body["result"],
        json!({})
    );
    assert_eq!(
        answered(json!("8")).expect("an answer").body["error"]["code"],
        -32601
    );
    let server = app.server("script").await;
    assert!(
        server["logs"].to_string().contains("***") && !server.to_string().contains("hunter2"),
        "{server}"
    );
}

#[tokio::test]
async fn a_call_that_times_out_is_cancelled_at_the_server() {
    let script = Script::start(|seen| {
        (seen.about() == "tools/call").then(|| {
            stream(axum::body::Body::from_stream(futures::stream::pending::<
                Result<String, std::io::Error>,
            >()))
        })
    })
    .await;
    let app = App::start();
    connected(&app, "script", &script.url).await;
    let call =
        json!({ "serverName": "script", "methodName": "echo", "args": {}, "timeoutMs": 300 });
    app.post("/mcp/tool/call", call).await.fails(504, "timeout");
    wait_until("it is cancelled", async || {
        script.times("notifications/cancelled") == 1
    })
    .await;
    let seen = script.seen();
    let body_of = |about: &str| {
        seen.iter()
            .find(|seen| seen.about() == about)
            .expect("a message")
            .body
            .clone()
    };
    assert_eq!(
        body_of("notifications/cancelled")["params"]["requestId"],
        body_of("tools/call")["id"]
    );
}

#[tokio::test]
async fn the_servers_own_stream_brings_changes_of_its_tools() {
    let more = Arc::new(AtomicUsize::new(0));
    let known = more.clone();
    let script = Script::start(move |seen| match seen.about() {
        "GET" => {
            known.fetch_add(1, Ordering::SeqCst);
            Some(stream(cut_off(
                "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n",
            )))
        }
        "tools/list" if known.load(Ordering::SeqCst) > 0 => Some(result_of(
            seen,
            json!({ "tools": [{ "name": "grown", "inputSchema": {} }] }),
        )),
        _ => None,
    })
    .await;
    let app = App::start();
    connected(&app, "script", &script.url).await;
    app.until("/mcp/servers/script", |body| {
        body["server"]["toolsList"][0]["name"] == "grown"
    })
    .await;
}
