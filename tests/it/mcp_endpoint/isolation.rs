//! The endpoints show a user nothing of another user, and refuse pages of other sites.

use std::sync::Arc;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{FIXTURE, McpClient, Messages, result, text_of};
use crate::harness::{App, answer};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_request_ids_and_progress_tokens_of_two_users_meet_their_own_calls() {
    let app = Arc::new(App::start());
    app.register_fixture("fixture").await.ok();
    for user in ["ana", "ben"] {
        app.set_secret(user, "fixture", "owner", user).await;
    }
    let calls = (0..40).map(|number| {
        let app = app.clone();
        async move {
            let user = if number % 2 == 0 { "ana" } else { "ben" };
            let client = McpClient::new(&app, FIXTURE).user(user);
            let called = client
                .call_modern("arguments", json!({ "number": number, "wait": 5 }))
                .await;
            let arguments: Value = serde_json::from_str(text_of(&called)).expect("JSON");
            assert_eq!(arguments["owner"], user);
            assert_eq!(arguments["number"], number);
            let params = json!({
                "name": "progress", "arguments": { "steps": 2, "ms": 1, "message": user },
                "_meta": { "progressToken": 1 },
            });
            let mut messages = Messages::open(client.modern_request("tools/call", params)).await;
            for _ in 0..2 {
                let progress = messages.notification("notifications/progress").await;
                // The name is a secret of this user, so it is masked; the other name must never come.
                let other = if user == "ana" { "ben" } else { "ana" };
                assert!(!progress.to_string().contains(other), "{progress}");
            }
            assert_eq!(messages.next().await.expect("a response")["id"], 7);
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_listed_secret_is_no_property_of_the_tool_and_is_filled_in() {
    let app = App::start();
    app.register("fixture", json!({ "secretNames": ["message"] }))
        .await
        .ok();
    app.set_secret("ana", "fixture", "message", "of ana").await;
    let client = McpClient::new(&app, FIXTURE).user("ana");
    let given = client
        .call_modern("echo", json!({ "message": "of the client" }))
        .await;
    assert_eq!(text_of(&given), "of ana");
}

#[tokio::test]
async fn a_property_that_a_secret_fills_is_hidden_unless_the_server_shows_it() {
    let app = App::start();
    let everything = json!({
        "name": "everything", "command": "node", "secretNames": ["message"],
        "args": [crate::real_servers::installed(
            "npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js",
        )],
    });
    app.post("/mcp/servers", everything).await.ok();
    let client = McpClient::new(&app, "/mcp/servers/everything/mcp");
    let echo = async || {
        let list = result(client.modern("tools/list", json!({})).await);
        let tools = list["tools"].as_array().expect("tools").clone();
        let echo = tools.into_iter().find(|tool| tool["name"] == "echo");
        echo.expect("the tool")["inputSchema"].take()
    };
    let hidden = echo().await;
    assert_eq!(
        (&hidden["properties"], &hidden["required"]),
        (&json!({}), &json!([]))
    );
    let server = app
        .put(
            "/mcp/servers/everything",
            json!({ "hideSecretArguments": false }),
        )
        .await
        .ok();
    assert_eq!(server["server"]["hideSecretArguments"], false);
    let shown = echo().await;
    assert_eq!(shown["required"], json!(["message"]));
    assert!(shown["properties"]["message"].is_object());
}

#[tokio::test]
async fn a_list_shows_exactly_the_servers_whose_tools_can_be_called() {
    const ADMIN: &str = "an-admin-token-of-many-characters";
    const NAMES: [&str; 3] = ["first", "second", "third"];
    let app = App::start_with(&[("ADMIN_TOKEN", ADMIN)]);
    let send = async |method: Method, path: &str, token: &str, body: Value| {
        let request = app.http.request(method, format!("{}{path}", app.url));
        answer(request.bearer_auth(token).json(&body)).await
    };
    for name in NAMES {
        let server = json!({
            "name": name, "command": crate::harness::python(),
            "args": ["-u", crate::harness::fixture("server.py")],
        });
        send(Method::POST, "/mcp/servers", ADMIN, server).await.ok();
    }
    send(Method::PUT, "/mcp/servers/third/disable", ADMIN, json!({}))
        .await
        .ok();
    for subset in 0..8 {
        let allowed: Vec<_> = (0..3)
            .filter(|bit| subset >> bit & 1 == 1)
            .map(|bit| NAMES[bit])
            .collect();
        let mut body = json!({ "username": "ana" });
        if !allowed.is_empty() {
            body["servers"] = json!(allowed);
        }
        let token = send(Method::POST, "/tokens", ADMIN, body).await.ok();
        let token = token["token"].as_str().expect("a token");
        let all = McpClient::new(&app, "/mcp").token(token);
        let list = result(all.modern("tools/list", json!({})).await);
        let rest = send(Method::GET, "/mcp/tools", token, json!({})).await.ok();
        for name in NAMES {
            let expected = name != "third" && (allowed.is_empty() || allowed.contains(&name));
            let shown = format!("{name} with a token for {allowed:?}");
            let prefix = format!("\"{name}__");
            assert_eq!(list.to_string().contains(&prefix), expected, "{shown}");
            assert_eq!(
                rest.to_string().contains(&format!("{{\"{name}\":")),
                expected,
                "{shown}"
            );
            let call = json!({ "name": format!("{name}__echo"), "arguments": { "message": "x" } });
            let called = all.modern("tools/call", call).await;
            assert_eq!(called.body["result"].is_object(), expected, "{shown}");
            let single = McpClient::new(&app, &format!("/mcp/servers/{name}/mcp")).token(token);
            let listed = single.modern("tools/list", json!({})).await;
            assert_eq!(listed.status, if expected { 200 } else { 404 }, "{shown}");
            let call = json!({ "name": "echo", "arguments": { "message": "x" } });
            let called = single.modern("tools/call", call).await;
            assert_eq!(called.status, if expected { 200 } else { 404 }, "{shown}");
        }
    }
}

#[tokio::test]
async fn a_page_of_another_site_cannot_use_the_endpoints() {
    let app = App::start_with(&[
        ("ALLOWED_HOSTS", "app.example.com"),
        ("ADMIN_TOKEN", "an-admin-token-of-many-characters"),
    ]);
    let client = McpClient::new(&app, "/mcp").token("an-admin-token-of-many-characters");
    for (origin, is_allowed) in [
        ("http://localhost:6274", true),
        ("https://app.example.com", true),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let request = client
            .modern_request("tools/list", json!({}))
            .header("origin", origin);
        let found = answer(request).await;
        assert_eq!(found.status, if is_allowed { 200 } else { 403 }, "{origin}");
        let allowed = found.headers.get("access-control-allow-origin");
        assert_eq!(allowed.is_some(), is_allowed, "{origin}");
        let preflight = McpClient::new(&app, "/mcp")
            .request(Method::OPTIONS)
            .header("origin", origin)
            .header(
                "access-control-request-headers",
                "mcp-param-region, authorization",
            );
        let preflight = answer(preflight).await;
        assert_eq!(
            preflight.status,
            if is_allowed { 204 } else { 403 },
            "{origin}"
        );
        if is_allowed {
            let headers = preflight.headers["access-control-allow-headers"]
                .to_str()
                .expect("ASCII");
            assert!(headers.contains("mcp-param-region") && headers.contains("authorization"));
        }
    }
    let anonymous = McpClient::new(&app, "/mcp")
        .modern("tools/list", json!({}))
        .await;
    assert_eq!(anonymous.headers["www-authenticate"], "Bearer");
    anonymous.fails(401, "unauthenticated");
}

#[tokio::test]
async fn a_raw_name_is_accepted_if_one_server_has_it() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    let client = McpClient::new(&app, "/mcp");
    let called = client.call_modern("echo", json!({ "message": "x" })).await;
    assert_eq!(text_of(&called), "x");
    app.register_fixture("second").await.ok();
    let ambiguous = client.modern("tools/call", json!({ "name": "echo" })).await;
    assert_eq!(ambiguous.body["error"]["code"], -32602);
    let list = result(client.modern("tools/list", json!({})).await);
    for tool in list["tools"].as_array().expect("tools") {
        let name = tool["name"].as_str().expect("a name");
        assert!(name.len() <= 56 && name.contains("__"), "{name}");
    }
}
