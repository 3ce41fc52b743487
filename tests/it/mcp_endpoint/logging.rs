//! Log lines of a call: they reach the client of that call, from its level on.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::changes::register_stdio;
use super::client::{McpClient, Messages, error_code, result, text_of};
use crate::harness::{App, answer};
use crate::remote::{Kind, Real, connected};
use crate::wait::wait_until;

const ONE: &str = "/mcp/servers/suite/mcp";
const LEVEL: &str = "io.modelcontextprotocol/logLevel";
const LINE: &str = "notifications/message";

fn params(text: &str) -> Value {
    json!({ "name": "test_log_levels", "arguments": { "text": text } })
}

fn modern_call(client: &McpClient, level: Option<&str>) -> RequestBuilder {
    let mut params = params("of-the-modern-client");
    if let Some(level) = level {
        params["_meta"] = json!({ (LEVEL): level });
    }
    client.modern_request("tools/call", params)
}

fn legacy_call(session: &McpClient) -> RequestBuilder {
    let body = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params("of-the-session"),
    });
    session.request(Method::POST).json(&body)
}

/// Reads the stream of a call. Returns the levels of its lines.
async fn levels(call: RequestBuilder, text: &str) -> Vec<String> {
    let mut stream = Messages::open(call).await;
    let mut levels = vec![];
    while let Some(message) = stream.next().await {
        if message["method"] != LINE {
            assert_eq!(text_of(&message["result"]), "Lines logged", "{message}");
            assert!(stream.next().await.is_none());
            return levels;
        }
        let level = message["params"]["level"].as_str().expect("a level");
        assert_eq!(message["params"]["data"], format!("{level}: {text}"));
        levels.push(level.to_owned());
    }
    panic!("the stream ended without a response");
}

async fn set_level(session: &McpClient, level: &str) {
    let set = session.legacy("logging/setLevel", json!({ "level": level }));
    assert_eq!(result(set.await), json!({}));
}

/// Calls the server as clients with different levels.
async fn log_at_all_levels(app: &App) {
    for (path, tool) in [(ONE, "test_log_levels"), ("/mcp", "suite__test_log_levels")] {
        let client = McpClient::new(app, path);
        let (session, begun) = client.initialize("2025-11-25").await;
        assert_eq!(begun["capabilities"]["logging"], json!({}));
        let of_session = async || levels(legacy_call(&session), "of-the-session").await;
        assert_eq!(of_session().await, ["info", "warning", "error"], "{path}");
        set_level(&session, "warning").await;
        assert_eq!(of_session().await, ["warning", "error"], "{path}");
        set_level(&session, "debug").await;
        assert_eq!(of_session().await, ["debug", "info", "warning", "error"]);
        // A client of 2026-07-28 gets lines only if it asks for them.
        let plain = client.call_modern(tool, json!({ "text": "unheard" })).await;
        assert_eq!(text_of(&plain), "Lines logged");
        let call = modern_call(&client, Some("error"));
        assert_eq!(levels(call, "of-the-modern-client").await, ["error"]);
    }
}

#[tokio::test]
async fn lines_of_a_server_with_sessions_reach_the_client_of_the_call() {
    let app = App::start();
    let suite = Real::start(Kind::SuiteWithSessions).await;
    connected(&app, "suite", &suite.url()).await;
    log_at_all_levels(&app).await;
}

#[tokio::test]
async fn lines_of_a_server_without_sessions_reach_the_client_of_the_call() {
    let app = App::start();
    let suite = Real::start(Kind::Suite).await;
    connected(&app, "suite", &suite.url()).await;
    log_at_all_levels(&app).await;
}

#[tokio::test]
async fn lines_of_a_prompt_reach_the_client_of_the_request() {
    for kind in [Kind::Suite, Kind::SuiteWithSessions] {
        let app = App::start();
        let suite = Real::start(kind).await;
        connected(&app, "suite", &suite.url()).await;
        for (path, name) in [
            (ONE, "test_prompt_with_logging"),
            ("/mcp", "suite__test_prompt_with_logging"),
        ] {
            let (session, _) = McpClient::new(&app, path).initialize("2025-11-25").await;
            set_level(&session, "warning").await;
            let params = json!({ "name": name });
            let body =
                json!({ "jsonrpc": "2.0", "id": 7, "method": "prompts/get", "params": params });
            let mut stream = Messages::open(session.request(Method::POST).json(&body)).await;
            for level in ["warning", "error"] {
                let line = stream.notification(LINE).await;
                assert_eq!(line["params"]["data"], format!("{level}: of-the-prompt"));
            }
            let response = stream.next().await.expect("a response");
            let text = &response["result"]["messages"][0]["content"]["text"];
            assert_eq!(text, "A prompt that logs", "{response}");
        }
    }
}

#[tokio::test]
async fn a_client_that_takes_no_stream_gets_the_result_alone() {
    let app = App::start();
    let suite = Real::start(Kind::Suite).await;
    connected(&app, "suite", &suite.url()).await;
    let (session, _) = McpClient::new(&app, ONE).initialize("2025-11-25").await;
    let call = legacy_call(&session).header("accept", "application/json");
    let called = result(answer(call).await);
    assert_eq!(text_of(&called), "Lines logged");
}

#[tokio::test]
async fn lines_of_a_child_process_stay_in_the_log_of_the_server() {
    let app = App::start();
    register_stdio(&app, json!({})).await;
    let (session, _) = McpClient::new(&app, ONE).initialize("2025-11-25").await;
    set_level(&session, "debug").await;
    let called = result(session.legacy("tools/call", params("quiet")).await);
    assert_eq!(text_of(&called), "Lines logged");
    wait_until("the log has the lines", async || {
        let server = app.get("/mcp/servers/suite").await.ok();
        server.to_string().contains("warning: quiet")
    })
    .await;
}

#[tokio::test]
async fn a_server_with_sessions_is_asked_for_the_most_verbose_level() {
    let app = App::start();
    let suite = Real::start(Kind::SuiteWithSessions).await;
    connected(&app, "suite", &suite.url()).await;
    let client = McpClient::new(&app, ONE);
    let asked = async |session: &McpClient| {
        let called = session.call_legacy("test_asked_level", json!({})).await;
        text_of(&called).to_owned()
    };
    let mut sessions = vec![];
    for _ in 0..3 {
        sessions.push(client.initialize("2025-11-25").await.0);
    }
    assert_eq!(asked(&sessions[0]).await, "none");
    set_level(&sessions[1], "warning").await;
    assert_eq!(asked(&sessions[1]).await, "warning");
    set_level(&sessions[2], "debug").await;
    assert_eq!(asked(&sessions[2]).await, "debug");
    assert_eq!(asked(&sessions[1]).await, "debug");
}

#[tokio::test]
async fn a_level_of_one_facade_counts_at_the_others() {
    let mut app = App::start();
    let suite = Real::start(Kind::Suite).await;
    connected(&app, "suite", &suite.url()).await;
    let other = if app.services.is_some() {
        let second = app.add("api");
        app.processes[second].url.clone()
    } else {
        app.url.clone()
    };
    let (session, _) = McpClient::new(&app, ONE).initialize("2025-11-25").await;
    set_level(&session, "error").await;
    let elsewhere = session.moved(&format!("{other}{ONE}"));
    wait_until("the other facade knows the level", async || {
        levels(legacy_call(&elsewhere), "of-the-session").await == ["error"]
    })
    .await;
}

#[tokio::test]
async fn an_unknown_level_is_refused() {
    let app = App::start();
    register_stdio(&app, json!({})).await;
    let client = McpClient::new(&app, ONE);
    let (session, _) = client.initialize("2025-11-25").await;
    for level in [json!("loud"), json!(7), Value::Null] {
        let refused = session.legacy("logging/setLevel", json!({ "level": level }));
        let refused = refused.await;
        assert_eq!(error_code(&refused), -32602, "{}", refused.body);
    }
    let refused = answer(modern_call(&client, Some("loud"))).await;
    assert_eq!((refused.status, error_code(&refused)), (400, -32602));
    // The modern era has no such method.
    let refused = client.modern("logging/setLevel", json!({ "level": "info" }));
    let refused = refused.await;
    assert_eq!((refused.status, error_code(&refused)), (404, -32601));
}
