//! Child processes of earlier revisions with `interaction: exclusive`: they ask the client of the running call, and calls run
//! one at a time.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::asking::{Session, call, text};
use super::client::{McpClient, Messages, result};
use super::input::{PATH, answer_all, every_question_is_answered};
use crate::harness::{App, fixture, python};
use crate::remote::{installed, register};
use crate::wait::wait_until;

const METRIC: &str = "mcp_api_mcp_server_requests_total";
/// How long a child may owe the answer of a cancelled call before it is started again.
const OWED_ANSWER: Duration = Duration::from_secs(2);

/// Registers the suite's server as a child without the revision 2026-07-28.
async fn register_suite(app: &App, more: Value) -> Value {
    let python = installed("python/bin/python");
    let args = json!(["-u", fixture("mcp_suite.py"), "sessions"]);
    let mut server = json!({ "name": "suite", "command": python, "args": args });
    let members = server.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    let registered = app.post("/mcp/servers", server).await.ok();
    assert_eq!(registered["server"]["status"], "connected", "{registered}");
    registered["server"].clone()
}

fn exclusive() -> Value {
    json!({ "interaction": "exclusive" })
}

/// Calls a tool, and answers if the client is asked. Returns the text of the result, and the number of questions.
async fn call_answering(session: &Session, tool: &str, arguments: Value) -> (String, usize) {
    let params = json!({ "name": tool, "arguments": arguments });
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params });
    let request = session.0.request(Method::POST).json(&body);
    let stream = Messages::open_or_answer(request).await;
    let (result, asked) = answer_all(session, stream).await;
    (text(&result).to_owned(), asked)
}

/// Calls a tool that asks who the user is. Returns the stream of the call, and the question.
async fn question(session: &Session) -> (Messages, Value) {
    let mut stream = session
        .call("test_elicitation", json!({ "message": "Who?" }))
        .await;
    let asked = stream.notification("elicitation/create").await;
    (stream, asked)
}

/// Calls a tool that asks who the user is. Returns what the server has heard.
async fn elicit(session: &Session) -> String {
    let arguments = json!({ "message": "Who are you?" });
    call_answering(session, "test_elicitation", arguments)
        .await
        .0
}

#[tokio::test]
async fn a_child_asks_the_client_of_the_running_call() {
    let app = App::start();
    let server = register_suite(&app, exclusive()).await;
    assert_eq!(server["interaction"], "exclusive");
    let session = Session::begin(&app, PATH, "ana").await;
    every_question_is_answered(&session, "a child that may ask").await;
    let mut stream = session
        .call(
            "test_elicitation_url",
            json!({ "url": "https://a.example" }),
        )
        .await;
    let asked = stream.notification("elicitation/create").await;
    session.answer(&asked, json!({ "action": "accept" })).await;
    let completed = stream.next().await.expect("a message");
    assert_eq!(completed["method"], "notifications/elicitation/complete");
    assert_eq!(completed["params"]["elicitationId"], "page-1");
    let mut stream = session.call("test_tool_with_logging", json!({})).await;
    let line = stream.notification("notifications/message").await;
    assert_eq!(line["params"]["level"], "info", "{line}");
}

#[tokio::test]
async fn callers_that_cannot_be_asked_are_refused_as_at_a_child_that_may_not_ask() {
    let app = App::start();
    register_suite(&app, exclusive()).await;
    let arguments = json!({ "message": "Who?" });
    let rest = app
        .call("ana", "suite", "test_elicitation", arguments.clone())
        .await
        .ok();
    let declined = "User response: action: decline, content: null";
    assert_eq!(rest["data"]["content"], declined);
    let modern = McpClient::new(&app, PATH).user("ana");
    let called = result(
        call(
            &modern,
            "test_elicitation",
            json!({ "arguments": arguments }),
        )
        .await,
    );
    assert_eq!(text(&called), declined);
    let labels = [
        ("method", "elicitation/create"),
        ("outcome", "unattributable"),
    ];
    assert_eq!(app.total(METRIC, &labels).await, 2.0);
    let without_capabilities = McpClient::new(&app, PATH).user("ana");
    let (session, _) = without_capabilities.initialize("2025-11-25").await;
    let called = session
        .call_legacy("test_elicitation", json!({ "message": "Who?" }))
        .await;
    assert_eq!(text(&called), declined);
    let logs = app.get("/mcp/servers/suite").await.ok()["server"]["logs"].to_string();
    assert!(
        logs.contains("the server sent elicitation/create, and no client can be asked for it"),
        "{logs}"
    );
}

/// Asks, answers with the mark, and checks that the call gets this answer.
async fn ask_with_mark(session: &Session, mark: &str) {
    let mut stream = session
        .call("test_elicitation", json!({ "message": mark }))
        .await;
    let asked = stream.notification("elicitation/create").await;
    assert_eq!(
        asked["params"]["message"], mark,
        "the question of another call"
    );
    let content = json!({ "username": mark, "email": "a@example.com" });
    let answer = session
        .answer(&asked, json!({ "action": "accept", "content": content }))
        .await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let response = stream.next().await.expect("a response");
    let found = text(&response["result"]);
    assert!(
        found.contains(&format!("\"username\": \"{mark}\"")),
        "{mark}: {found}"
    );
}

#[tokio::test]
async fn each_question_of_many_calls_reaches_the_client_of_its_call() {
    let app = App::start();
    register_suite(&app, exclusive()).await;
    let users = ["ana", "ben", "eva", "kim", "leo"];
    let callers = (0..users.len() * 8).map(|number| {
        let (app, user) = (&app, users[number % users.len()]);
        async move {
            let session = Session::begin(app, PATH, user).await;
            for round in 0..5 {
                ask_with_mark(&session, &format!("{user} {number} {round}")).await;
                // REST calls take turns with the others, and are never asked.
                let called = app.call(user, "suite", "test_simple_text", json!({})).await;
                called.ok();
            }
        }
    });
    join_all(callers).await;
    let labels = [("method", "elicitation/create"), ("outcome", "answered")];
    assert_eq!(app.total(METRIC, &labels).await, 200.0);
}

#[tokio::test]
async fn calls_that_wait_for_their_turn_end_within_their_own_time_limit() {
    let app = App::start();
    register_suite(&app, exclusive()).await;
    let session = Session::begin(&app, PATH, "ana").await;
    let (mut stream, asked) = question(&session).await;
    let body = json!({
        "username": "ben", "serverName": "suite", "methodName": "test_simple_text", "args": {}, "timeoutMs": 300,
    });
    let waited = app.post("/mcp/tool/call", body).await;
    assert!(waited.body["mayHaveRun"].is_null(), "{}", waited.body);
    let sentence = waited.fails(504, "timeout");
    assert_eq!(
        sentence,
        "Server suite ran other calls, one at a time, within 300 ms"
    );
    session.answer(&asked, json!({ "action": "decline" })).await;
    let response = stream.next().await.expect("a response");
    assert!(text(&response["result"]).contains("decline"), "{response}");
    app.call("ben", "suite", "test_simple_text", json!({}))
        .await
        .ok();
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_at_a_deleted_server_does_not_find_the_server() {
    let app = App::start();
    register_suite(&app, exclusive()).await;
    let session = Session::begin(&app, PATH, "ana").await;
    let (_stream, _) = question(&session).await;
    app.set_secret("ben", "suite", "n", "v").await;
    let waits = app.call("ben", "suite", "test_simple_text", json!({}));
    let delete = async {
        wait_until("the call of ben has its secret", async || {
            app.total("mcp_api_secrets_opened_total", &[]).await == 1.0
        })
        .await;
        app.delete("/mcp/servers/suite").await.ok();
    };
    let (waited, ()) = tokio::join!(waits, delete);
    waited.fails(404, "server_not_found");
}

#[tokio::test]
async fn a_client_that_leaves_at_a_question_stops_no_later_question() {
    let app = App::start();
    register_suite(&app, exclusive()).await;
    for user in ["ana", "ben", "ana"] {
        let session = Session::begin(&app, PATH, user).await;
        let (stream, _) = question(&session).await;
        drop(stream);
        assert!(elicit(&session).await.contains("accept"));
    }
}

#[tokio::test]
async fn a_child_that_never_answers_a_cancelled_call_is_started_again() {
    let app = App::start();
    let dir = TempDir::new().expect("a folder");
    let starts = dir.path().join("starts");
    let args = json!([fixture("child_protocols.py"), "legacy", starts]);
    let server = json!({
        "name": "suite", "command": python(), "args": args, "interaction": "exclusive",
    });
    app.post("/mcp/servers", server).await.ok();
    let count = || {
        let lines = std::fs::read_to_string(&starts).expect("a file");
        lines.matches("initialize").count() + lines.matches("server/discover").count()
    };
    assert_eq!(count(), 1);
    let body = json!({
        "username": "ben", "serverName": "suite", "methodName": "forget", "args": {}, "timeoutMs": 200,
    });
    app.post("/mcp/tool/call", body).await.fails(504, "timeout");
    let begun = Instant::now();
    // Calls whose clients are not asked go on at the same child.
    app.call("ben", "suite", "way", json!({})).await.ok();
    assert_eq!(count(), 1);
    let session = Session::begin(&app, PATH, "ana").await;
    let (result, questions) = call_answering(&session, "ask", json!({})).await;
    assert_eq!(questions, 1, "{result}");
    assert!(result.contains("file:///home/ana"), "{result}");
    assert!(begun.elapsed() > OWED_ANSWER / 2, "{:?}", begun.elapsed());
    assert_eq!(count(), 2);
}

#[tokio::test]
async fn a_change_of_the_interaction_starts_the_child_again() {
    let app = App::start();
    let server = register_suite(&app, json!({})).await;
    assert!(server["interaction"].is_null(), "{server}");
    let session = Session::begin(&app, PATH, "ana").await;
    assert!(elicit(&session).await.contains("decline"));
    let update = |value: &str| app.put("/mcp/servers/suite", json!({ "interaction": value }));
    update("exclusive").await.ok();
    wait_until("the client is asked", async || {
        elicit(&session).await.contains("accept")
    })
    .await;
    update("none").await.ok();
    wait_until("the client is not asked", async || {
        elicit(&session).await.contains("decline")
    })
    .await;
}

#[tokio::test]
async fn only_a_stdio_server_has_an_interaction() {
    let app = App::start();
    let url = "http://127.0.0.1:9/mcp";
    let refused = register(&app, "http", url, exclusive()).await;
    let sentence = refused.fails(400, "invalid_request");
    assert_eq!(
        sentence,
        "A streamable_http server has no interaction; remove the field"
    );
    register(&app, "http", url, json!({})).await.ok();
    let refused = app.put("/mcp/servers/http", exclusive()).await;
    refused.fails(400, "invalid_request");
    let server = json!({ "name": "child", "command": "true", "interaction": "always" });
    let refused = app.post("/mcp/servers", server).await;
    let sentence = refused.fails(400, "invalid_request");
    assert!(sentence.contains("interaction"), "{sentence}");
}

/// The server of 2026-07-28 asks in its results, so its calls run at the same time.
#[tokio::test]
async fn the_interaction_has_no_effect_on_a_child_of_2026() {
    let app = App::start();
    let python = installed("python/bin/python");
    let args = json!(["-u", fixture("mcp_suite.py")]);
    let server =
        json!({ "name": "suite", "command": python, "args": args, "interaction": "exclusive" });
    app.post("/mcp/servers", server).await.ok();
    let session = Session::begin(&app, PATH, "ana").await;
    let (_stream, _) = question(&session).await;
    let body = json!({ "jsonrpc": "2.0", "id": 8, "method": "tools/call", "params": { "name": "test_simple_text" } });
    let called = crate::harness::answer(session.0.request(Method::POST).json(&body)).await;
    assert_eq!(
        text(&result(called)),
        "This is a simple text response for testing."
    );
}
