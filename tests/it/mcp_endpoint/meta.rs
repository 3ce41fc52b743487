//! The members of a client's `_meta` that a server receives.

use serde_json::{Value, json};

use super::client::{FIXTURE, McpClient, Messages, result, text_of};
use crate::harness::App;
use crate::remote::register;
use crate::remote::script::Script;

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Members that a server receives.
fn forwarded() -> Value {
    json!({
        "traceparent": TRACEPARENT,
        "tracestate": "vendor=1",
        "baggage": "userId=alice",
        "com.example/key": { "text": "grüße 𝄞", "lines": "a\nb", "list": [1, null] },
        "claudecode/toolUseId": "toolu_1",
    })
}

/// All members that a client sends: also some for this hop alone.
fn sent() -> Value {
    let mut sent = forwarded();
    let reserved = json!({
        "plain": 1,
        "io.modelcontextprotocol/logLevel": "debug",
        "dev.mcp/key": 1,
        "mcp-api/failure": {},
    });
    let members = sent.as_object_mut().expect("an object");
    members.extend(reserved.as_object().expect("an object").clone());
    sent
}

/// Returns a request of each era at each URL, as the client and its parameters.
async fn clients(app: &App, server: &str) -> Vec<(McpClient, String, bool)> {
    let one = format!("/mcp/servers/{server}/mcp");
    let mut clients = vec![];
    for (path, prefix) in [
        (one.as_str(), String::new()),
        ("/mcp", format!("{server}__")),
    ] {
        let client = McpClient::new(app, path);
        let (session, _) = client.initialize("2025-11-25").await;
        clients.push((client, prefix.clone(), false));
        clients.push((session, prefix, true));
    }
    clients
}

#[tokio::test]
async fn a_child_process_receives_the_trace_context_and_the_members_of_vendors() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    for (client, prefix, is_legacy) in clients(&app, "fixture").await {
        let name = format!("{prefix}meta");
        let params = json!({ "name": name, "arguments": {}, "_meta": sent() });
        let answer = if is_legacy {
            client.legacy("tools/call", params).await
        } else {
            client.modern("tools/call", params).await
        };
        let received: Value = serde_json::from_str(text_of(&result(answer))).expect("JSON");
        assert_eq!(received, forwarded(), "{}", client.url);
    }
    // With a progress token, the server receives a token of the worker.
    let mut meta = sent();
    meta["progressToken"] = json!("of the client");
    let params = json!({ "name": "progress", "arguments": { "steps": 1, "ms": 1 }, "_meta": meta });
    let client = McpClient::new(&app, FIXTURE);
    let mut messages = Messages::open(client.modern_request("tools/call", params)).await;
    let progress = messages.notification("notifications/progress").await;
    assert_eq!(progress["params"]["progressToken"], "of the client");
}

#[tokio::test]
async fn a_server_behind_a_url_receives_the_trace_context_and_the_members_of_vendors() {
    let app = App::start();
    let server = Script::start(|_| None).await;
    register(&app, "remote", &server.url, json!({})).await.ok();
    for (client, prefix, is_legacy) in clients(&app, "remote").await {
        let before = server.times("tools/call");
        let params = json!({ "name": format!("{prefix}echo"), "arguments": {}, "_meta": sent() });
        if is_legacy {
            client.legacy("tools/call", params).await
        } else {
            client.modern("tools/call", params).await
        };
        let calls: Vec<_> = server
            .seen()
            .into_iter()
            .filter(|seen| seen.about() == "tools/call")
            .collect();
        assert_eq!(calls.len(), before + 1, "{}", client.url);
        assert_eq!(
            calls[before].body["params"]["_meta"],
            forwarded(),
            "{}",
            client.url
        );
    }
}
