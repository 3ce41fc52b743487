//! Streams without an end: changes of the tool list, and the end of a caller's token.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{FIXTURE, McpClient, Messages, result};
use crate::harness::{Answer, App, answer};
use crate::wait::wait_until;

const ADMIN: &str = "an-admin-token-of-many-characters";

#[tokio::test]
async fn a_change_of_the_list_reaches_both_eras() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    let (session, _) = McpClient::new(&app, "/mcp").initialize("2025-11-25").await;
    let mut legacy = Messages::open(session.request(Method::GET)).await;
    let params =
        json!({ "notifications": { "toolsListChanged": true, "promptsListChanged": true } });
    let request = McpClient::new(&app, "/mcp").modern_request("subscriptions/listen", params);
    let mut modern = Messages::open(request).await;
    let acknowledged = modern
        .notification("notifications/subscriptions/acknowledged")
        .await;
    let id = "io.modelcontextprotocol/subscriptionId";
    assert_eq!(
        acknowledged["params"],
        json!({ "notifications": { "toolsListChanged": true }, "_meta": { (id): 7 } })
    );
    app.register_fixture("second").await.ok();
    let changed = legacy
        .notification("notifications/tools/list_changed")
        .await;
    assert_eq!(changed.get("params"), None);
    let changed = modern
        .notification("notifications/tools/list_changed")
        .await;
    assert_eq!(changed["params"]["_meta"][id], 7);
    let list = result(session.legacy("tools/list", json!({})).await);
    let names: Vec<&str> = list["tools"]
        .as_array()
        .expect("tools")
        .iter()
        .filter_map(|tool| tool["name"].as_str())
        .collect();
    assert!(names.contains(&"second__echo"), "{names:?}");
}

#[tokio::test]
async fn a_second_stream_of_a_session_replaces_the_first_and_delete_ends_it() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    let (session, _) = McpClient::new(&app, FIXTURE).initialize("2025-06-18").await;
    let mut first = Messages::open(session.request(Method::GET)).await;
    let mut second = Messages::open(session.request(Method::GET)).await;
    assert!(first.next().await.is_none());
    answer(session.request(Method::DELETE)).await;
    assert!(second.next().await.is_none());
}

#[tokio::test]
async fn a_drain_ends_the_streams_of_both_eras() {
    let mut app = App::start();
    app.register_fixture("fixture").await.ok();
    let (session, _) = McpClient::new(&app, FIXTURE).initialize("2025-06-18").await;
    let mut legacy = Messages::open(session.request(Method::GET)).await;
    let params = json!({ "notifications": {} });
    let request = McpClient::new(&app, "/mcp").modern_request("subscriptions/listen", params);
    let mut modern = Messages::open(request).await;
    modern
        .notification("notifications/subscriptions/acknowledged")
        .await;
    app.terminate();
    assert!(legacy.next().await.is_none());
    // The response is the last event of this stream.
    let last = modern.next().await.expect("a response");
    assert_eq!(last["id"], 7, "{last}");
    assert!(modern.next().await.is_none());
    let log = app.log();
    assert!(!log.contains("connections are still open"), "{log}");
}

#[tokio::test]
async fn a_revoked_token_ends_its_streams_and_its_list_is_its_own() {
    let app = App::start_with(&[("ADMIN_TOKEN", ADMIN)]);
    let admin = |method: Method, path: &str, body: Value| {
        let request = app.http.request(method, format!("{}{path}", app.url));
        answer(
            request
                .header("authorization", format!("Bearer {ADMIN}"))
                .json(&body),
        )
    };
    for name in ["first", "second"] {
        let server = json!({
            "name": name, "command": crate::harness::python(),
            "args": ["-u", crate::harness::fixture("server.py")],
        });
        admin(Method::POST, "/mcp/servers", server).await.ok();
    }
    let body = json!({ "username": "ana", "servers": ["first"] });
    let token = admin(Method::POST, "/tokens", body).await.ok();
    let text = token["token"].as_str().expect("a token");
    let client = McpClient::new(&app, "/mcp").token(text);
    let list = result(client.modern("tools/list", json!({})).await);
    for tool in list["tools"].as_array().expect("tools") {
        assert!(
            tool["name"]
                .as_str()
                .expect("a name")
                .starts_with("first__"),
            "{tool}"
        );
    }
    let hidden = client
        .modern("tools/call", json!({ "name": "second__echo" }))
        .await;
    assert_eq!(hidden.body["error"]["code"], -32602);
    let other = McpClient::new(&app, "/mcp/servers/second/mcp").token(text);
    assert_eq!(other.modern("tools/list", json!({})).await.status, 404);
    // The stream ends with the token, and a change of a hidden server is no change of the list.
    let params = json!({ "notifications": { "toolsListChanged": true } });
    let mut stream = Messages::open(client.modern_request("subscriptions/listen", params)).await;
    stream
        .notification("notifications/subscriptions/acknowledged")
        .await;
    admin(Method::PUT, "/mcp/servers/second/disable", json!({}))
        .await
        .ok();
    let path = format!("/tokens/{}", token["id"].as_str().expect("an id"));
    admin(Method::DELETE, &path, json!({})).await.ok();
    assert!(stream.next().await.is_none());
    assert_eq!(client.modern("tools/list", json!({})).await.status, 401);
}

/// A program with the fixture server and an admin token.
struct Guarded(App);

impl Guarded {
    async fn start() -> Self {
        let guarded = Self(App::start_with(&[("ADMIN_TOKEN", ADMIN)]));
        let server = json!({
            "name": "fixture", "command": crate::harness::python(),
            "args": ["-u", crate::harness::fixture("server.py")],
        });
        guarded
            .send(Method::POST, "/mcp/servers", server)
            .await
            .ok();
        guarded
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Answer {
        let request = self.0.http.request(method, format!("{}{path}", self.0.url));
        answer(request.bearer_auth(ADMIN).json(&body)).await
    }

    /// Begins a call that reports progress for a minute.
    async fn begin_call(&self, token: &Value) -> (McpClient, Messages) {
        let token = token["token"].as_str().expect("a token");
        let client = McpClient::new(&self.0, FIXTURE).token(token);
        let params = json!({
            "name": "progress", "arguments": { "steps": 6000, "ms": 10 },
            "_meta": { "progressToken": 1 },
        });
        let mut messages = Messages::open(client.modern_request("tools/call", params)).await;
        messages.notification("notifications/progress").await;
        (client, messages)
    }

    /// Reads the stream of a call to its end, and waits until the server hears of the cancellation.
    async fn ends_without_a_response(&self, mut messages: Messages) {
        while let Some(message) = messages.next().await {
            assert_eq!(message["method"], "notifications/progress", "{message}");
        }
        wait_until("the server hears of the cancellation", async || {
            let call =
                json!({ "serverName": "fixture", "methodName": "cancellations", "args": {} });
            let found = self.send(Method::POST, "/mcp/tool/call", call).await.ok();
            found["data"]["content"] != "[]"
        })
        .await;
    }
}

#[tokio::test]
async fn a_revoked_token_ends_the_stream_of_its_call_and_cancels_the_call() {
    let app = Guarded::start().await;
    let body = json!({ "username": "ana" });
    let token = app.send(Method::POST, "/tokens", body).await.ok();
    let (_, messages) = app.begin_call(&token).await;
    let path = format!("/tokens/{}", token["id"].as_str().expect("an id"));
    app.send(Method::DELETE, &path, json!({})).await.ok();
    app.ends_without_a_response(messages).await;
}

#[tokio::test]
async fn a_token_that_expires_ends_the_stream_of_its_call_and_cancels_the_call() {
    let app = Guarded::start().await;
    let body = json!({ "username": "ana", "expiresIn": 3 });
    let token = app.send(Method::POST, "/tokens", body).await.ok();
    let (client, messages) = app.begin_call(&token).await;
    app.ends_without_a_response(messages).await;
    let later = client.modern("tools/list", json!({})).await;
    later.fails(401, "unauthenticated");
}

#[tokio::test]
async fn the_streams_of_a_user_are_limited() {
    let app = App::start_with(&[("MCP_MAX_STREAMS_PER_USER", "2")]);
    let open = || {
        let client = McpClient::new(&app, "/mcp").user("ana");
        client.modern_request("subscriptions/listen", json!({ "notifications": {} }))
    };
    let _first = Messages::open(open()).await;
    let _second = Messages::open(open()).await;
    let refused = answer(open()).await;
    assert!(refused.headers.contains_key("retry-after"));
    let sentence = refused.fails(503, "unavailable");
    assert!(sentence.contains("MCP_MAX_STREAMS_PER_USER"), "{sentence}");
    let other = McpClient::new(&app, "/mcp").user("ben");
    Messages::open(other.modern_request("subscriptions/listen", json!({ "notifications": {} })))
        .await;
}
