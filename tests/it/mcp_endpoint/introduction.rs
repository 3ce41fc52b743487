//! Servers that only users start: the first list of an MCP client shows what they have.

use serde_json::{Value, json};

use super::client::{McpClient, error_code, result};
use crate::harness::{App, fixture};
use crate::wait::wait_until;

/// Registers a server that needs a variable of each user.
async fn register(app: &App) {
    let python = crate::remote::installed("python/bin/python");
    let body = json!({
        "name": "suite", "command": python, "args": [fixture("mcp_suite.py")],
        "credentials": [{ "name": "KEY", "in": "env", "required": true }],
    });
    app.post("/mcp/servers", body).await.ok();
}

fn names(list: &Value, member: &str) -> Vec<String> {
    let entries = list[member].as_array().expect("a list");
    let name = |entry: &Value| entry["name"].as_str().expect("a name").to_owned();
    entries.iter().map(name).collect()
}

#[tokio::test]
async fn the_first_list_of_a_user_shows_the_tools_of_a_server_that_needs_a_value() {
    for (path, tool) in [
        ("/mcp", "suite__test_simple_text"),
        ("/mcp/servers/suite/mcp", "test_simple_text"),
    ] {
        let app = App::start();
        register(&app).await;
        app.set_secret("ana", "suite", "KEY", "key-of-ana").await;
        let ana = McpClient::new(&app, path).user("ana");
        // On a busy machine the start takes longer than the first list waits.
        wait_until("a list shows the tool", async || {
            let tools = result(ana.modern("tools/list", json!({})).await);
            names(&tools, "tools").iter().any(|name| name == tool)
        })
        .await;
        let called = ana.modern("tools/call", json!({ "name": tool, "arguments": {} }));
        assert_ne!(result(called.await)["isError"], true);
    }
}

#[tokio::test]
async fn the_first_message_of_a_client_finds_the_prompts_of_a_server_that_needs_a_value() {
    for method in ["initialize", "server/discover", "prompts/list"] {
        let app = App::start();
        register(&app).await;
        app.set_secret("ana", "suite", "KEY", "key-of-ana").await;
        let ana = McpClient::new(&app, "/mcp").user("ana");
        // On a busy machine the start takes longer than the first message waits.
        wait_until("the answer shows the prompts", async || match method {
            "initialize" => {
                ana.initialize("2025-11-25").await.1["capabilities"]["prompts"].is_object()
            }
            "server/discover" => {
                let found = result(ana.modern(method, json!({})).await);
                found["capabilities"]["prompts"].is_object()
            }
            _ => {
                let found = ana.modern(method, json!({})).await;
                found.status == 200
            }
        })
        .await;
        let prompts = result(ana.modern("prompts/list", json!({})).await);
        let prompts = names(&prompts, "prompts");
        let expected = "suite__test_simple_prompt".to_owned();
        assert!(prompts.contains(&expected), "{method}: {prompts:?}");
    }
}

#[tokio::test]
async fn a_user_without_the_value_starts_nothing() {
    let app = App::start();
    register(&app).await;
    app.set_secret("ana", "suite", "KEY", "key-of-ana").await;
    let ben = McpClient::new(&app, "/mcp").user("ben");
    let tools = result(ben.modern("tools/list", json!({})).await);
    assert!(names(&tools, "tools").is_empty(), "{tools}");
    let prompts = ben.modern("prompts/list", json!({})).await;
    assert_eq!(error_code(&prompts), -32601, "{}", prompts.body);
}
