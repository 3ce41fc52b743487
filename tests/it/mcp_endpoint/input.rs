//! Servers that ask the client during a call: elicitation, sampling and roots, for clients and servers of both eras.

use reqwest::Method;
use serde_json::{Value, json};

use super::asking::{Session, ask, call, text};
use super::client::{McpClient, Messages, error_code, result};
use crate::harness::App;
use crate::remote::{Kind, Real, register};

pub const PATH: &str = "/mcp/servers/suite/mcp";

/// Starts the suite's server behind a URL and registers it.
pub async fn register_suite(app: &App, kind: Kind) -> Real {
    let suite = Real::start(kind).await;
    let registered = register(app, "suite", &suite.url(), json!({})).await;
    registered.ok();
    suite
}

fn accepted(field: &str, value: Value) -> Value {
    json!({ "action": "accept", "content": { field: value } })
}

#[tokio::test]
async fn a_client_of_2026_answers_a_server_of_2026_in_the_next_request() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::Suite).await;
    for (path, prefix) in [(PATH, ""), ("/mcp", "suite__")] {
        let client = McpClient::new(&app, path).user("ana");
        let tool = format!("{prefix}test_input_required_result_multi_round");
        let mut more = json!({});
        for (key, field) in [("step1", "name"), ("step2", "color")] {
            let asked = result(call(&client, &tool, more).await);
            assert_eq!(asked["resultType"], "input_required", "{asked}");
            assert_eq!(asked["inputRequests"][key]["method"], "elicitation/create");
            more = json!({
                "inputResponses": { key: accepted(field, json!("blue")) },
                "requestState": asked["requestState"],
            });
        }
        let done = result(call(&client, &tool, more).await);
        assert_eq!(text(&done), "blue likes blue");
        let prompt = format!("{prefix}test_input_required_result_prompt");
        let params = json!({ "name": prompt });
        let asked = result(ask(&client, "prompts/get", params.clone()).await);
        assert_eq!(asked["resultType"], "input_required", "{asked}");
        let mut params = params;
        params["inputResponses"] = json!({ "user_context": accepted("context", json!("rain")) });
        let done = result(ask(&client, "prompts/get", params).await);
        let message = done["messages"][0]["content"]["text"].as_str();
        assert_eq!(message, Some("Use this context: rain"), "{done}");
    }
}

#[tokio::test]
async fn a_state_belongs_to_its_user_its_request_and_its_endpoint() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::Suite).await;
    let tool = "test_input_required_result_request_state";
    let ana = McpClient::new(&app, PATH).user("ana");
    let asked = result(call(&ana, tool, json!({})).await);
    let state = asked["requestState"].as_str().expect("a state").to_owned();
    let more = |state: &str| {
        json!({
            "inputResponses": { "confirm": accepted("ok", json!(true)) },
            "requestState": state,
        })
    };
    let ben = McpClient::new(&app, PATH).user("ben");
    let everywhere = McpClient::new(&app, "/mcp").user("ana");
    let mut other_arguments = more(&state);
    other_arguments["arguments"] = json!({ "a": 1 });
    let changed = format!("{}x", &state[..state.len() - 1]);
    for refused in [
        call(&ben, tool, more(&state)).await,
        call(&everywhere, tool, more(&state)).await,
        call(
            &ana,
            "test_input_required_result_tampered_state",
            more(&state),
        )
        .await,
        call(&ana, tool, other_arguments).await,
        call(&ana, tool, more(&changed)).await,
        call(&ana, tool, json!({ "requestState": 1 })).await,
        call(&ana, tool, json!({ "inputResponses": { "confirm": 1 } })).await,
    ] {
        assert_eq!(error_code(&refused), -32602, "{}", refused.body);
    }
    let done = result(call(&ana, tool, more(&state)).await);
    assert!(text(&done).starts_with("state-ok"), "{done}");
}

#[tokio::test]
async fn a_capability_that_a_client_has_not_declared_is_not_used() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::Suite).await;
    let client = McpClient::new(&app, PATH);
    let tool = "test_input_required_result_capabilities";
    let params = json!({ "name": tool, "arguments": {} });
    let done = result(client.modern("tools/call", params).await);
    assert_eq!(text(&done), "Nothing was asked");
    let params = json!({ "name": "test_missing_capability", "arguments": {} });
    let refused = client.modern("tools/call", params).await;
    assert_eq!((refused.status, error_code(&refused)), (400, -32021));
    let done = result(call(&client, "test_missing_capability", json!({})).await);
    assert_eq!(text(&done), "The client samples");
}

#[tokio::test]
async fn a_rest_call_of_a_tool_that_asks_says_so() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::Suite).await;
    let tool = "test_input_required_result_elicitation";
    let answer = app.call("ana", "suite", tool, json!({})).await;
    let sentence = answer.fails(502, "upstream_error");
    assert!(sentence.contains("needs elicitation"), "{sentence}");
}

/// Returns the answer of a client to a request of a server.
fn answer_to(asked: &Value) -> Value {
    match asked["method"].as_str() {
        Some("elicitation/create") => {
            json!({ "action": "accept", "content": { "name": "Ana", "username": "Ana", "email": "a@example.com" } })
        }
        Some("sampling/createMessage") => json!({
            "role": "assistant", "model": "scripted",
            "content": { "type": "text", "text": "Paris" },
        }),
        Some("roots/list") => json!({ "roots": [{ "uri": "file:///home/ana" }] }),
        _ => panic!("no request: {asked}"),
    }
}

/// Calls a tool, answers all requests of its server, and returns the result.
pub async fn answered(session: &Session, tool: &str, arguments: Value) -> (Value, usize) {
    let stream = session.call(tool, arguments).await;
    answer_all(session, stream).await
}

/// Answers all requests on the stream of a call. Returns its result, and the number of requests.
pub async fn answer_all(session: &Session, mut stream: Messages) -> (Value, usize) {
    let mut asked = 0;
    loop {
        let mut message = stream.next().await.expect("a message");
        if message["method"].is_null() {
            let result = message["result"].take();
            assert!(result.is_object(), "{message}");
            return (result, asked);
        }
        asked += 1;
        let delivered = session.answer(&message, answer_to(&message)).await;
        assert_eq!(delivered.status, 202, "{}", delivered.body);
    }
}

/// Calls tools that ask for input, for a text of a model and for roots, one by one and together. `server` stands in failures.
pub async fn every_question_is_answered(session: &Session, server: &str) {
    for (tool, arguments, expected) in [
        (
            "test_elicitation",
            json!({ "message": "Who?" }),
            "User response: action: accept",
        ),
        (
            "test_sampling",
            json!({ "prompt": "Capital?" }),
            "LLM response: Paris",
        ),
        (
            "test_input_required_result_list_roots",
            json!({}),
            "Roots: file:///home/ana",
        ),
    ] {
        let (result, asked) = answered(session, tool, arguments).await;
        assert!(text(&result).starts_with(expected), "{server}: {result}");
        assert_eq!(asked, 1, "{server} {tool}");
    }
    let tool = "test_input_required_result_multiple_inputs";
    let (result, asked) = answered(session, tool, json!({})).await;
    assert_eq!(text(&result), "Paris Ana: file:///home/ana", "{server}");
    assert_eq!(asked, 3);
}

#[tokio::test]
async fn a_client_with_a_session_answers_servers_of_both_eras_on_the_stream_of_its_call() {
    for (kind, protocol) in [
        (Kind::Suite, "without sessions"),
        (Kind::SuiteWithSessions, "with sessions"),
    ] {
        let app = App::start();
        let _suite = register_suite(&app, kind).await;
        let session = Session::begin(&app, PATH, "ana").await;
        every_question_is_answered(&session, protocol).await;
    }
}

#[tokio::test]
async fn the_end_of_an_elicitation_at_a_page_reaches_the_client_that_was_asked() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::SuiteWithSessions).await;
    let session = Session::begin(&app, PATH, "ana").await;
    let url = "https://app.example/page";
    let mut stream = session
        .call("test_elicitation_url", json!({ "url": url }))
        .await;
    let asked = stream.notification("elicitation/create").await;
    assert_eq!(asked["params"]["url"], url);
    assert_eq!(asked["params"]["elicitationId"], "page-1");
    session.answer(&asked, json!({ "action": "accept" })).await;
    let completed = stream.next().await.expect("a message");
    let expected = json!({
        "jsonrpc": "2.0", "method": "notifications/elicitation/complete",
        "params": { "elicitationId": "page-1" },
    });
    assert_eq!(completed, expected);
    let response = stream.next().await.expect("a response");
    assert_eq!(text(&response["result"]), "The user said: accept");
}

#[tokio::test]
async fn only_the_asked_client_answers_and_only_once() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::Suite).await;
    let ana = Session::begin(&app, PATH, "ana").await;
    let ben = Session::begin(&app, PATH, "ben").await;
    let elsewhere = Session::begin(&app, "/mcp", "ana").await;
    let mut stream = ana
        .call("test_elicitation", json!({ "message": "Who?" }))
        .await;
    let asked = stream.notification("elicitation/create").await;
    for other in [&ben, &elsewhere] {
        let refused = other.answer(&asked, answer_to(&asked)).await;
        assert_eq!((refused.status, error_code(&refused)), (400, -32600));
    }
    let mut forged = asked.clone();
    forged["id"] = json!(
        asked["id"]
            .as_str()
            .expect("a text")
            .replacen(".1.", ".2.", 1)
    );
    assert_eq!(ana.answer(&forged, answer_to(&asked)).await.status, 400);
    let refused = ana.answer(&asked, json!([])).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    let decline = json!({ "action": "decline" });
    assert_eq!(ana.answer(&asked, decline).await.status, 202);
    // The second answer comes too late.
    assert_eq!(ana.answer(&asked, answer_to(&asked)).await.status, 202);
    let done = stream.next().await.expect("a response");
    assert!(text(&done["result"]).contains("action: decline"), "{done}");
    assert_eq!(ana.answer(&asked, answer_to(&asked)).await.status, 202);
}

#[tokio::test]
async fn a_client_with_a_session_that_takes_no_stream_is_not_asked() {
    let app = App::start();
    let _suite = register_suite(&app, Kind::Suite).await;
    let session = Session::begin(&app, PATH, "ana").await;
    let body = json!({
        "jsonrpc": "2.0", "id": 7, "method": "tools/call",
        "params": { "name": "test_input_required_result_capabilities", "arguments": {} },
    });
    let request = session.0.request(Method::POST).json(&body);
    let answer = crate::harness::answer(request.header("accept", "application/json")).await;
    assert_eq!(text(&result(answer)), "Nothing was asked");
}
