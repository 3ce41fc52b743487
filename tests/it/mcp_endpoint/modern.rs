//! The revision 2026-07-28.

use serde_json::{Value, json};

use super::client::{
    FIXTURE, MODERN, McpClient, Messages, error_code, modern_body, result, text_of,
};
use crate::harness::{App, answer};
use crate::wait::wait_until;

async fn app() -> App {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app
}

#[tokio::test]
async fn both_endpoints_list_and_call_tools_with_the_secret_of_the_user() {
    let app = app().await;
    app.set_secret("ana", "fixture", "message", "of ana").await;
    app.set_secret("ben", "fixture", "message", "of ben").await;
    for (path, tool) in [("/mcp", "fixture__echo"), (FIXTURE, "echo")] {
        for user in ["ana", "ben"] {
            let client = McpClient::new(&app, path).user(user);
            let list = result(client.modern("tools/list", json!({})).await);
            let tools = list["tools"].as_array().expect("tools");
            assert!(tools.iter().any(|listed| listed["name"] == tool), "{list}");
            assert_eq!(list["resultType"], "complete");
            assert_eq!(list["cacheScope"], "private");
            assert!(list["ttlMs"].as_u64().is_some());
            let called = client.call_modern(tool, json!({})).await;
            assert_eq!(text_of(&called), format!("of {user}"));
            assert_eq!(called["resultType"], "complete");
        }
    }
}

#[tokio::test]
async fn discover_names_the_versions_and_the_servers() {
    let app = app().await;
    let all = result(
        McpClient::new(&app, "/mcp")
            .modern("server/discover", json!({}))
            .await,
    );
    assert_eq!(all["supportedVersions"][0], MODERN);
    assert_eq!(
        all["supportedVersions"].as_array().expect("versions").len(),
        5
    );
    assert_eq!(all["capabilities"]["tools"]["listChanged"], true);
    assert!(
        all["instructions"]
            .as_str()
            .expect("a text")
            .contains("- fixture")
    );
    let server_info = &all["_meta"]["io.modelcontextprotocol/serverInfo"];
    assert_eq!(server_info["name"], "mcp-api");
}

#[tokio::test]
async fn the_endpoint_of_a_server_describes_the_server_also_while_it_is_down() {
    let app = App::start();
    let marker = app.dir.path().join("marker");
    let env = json!({ "env": { "FIXTURE_INSTRUCTIONS": "Read first" } });
    app.register("fixture", env).await.ok();
    let described = async || {
        let client = McpClient::new(&app, FIXTURE);
        let found = result(client.modern("server/discover", json!({})).await);
        let server_info = found["_meta"]["io.modelcontextprotocol/serverInfo"].clone();
        (server_info, found["instructions"].clone())
    };
    let expected = (
        json!({ "name": "fixture", "version": "1" }),
        json!("Read first"),
    );
    assert_eq!(described().await, expected);
    let broken = json!({ "command": marker.display().to_string() });
    app.put("/mcp/servers/fixture", broken).await;
    assert_eq!(described().await, expected);
}

/// A description, the headers, the body, and the expected status and code.
type Broken<'a> = (&'a str, Vec<(&'a str, &'a str)>, Value, u16, i64);

#[tokio::test]
async fn each_broken_rule_gets_its_status_and_its_code() {
    let app = app().await;
    let client = McpClient::new(&app, FIXTURE);
    let call = json!({ "name": "echo", "arguments": { "message": "x" } });
    let body = modern_body(7, "tools/call", call);
    let headers = [
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
    ];
    let with_meta = |name: &str, value: Value| {
        let mut body = body.clone();
        body["params"]["_meta"][format!("io.modelcontextprotocol/{name}")] = value;
        body
    };
    let without = |name: &str| {
        headers
            .into_iter()
            .filter(|(header, _)| *header != name)
            .collect::<Vec<_>>()
    };
    let instead =
        |name: &'static str, value: &'static str| [without(name), vec![(name, value)]].concat();
    let twice =
        |name: &'static str, value: &'static str| [headers.to_vec(), vec![(name, value)]].concat();
    let cases: Vec<Broken<'_>> = vec![
        (
            "no capabilities",
            headers.to_vec(),
            with_meta("clientCapabilities", Value::Null),
            400,
            -32602,
        ),
        (
            "client info is a text",
            headers.to_vec(),
            with_meta("clientInfo", json!("x")),
            400,
            -32602,
        ),
        (
            "version is a number",
            headers.to_vec(),
            with_meta("protocolVersion", json!(7)),
            400,
            -32602,
        ),
        (
            "no version header",
            without("mcp-protocol-version"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "another version header",
            instead("mcp-protocol-version", "2025-11-25"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "unknown version",
            instead("mcp-protocol-version", "2030-01-01"),
            with_meta("protocolVersion", json!("2030-01-01")),
            400,
            -32022,
        ),
        (
            "legacy version",
            instead("mcp-protocol-version", "2025-11-25"),
            with_meta("protocolVersion", json!("2025-11-25")),
            400,
            -32022,
        ),
        (
            "no method header",
            without("mcp-method"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "another method header",
            instead("mcp-method", "tools/list"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "method header in another case",
            instead("mcp-method", "Tools/Call"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "two method headers",
            twice("mcp-method", "tools/call"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "no name header",
            without("mcp-name"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "another name header",
            instead("mcp-name", "sleep"),
            body.clone(),
            400,
            -32020,
        ),
        (
            "name header in wrong base64",
            instead("mcp-name", "=?base64?ZWNobw?="),
            body.clone(),
            400,
            -32020,
        ),
        (
            "name header in base64",
            instead("mcp-name", "=?base64?ZWNobw==?="),
            body.clone(),
            200,
            0,
        ),
        (
            "blanks around a header",
            instead("mcp-name", " echo "),
            body.clone(),
            200,
            0,
        ),
    ];
    for (what, headers, body, status, code) in cases {
        let request = client.request(reqwest::Method::POST).json(&body);
        let request = headers.into_iter().fold(request, |request, (name, value)| {
            request.header(name, value)
        });
        let found = answer(request).await;
        let found_code = found.body["error"]["code"].as_i64().unwrap_or_default();
        assert_eq!(
            (found.status, found_code),
            (status, code),
            "{what}: {}",
            found.body
        );
        assert_eq!(found.body["id"], 7, "{what}");
    }
}

#[tokio::test]
async fn methods_that_the_endpoint_does_not_have_are_not_found() {
    let app = app().await;
    let client = McpClient::new(&app, FIXTURE);
    for method in [
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/list",
        "prompts/get",
        "nonsense",
    ] {
        let found = client.modern(method, json!({})).await;
        assert_eq!(
            (found.status, error_code(&found)),
            (404, -32601),
            "{method}"
        );
    }
    let notification = modern_body(1, "notifications/cancelled", json!({}));
    let mut notification = notification;
    notification
        .as_object_mut()
        .expect("an object")
        .remove("id");
    assert_eq!(client.post(&notification.to_string()).await.status, 202);
}

#[tokio::test]
async fn a_wrong_call_is_an_error_and_a_failed_server_is_a_result() {
    let app = app().await;
    app.register("broken", json!({ "command": "/nowhere" }))
        .await;
    let all = McpClient::new(&app, "/mcp");
    for params in [
        json!({ "name": "fixture__nothing" }),
        json!({ "name": "fixture__echo", "arguments": [] }),
        json!({ "name": "fixture__echo", "inputResponses": null }),
        json!({ "name": "fixture__echo", "requestState": "x" }),
    ] {
        let found = all.modern("tools/call", params.clone()).await;
        assert_eq!(
            (found.status, error_code(&found)),
            (200, -32602),
            "{params}"
        );
    }
    let broken = McpClient::new(&app, "/mcp/servers/broken/mcp");
    let failed = broken.call_modern("anything", json!({})).await;
    assert_eq!(failed["isError"], true, "{failed}");
    assert_eq!(
        failed["_meta"]["mcp-api/failure"]["code"], "upstream_error",
        "{failed}"
    );
    assert!(text_of(&failed).contains("broken"), "{failed}");
    for missing in ["/mcp/servers/nothing/mcp", "/mcp/servers/no%20name/mcp"] {
        let found = McpClient::new(&app, missing)
            .modern("tools/list", json!({}))
            .await;
        assert_eq!(
            (found.status, error_code(&found)),
            (404, -32602),
            "{missing}"
        );
    }
    let not_utf8 = McpClient::new(&app, "/mcp/servers/%FF/mcp");
    let refused = not_utf8.modern("tools/list", json!({})).await;
    refused.fails(400, "invalid_request");
    app.put("/mcp/servers/fixture/disable", json!({}))
        .await
        .ok();
    let disabled = McpClient::new(&app, FIXTURE)
        .modern("tools/list", json!({}))
        .await;
    assert_eq!((disabled.status, error_code(&disabled)), (404, -32602));
    let list = result(all.modern("tools/list", json!({})).await);
    assert_eq!(list["tools"], json!([]));
}

#[tokio::test]
async fn progress_comes_before_the_result_with_the_token_of_the_client() {
    let app = app().await;
    app.set_secret("default", "fixture", "message", "planted-secret")
        .await;
    let client = McpClient::new(&app, FIXTURE);
    for token in [json!("t-1"), json!(41)] {
        let params = json!({
            "name": "progress", "arguments": { "steps": 3, "ms": 1 }, "_meta": { "progressToken": token },
        });
        let mut messages = Messages::open(client.modern_request("tools/call", params)).await;
        for step in 0..3 {
            let progress = messages.notification("notifications/progress").await;
            assert_eq!(progress["params"]["progressToken"], token);
            assert_eq!(progress["params"]["progress"], step);
            assert!(
                !progress.to_string().contains("planted-secret"),
                "{progress}"
            );
        }
        let response = messages.next().await.expect("a response");
        assert_eq!(response["id"], 7);
        assert_eq!(text_of(&response["result"]), "done");
        assert!(messages.next().await.is_none());
    }
}

#[tokio::test]
async fn a_client_that_takes_json_only_gets_json() {
    let app = app().await;
    let client = McpClient::new(&app, FIXTURE).with("accept", "application/json");
    let params = json!({
        "name": "progress", "arguments": { "steps": 2, "ms": 1 }, "_meta": { "progressToken": 1 },
    });
    let called = client.modern("tools/call", params).await;
    assert_eq!(called.headers["content-type"], "application/json");
    assert_eq!(text_of(&called.body["result"]), "done");
    let listen = client
        .modern("subscriptions/listen", json!({ "notifications": {} }))
        .await;
    assert_eq!(listen.status, 406);
    let neither = McpClient::new(&app, FIXTURE).with("accept", "text/html");
    assert_eq!(neither.modern("tools/list", json!({})).await.status, 406);
}

#[tokio::test]
async fn a_client_that_closes_the_stream_cancels_its_call() {
    let app = app().await;
    let client = McpClient::new(&app, FIXTURE);
    let params = json!({
        "name": "progress", "arguments": { "steps": 6000, "ms": 10 }, "_meta": { "progressToken": 1 },
    });
    let mut messages = Messages::open(client.modern_request("tools/call", params)).await;
    messages.notification("notifications/progress").await;
    drop(messages);
    wait_until("the server hears of the cancellation", async || {
        app.text("fixture", "cancellations", json!({})).await != "[]"
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_no_message_gets_the_code_of_its_fault() {
    let app = app().await;
    let client = McpClient::new(&app, "/mcp").with("mcp-protocol-version", MODERN);
    for (body, code) in [
        ("", -32700),
        ("{", -32700),
        ("\u{feff}{}", -32700),
        ("{}", -32600),
        ("7", -32600),
    ] {
        let found = client.post(body).await;
        assert_eq!((found.status, error_code(&found)), (400, code), "{body:?}");
        assert_eq!(found.body.get("id"), None);
    }
    let text = client
        .request(reqwest::Method::POST)
        .header("content-type", "text/plain")
        .body("{}");
    answer(text).await.fails(415, "unsupported_media_type");
    let response = json!({ "jsonrpc": "2.0", "id": 1, "result": {} }).to_string();
    let found = client.post(&response).await;
    assert_eq!((found.status, error_code(&found)), (400, -32600));
    for method in [reqwest::Method::GET, reqwest::Method::DELETE] {
        let found = answer(client.request(method)).await;
        assert_eq!(found.status, 405);
        assert_eq!(found.headers["allow"], "POST");
    }
}
