//! Habits and bugs of clients in the field. A script does what such a client does.

use serde_json::{Value, json};

use crate::harness::App;
use crate::mcp_endpoint::client::{FIXTURE, McpClient, Messages, error_code, result, text_of};

async fn app_with_fixture() -> App {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app
}

/// Returns the whole text of the answer to a body.
async fn text_of_answer(client: &McpClient, body: &str) -> String {
    let request = client
        .request(reqwest::Method::POST)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(body.to_owned());
    let response = request.send().await.expect("a response");
    response.text().await.expect("a text")
}

/// The TypeScript SDK 1.x computes `Number(progressToken)`, and it closes the connection at progress after a result.
#[tokio::test]
async fn a_progress_token_keeps_its_spelling_and_nothing_follows_the_result() {
    let app = app_with_fixture().await;
    let (session, _) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
    for token in [r#""7""#, r#""\u0061 b""#, "7", "0", r#""""#] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":"\u0069d","method":"tools/call","params":{{"name":"progress",
               "arguments":{{"steps":20,"ms":0}},"_meta":{{"progressToken":{token}}}}}}}"#
        );
        let text = text_of_answer(&session, &body).await;
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        let (last, notices) = events.split_last().expect("events");
        assert_eq!(notices.len(), 20, "{text}");
        for notice in notices {
            let params = format!(r#""params":{{"progressToken":{token},"#);
            assert!(notice.contains(&params), "{notice}");
        }
        assert!(last.contains(r#""id":"\u0069d","result":"#), "{last}");
    }
}

/// Each session counts its requests from 0, so equal request ids and progress tokens are the normal case.
#[tokio::test]
async fn the_same_progress_token_in_two_sessions_stays_apart() {
    let app = app_with_fixture().await;
    let calls = ["first", "second"].map(|name| {
        let client = McpClient::new(&app, FIXTURE);
        async move {
            let (session, _) = client.initialize("2025-11-25").await;
            let body = json!({
                "jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": {
                    "name": "progress", "arguments": { "steps": 20, "ms": 5, "message": name },
                    "_meta": { "progressToken": 0 },
                },
            });
            let request = session.request(reqwest::Method::POST).json(&body);
            let mut messages = Messages::open(request).await;
            for step in 0..20 {
                let notice = messages.notification("notifications/progress").await;
                let expected = json!({
                    "progressToken": 0, "progress": step, "message": format!("{step}: {name}"),
                });
                assert_eq!(notice["params"], expected);
            }
            assert_eq!(messages.next().await.expect("a response")["id"], 0);
            assert_eq!(messages.next().await, None);
        }
    });
    futures::future::join_all(calls).await;
}

/// A client asks for the modern era first, and begins a session on the same connection nevertheless.
#[tokio::test]
async fn a_client_that_discovers_and_then_initializes_gets_both_eras() {
    let app = app_with_fixture().await;
    for path in ["/mcp", FIXTURE] {
        let client = McpClient::new(&app, path);
        let discovered = result(client.modern("server/discover", json!({})).await);
        assert_eq!(discovered["supportedVersions"][0], "2026-07-28");
        let (session, begun) = client.initialize("2025-11-25").await;
        assert_eq!(begun["protocolVersion"], "2025-11-25");
        assert_eq!(begun.get("resultType"), None);
        let legacy = result(session.legacy("tools/list", json!({})).await);
        assert_eq!(legacy.get("resultType"), None);
        // A session id has no meaning in a modern request.
        let modern = result(session.modern("tools/list", json!({})).await);
        assert_eq!(modern["resultType"], "complete");
    }
}

/// Several clients forget the session id at once, and begin a session for each call.
#[tokio::test]
async fn a_client_that_drops_its_session_id_begins_again() {
    let app = app_with_fixture().await;
    let client = McpClient::new(&app, FIXTURE);
    let (first, _) = client.initialize("2025-06-18").await;
    let dropped = client
        .clone()
        .with("mcp-protocol-version", "2025-06-18")
        .legacy("tools/list", json!({}))
        .await;
    assert_eq!((dropped.status, error_code(&dropped)), (400, -32600));
    let sentence = dropped.body["error"]["message"].as_str().expect("a text");
    assert!(sentence.contains("initialize"), "{sentence}");
    for _ in 0..30 {
        let (session, _) = client.initialize("2025-06-18").await;
        let echoed: Value = session.call_legacy("echo", json!({ "message": "x" })).await;
        assert_eq!(text_of(&echoed), "x");
    }
    let echoed = first.call_legacy("echo", json!({ "message": "y" })).await;
    assert_eq!(text_of(&echoed), "y");
}
