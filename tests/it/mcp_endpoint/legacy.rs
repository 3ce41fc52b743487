//! The revisions 2024-11-05 to 2025-11-25, with sessions.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde_json::{Value, json};

use super::client::{FIXTURE, McpClient, Messages, error_code, result, text_of};
use crate::harness::{App, answer};
use crate::wait::wait_until;

async fn app() -> App {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app
}

#[tokio::test]
async fn every_legacy_version_opens_a_session_and_calls_a_tool() {
    let app = app().await;
    for (requested, expected) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        for (path, tool) in [("/mcp", "fixture__echo"), (FIXTURE, "echo")] {
            let (client, begun) = McpClient::new(&app, path)
                .user("ana")
                .initialize(requested)
                .await;
            assert_eq!(begun["protocolVersion"], expected);
            assert_eq!(begun["capabilities"]["tools"]["listChanged"], true);
            let initialized = client.notify("notifications/initialized", json!({})).await;
            assert_eq!(initialized.status, 202);
            assert_eq!(result(client.legacy("ping", json!({})).await), json!({}));
            let list = result(client.legacy("tools/list", json!({})).await);
            assert_eq!(list.get("resultType"), None);
            assert!(
                list["tools"]
                    .as_array()
                    .expect("tools")
                    .iter()
                    .any(|listed| listed["name"] == tool)
            );
            let called = client.call_legacy(tool, json!({ "message": "hi" })).await;
            assert_eq!(
                called,
                json!({ "content": [{ "type": "text", "text": "hi" }] })
            );
        }
    }
}

#[tokio::test]
async fn a_session_belongs_to_its_user_and_its_endpoint_and_ends_with_delete() {
    let mut app = app().await;
    let (client, _) = McpClient::new(&app, FIXTURE)
        .user("ana")
        .initialize("2025-11-25")
        .await;
    let session = session_of(&client);
    for other in [
        McpClient::new(&app, FIXTURE).user("ben"),
        McpClient::new(&app, "/mcp").user("ana"),
    ] {
        let found = other
            .with("mcp-session-id", &session)
            .legacy("ping", json!({}))
            .await;
        assert_eq!((found.status, error_code(&found)), (404, -32602));
    }
    for wrong in ["", "x", &session[1..], &format!("{session}=")] {
        let stranger = McpClient::new(&app, FIXTURE)
            .user("ana")
            .with("mcp-session-id", wrong);
        assert_eq!(
            stranger.legacy("ping", json!({})).await.status,
            404,
            "{wrong}"
        );
    }
    // A session outlives the program, because no table holds it.
    app.kill_and_restart();
    let client = McpClient::new(&app, FIXTURE)
        .user("ana")
        .with("mcp-session-id", &session);
    assert_eq!(client.legacy("ping", json!({})).await.status, 200);
    assert_eq!(
        answer(client.request(reqwest::Method::DELETE)).await.status,
        200
    );
    let ended = client.legacy("ping", json!({})).await;
    assert_eq!((ended.status, error_code(&ended)), (404, -32602));
    assert_eq!(
        answer(client.request(reqwest::Method::DELETE)).await.status,
        404
    );
}

fn session_of(client: &McpClient) -> String {
    let request = client
        .request(reqwest::Method::GET)
        .build()
        .expect("a request");
    request.headers()["mcp-session-id"]
        .to_str()
        .expect("ASCII")
        .to_owned()
}

#[tokio::test]
async fn a_request_without_a_session_names_both_ways_to_begin() {
    let app = app().await;
    let client = McpClient::new(&app, FIXTURE);
    let found = client.legacy("tools/list", json!({})).await;
    assert_eq!((found.status, error_code(&found)), (400, -32600));
    let sentence = found.body["error"]["message"].as_str().expect("a sentence");
    assert!(
        sentence.contains("initialize") && sentence.contains("2026-07-28"),
        "{sentence}"
    );
    let unknown = client.clone().with("mcp-protocol-version", "2030-01-01");
    let found = unknown.legacy("tools/list", json!({})).await;
    assert_eq!((found.status, error_code(&found)), (400, -32022));
    let (session, _) = client.initialize("2025-06-18").await;
    let known = session.clone().with("mcp-protocol-version", "2025-03-26");
    assert_eq!(known.legacy("ping", json!({})).await.status, 200);
    let unknown = session.with("mcp-protocol-version", "2030-01-01");
    assert_eq!(unknown.legacy("ping", json!({})).await.status, 400);
}

#[tokio::test]
async fn unknown_methods_are_errors_with_status_200() {
    let app = app().await;
    let (client, _) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
    for method in [
        "resources/subscribe",
        "resources/list",
        "server/discover",
        "nonsense",
    ] {
        let found = client.legacy(method, json!({})).await;
        assert_eq!(
            (found.status, error_code(&found)),
            (200, -32601),
            "{method}"
        );
    }
    let response = json!({ "jsonrpc": "2.0", "id": 1, "result": {} }).to_string();
    assert_eq!(client.post(&response).await.status, 202);
    assert_eq!(
        client
            .notify("notifications/anything", json!({}))
            .await
            .status,
        202
    );
}

#[tokio::test]
async fn a_notification_cancels_the_call_also_at_another_facade() {
    let mut app = app().await;
    let urls = if app.services.is_some() {
        let second = app.add("api");
        vec![app.url.clone(), app.processes[second].url.clone()]
    } else {
        vec![app.url.clone()]
    };
    for url in urls {
        let pid = app.idle("fixture").await;
        let (caller, _) = McpClient::new(&app, FIXTURE).initialize("2025-11-25").await;
        let session = session_of(&caller);
        let call = json!({
            "jsonrpc": "2.0", "id": "slow", "method": "tools/call",
            "params": { "name": "sleep", "arguments": { "ms": 40_000 } },
        });
        let running = tokio::spawn(async move { caller.post(&call.to_string()).await });
        crate::processes::under_way(pid, 1).await;
        let canceller = McpClient::at(&app, &url, FIXTURE).with("mcp-session-id", &session);
        let cancel = json!({ "requestId": "slow" });
        assert_eq!(
            canceller
                .notify("notifications/cancelled", cancel)
                .await
                .status,
            202
        );
        let found = running.await.expect("an answer");
        assert_eq!(error_code(&found), -32800, "{}", found.body);
    }
}

#[tokio::test]
async fn only_a_session_of_2025_03_26_may_send_an_array() {
    let app = app().await;
    let (client, _) = McpClient::new(&app, FIXTURE).initialize("2025-03-26").await;
    let call = |id: u64| {
        json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": { "name": "echo", "arguments": { "message": id.to_string() } } })
    };
    let note = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let mixed =
        json!([call(1), note, call(2), { "jsonrpc": "2.0", "id": 3, "method": "initialize" }]);
    let found = client.post(&mixed.to_string()).await;
    assert_eq!(found.status, 200);
    let answers = found.body.as_array().expect("an array");
    assert_eq!(answers.len(), 3, "{}", found.body);
    assert_eq!(
        (&answers[0]["id"], text_of(&answers[0]["result"])),
        (&json!(1), "1")
    );
    assert_eq!(
        (&answers[1]["id"], text_of(&answers[1]["result"])),
        (&json!(2), "2")
    );
    assert_eq!(answers[2]["error"]["code"], -32600);
    assert_eq!(client.post(&json!([note]).to_string()).await.status, 202);
    let many: Vec<Value> = (0..17).map(call).collect();
    for wrong in [json!([]), json!(many)] {
        assert_eq!(client.post(&wrong.to_string()).await.status, 400);
    }
    let (newer, _) = McpClient::new(&app, FIXTURE).initialize("2025-06-18").await;
    assert_eq!(newer.post(&json!([call(1)]).to_string()).await.status, 400);
    let without = McpClient::new(&app, FIXTURE)
        .post(&json!([call(1)]).to_string())
        .await;
    assert_eq!(without.status, 400);
}

#[tokio::test]
async fn progress_comes_in_a_session_too() {
    let app = app().await;
    let (client, _) = McpClient::new(&app, "/mcp").initialize("2025-06-18").await;
    let body = json!({
        "jsonrpc": "2.0", "id": 0, "method": "tools/call",
        "params": {
            "name": "fixture__progress", "arguments": { "steps": 2, "ms": 1 }, "_meta": { "progressToken": 0 },
        },
    });
    let mut messages = Messages::open(client.request(reqwest::Method::POST).json(&body)).await;
    for _ in 0..2 {
        let progress = messages.notification("notifications/progress").await;
        assert_eq!(progress["params"]["progressToken"], 0);
    }
    let response = messages.next().await.expect("a response");
    assert_eq!(response["id"], 0);
    wait_until("the call has ended", async || {
        messages.next().await.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_session_id_holds_the_capabilities_of_its_client() {
    let app = app().await;
    let client = McpClient::new(&app, "/mcp");
    let all = json!({
        "elicitation": { "form": {}, "url": {} }, "sampling": { "tools": {} },
        "roots": { "listChanged": true }, "tasks": {},
    });
    for (version, capabilities, expected) in [
        ("2025-11-25", json!({}), 0),
        ("2025-11-25", all.clone(), 0b1_1111),
        ("2025-06-18", all.clone(), 0b1_0101),
        ("2024-11-05", all, 0b1_0100),
        ("2025-11-25", json!({ "elicitation": {}, "roots": 1 }), 1),
    ] {
        let (_, id) = client.begin(version, capabilities).await;
        let bytes = URL_SAFE.decode(&id).expect("base64");
        let bits = u16::from_be_bytes([bytes[18], bytes[19]]);
        assert_eq!(bits, expected, "{version}");
        let session = client.clone().with("mcp-session-id", &id);
        assert_eq!(session.legacy("ping", json!({})).await.status, 200);
    }
}
