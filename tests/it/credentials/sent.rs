//! Credentials in headers and in the query: one connection for each user.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::text_of;
use crate::harness::App;
use crate::remote::script::{Script, Seen, result_of, session_of, text};
use crate::wait::wait_until;

/// Answers each call with the credentials of its request, and opens a session for each authorization.
async fn recorder() -> Script {
    Script::start(|seen: &Seen| match seen.about() {
        "initialize" => Some(session_of(
            seen,
            format!("session-{}", credentials(seen).len()),
        )),
        "tools/call" => Some(result_of(seen, text(&credentials(seen)))),
        _ => None,
    })
    .await
}

fn credentials(seen: &Seen) -> String {
    let header = seen.header("authorization").unwrap_or("none");
    let query = seen.query.as_deref().unwrap_or("none");
    format!("{header} {query}")
}

async fn register(app: &App, url: &str, credentials: Value) -> Value {
    let body = json!({
        "name": "remote", "transportType": "streamable_http", "url": url, "credentials": credentials,
    });
    app.post("/mcp/servers", body).await.ok()["server"].take()
}

fn bearer() -> Value {
    json!([{ "name": "KEY", "in": "header", "as": "Authorization", "format": "Bearer {value}", "required": true }])
}

async fn sent_for(app: &App, user: &str) -> String {
    text_of(app.call(user, "remote", "echo", json!({})).await)
}

#[tokio::test]
async fn every_request_of_a_user_has_the_header_of_the_user() {
    let app = App::start();
    let script = recorder().await;
    let server = register(&app, &script.url, bearer()).await;
    assert_eq!(server["status"], "disconnected");
    assert_eq!(server["needsCredentials"], json!(["KEY"]));
    assert!(script.seen().is_empty(), "nothing starts without a user");
    for user in ["ana", "ben"] {
        app.set_secret(user, "remote", "KEY", &format!("key-of-{user}"))
            .await;
    }
    for user in ["ana", "ben", "ana"] {
        assert_eq!(
            sent_for(&app, user).await,
            format!("Bearer key-of-{user} none")
        );
    }
    for seen in script.seen() {
        let header = seen.header("authorization").unwrap_or_default();
        assert!(
            header.starts_with("Bearer key-of-"),
            "{} has {header}",
            seen.about()
        );
    }
    assert_eq!(
        script.times("tools/list"),
        2,
        "one connection for each user"
    );
}

#[tokio::test]
async fn a_parameter_of_the_query_is_encoded_and_kept_secret() {
    let app = App::start();
    let script = recorder().await;
    let credentials = json!([
        { "name": "KEY", "in": "query", "as": "api key", "required": true },
        { "name": "ORG", "in": "query", "owner": "shared" },
    ]);
    let url = format!("{}?v=1", script.url);
    register(&app, &url, credentials).await;
    app.set_secret("ana", "remote", "KEY", "a&b=c d").await;
    let shared = json!({ "serverName": "remote", "secretName": "ORG", "secretValue": "acme-corp", "shared": true });
    app.post("/secrets/set", shared).await.ok();
    let sent = sent_for(&app, "ana").await;
    assert_eq!(sent, "none v=1&api%20key=a%26b%3Dc%20d&ORG=acme%2Dcorp");
    let server = app.server("remote").await.to_string();
    assert!(
        !server.contains("a&b") && !server.contains("acme-corp"),
        "{server}"
    );
}

#[tokio::test]
async fn a_new_value_opens_a_new_connection() {
    let app = App::start();
    let script = recorder().await;
    register(&app, &script.url, bearer()).await;
    app.set_secret("ana", "remote", "KEY", "first").await;
    assert_eq!(sent_for(&app, "ana").await, "Bearer first none");
    app.set_secret("ana", "remote", "KEY", "second").await;
    assert_eq!(sent_for(&app, "ana").await, "Bearer second none");
    let sessions = script.times("initialize");
    wait_until("the old session is closed", async || {
        script.times("DELETE") > 0
    })
    .await;
    assert_eq!(sessions, 2);
}

#[tokio::test]
async fn a_refused_credential_is_no_question_of_oauth() {
    let app = App::start();
    let script = Script::start(|_: &Seen| {
        let challenge = "Bearer resource_metadata=\"http://127.0.0.1:1/meta\"";
        Some(
            (
                StatusCode::UNAUTHORIZED,
                [("www-authenticate", challenge)],
                "no",
            )
                .into_response(),
        )
    })
    .await;
    register(&app, &script.url, bearer()).await;
    app.set_secret("ana", "remote", "KEY", "wrong").await;
    let answer = app.call("ana", "remote", "echo", json!({})).await;
    assert!(
        answer.body.get("authorizationUrl").is_none(),
        "{}",
        answer.body
    );
    let sentence = answer.fails(502, "upstream_error");
    assert!(sentence.contains("401"), "{sentence}");
}

#[tokio::test]
async fn a_value_that_no_header_can_carry_is_refused_when_it_is_set() {
    let app = App::start();
    let script = recorder().await;
    register(&app, &script.url, bearer()).await;
    let body = json!({ "username": "ana", "serverName": "remote", "secretName": "KEY", "secretValue": "s3cret\nline" });
    let sentence = app
        .post("/secrets/set", body)
        .await
        .fails(400, "invalid_request");
    assert!(
        sentence.contains("secretValue") && !sentence.contains("s3cret"),
        "{sentence}"
    );
}
