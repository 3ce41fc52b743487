//! A call without a required value asks the client to open the page where its user sets the value.

use reqwest::Method;
use serde_json::{Value, json};

use super::asking::{Session, ask, call, text};
use super::client::{McpClient, result};
use crate::harness::{App, fixture};
use crate::oauth::Authority;
use crate::oauth::browser::Browser;

const PATH: &str = "/mcp/servers/suite/mcp";
const TOOL: &str = "test_simple_text";

/// Registers a server that needs a variable of each user.
async fn register(app: &App) {
    let python = crate::remote::installed("python/bin/python");
    let body = json!({
        "name": "suite", "command": python, "args": [fixture("mcp_suite.py")],
        "credentials": [{ "name": "KEY", "in": "env", "required": true }],
    });
    app.post("/mcp/servers", body).await.ok();
    // Its tools are known, because another user has used it.
    app.set_secret("eve", "suite", "KEY", "key-of-eve").await;
    app.call("eve", "suite", TOOL, json!({})).await.ok();
}

async fn set_value(app: &App) {
    app.set_secret("ana", "suite", "KEY", "key-of-ana").await;
}

fn assert_leads_to_the_page(asked: &Value) {
    let params = &asked["params"];
    assert_eq!(
        (&asked["method"], &params["mode"]),
        (&json!("elicitation/create"), &json!("url"))
    );
    let url = params["url"].as_str().expect("a URL");
    assert!(url.ends_with("/connect/suite"), "{url}");
    let message = params["message"].as_str().expect("a message");
    assert!(message.contains("KEY"), "{message}");
}

#[tokio::test]
async fn a_client_with_a_session_is_asked_on_its_stream_and_the_call_goes_on() {
    for (path, tool) in [(PATH, TOOL), ("/mcp", "suite__test_simple_text")] {
        let app = App::start();
        register(&app).await;
        let session = Session::begin(&app, path, "ana").await;
        let mut stream = session.call(tool, json!({})).await;
        let asked = stream.notification("elicitation/create").await;
        assert_leads_to_the_page(&asked);
        assert!(asked["params"]["elicitationId"].is_string(), "{asked}");
        let accepted = session.answer(&asked, json!({ "action": "accept" })).await;
        assert_eq!(accepted.status, 202);
        set_value(&app).await;
        let done = stream.next().await.expect("a response");
        assert!(text(&done["result"]).contains("simple text"), "{done}");
    }
}

#[tokio::test]
async fn a_client_that_declines_gets_the_failure_with_the_link() {
    let mut app = App::start();
    register(&app).await;
    let second = if app.services.is_some() {
        app.add("api")
    } else {
        0
    };
    let session = Session::begin(&app, PATH, "ana").await;
    let mut stream = session.call(TOOL, json!({})).await;
    let asked = stream.notification("elicitation/create").await;
    // In the distributed setup, the answer arrives at another facade.
    let elsewhere = format!("{}{PATH}", app.processes[second].url);
    let elsewhere = Session(session.0.moved(&elsewhere));
    let declined = elsewhere
        .answer(&asked, json!({ "action": "decline" }))
        .await;
    assert_eq!(declined.status, 202, "{}", declined.body);
    let done = stream.next().await.expect("a response");
    let failure = &done["result"]["_meta"]["mcp-api/failure"];
    assert_eq!(failure["code"], "credential_required", "{done}");
    assert!(text(&done["result"]).contains("/connect/suite"), "{done}");
}

#[tokio::test]
async fn a_client_of_2026_is_asked_in_the_result_and_calls_again() {
    let app = App::start();
    register(&app).await;
    for (path, prefix) in [(PATH, ""), ("/mcp", "suite__")] {
        let ana = McpClient::new(&app, path).user("ana");
        let tool = format!("{prefix}{TOOL}");
        let asked = result(call(&ana, &tool, json!({})).await);
        assert_eq!(asked["resultType"], "input_required", "{asked}");
        assert_leads_to_the_page(&asked["inputRequests"]["mcp-api_sign_in"]);
        let answer = |action: &str| {
            json!({
                "inputResponses": { "mcp-api_sign_in": { "action": action } },
                "requestState": asked["requestState"],
            })
        };
        let declined = result(call(&ana, &tool, answer("decline")).await);
        assert_eq!(declined["isError"], true, "{declined}");
        let accepted = call(&ana, &tool, answer("accept"));
        let (done, ()) = tokio::join!(accepted, set_value(&app));
        assert!(text(&result(done)).contains("simple text"));
        let body = json!({ "username": "ana", "serverName": "suite", "secretName": "KEY" });
        app.post("/secrets/delete", body).await.ok();
    }
}

#[tokio::test]
async fn a_prompt_asks_too() {
    let app = App::start();
    register(&app).await;
    let params = json!({ "name": "test_simple_prompt" });
    let session = Session::begin(&app, PATH, "ana").await;
    let mut stream = session.open(7, "prompts/get", params.clone()).await;
    assert_leads_to_the_page(&stream.notification("elicitation/create").await);
    let ana = McpClient::new(&app, PATH).user("ana");
    let asked = result(ask(&ana, "prompts/get", params.clone()).await);
    assert_leads_to_the_page(&asked["inputRequests"]["mcp-api_sign_in"]);
    set_value(&app).await;
    let done = stream.next().await.expect("a response");
    assert!(done["result"]["messages"].is_array(), "{done}");
    let mut again = params;
    again["requestState"] = asked["requestState"].clone();
    again["inputResponses"] = json!({ "mcp-api_sign_in": { "action": "accept" } });
    let done = result(ask(&ana, "prompts/get", again).await);
    assert!(done["messages"].is_array(), "{done}");
}

#[tokio::test]
async fn a_client_without_url_elicitation_gets_the_failure_at_once() {
    let app = App::start();
    register(&app).await;
    let ana = McpClient::new(&app, PATH).user("ana");
    let failed = ana.call_modern(TOOL, json!({})).await;
    assert_eq!(failed["isError"], true, "{failed}");
    let (session, _) = ana.initialize("2025-11-25").await;
    let body = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": TOOL, "arguments": {} },
    });
    let request = session.request(Method::POST).json(&body);
    let failed = result(crate::harness::answer(request).await);
    let code = &failed["_meta"]["mcp-api/failure"]["code"];
    assert_eq!(code, "credential_required", "{failed}");
}

#[tokio::test]
async fn a_call_goes_on_after_its_user_has_given_access_with_oauth() {
    let (app, authority) = (App::start(), Authority::start().await);
    let registered = crate::remote::register(&app, "gated", &authority.mcp, json!({})).await;
    registered.ok();
    let session = Session::begin(&app, "/mcp/servers/gated/mcp", "ana").await;
    let mut stream = session.call("echo", json!({ "message": "hi" })).await;
    let asked = stream.notification("elicitation/create").await;
    let url = asked["params"]["url"].as_str().expect("a URL");
    let page = Browser::new().open(url).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let done = stream.next().await.expect("a response");
    assert_eq!(text(&done["result"]), "Echo: hi");
}

#[tokio::test]
async fn a_call_waits_for_all_values_and_for_no_other() {
    let app = App::start();
    let python = crate::remote::installed("python/bin/python");
    let keys = ["KEY_1", "KEY_2", "KEY_3", "KEY_4", "KEY_5"];
    let required = |name: &&str| json!({ "name": name, "in": "env", "required": true });
    let mut credentials: Vec<_> = keys.iter().map(required).collect();
    credentials.push(json!({ "name": "ORG", "in": "env", "owner": "shared" }));
    let body = json!({
        "name": "suite", "command": python, "args": [fixture("mcp_suite.py")],
        "credentials": credentials,
    });
    app.post("/mcp/servers", body).await.ok();
    let session = Session::begin(&app, PATH, "ana").await;
    let mut stream = session.call(TOOL, json!({})).await;
    stream.notification("elicitation/create").await;
    for (number, key) in keys.iter().enumerate() {
        let shared = json!({
            "serverName": "suite", "secretName": "ORG", "secretValue": format!("org-{number}"),
            "shared": true,
        });
        app.post("/secrets/set", shared).await.ok();
        app.set_secret("ana", "suite", key, "a-value").await;
    }
    // The next message is the response: the client was asked once.
    let done = stream.next().await.expect("a response");
    assert!(text(&done["result"]).contains("simple text"), "{done}");
}

#[tokio::test]
async fn the_waits_of_a_user_are_limited() {
    let app = App::start();
    register(&app).await;
    let session = Session::begin(&app, PATH, "ana").await;
    let mut streams = vec![];
    for _ in 0..16 {
        let mut stream = session.call(TOOL, json!({})).await;
        stream.notification("elicitation/create").await;
        streams.push(stream);
    }
    let refused = session.0.call_legacy(TOOL, json!({})).await;
    assert_eq!(refused["isError"], true, "{refused}");
    set_value(&app).await;
    for mut stream in streams {
        let done = stream.next().await.expect("a response");
        assert!(text(&done["result"]).contains("simple text"), "{done}");
    }
}
