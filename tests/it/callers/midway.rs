//! A token that is revoked, and a secret that changes, in the middle of a call and of a job.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{ADMIN, app_with_fixture, make_token, send};
use crate::harness::{Answer, App};
use crate::wait::{wait_for, wait_until};

/// Calls a tool that answers with its arguments after a while.
fn slow_call(message: &str) -> Value {
    json!({
        "serverName": "fixture", "methodName": "arguments",
        "args": { "wait": 1500, "message": message },
    })
}

async fn pid_of_fixture(app: &App) -> u32 {
    let call = json!({ "serverName": "fixture", "methodName": "pid", "args": {} });
    let answer = send(app, ADMIN, Method::POST, "/mcp/tool/call", Some(call))
        .await
        .ok();
    let pid = answer["data"]["content"]
        .as_str()
        .expect("a text")
        .parse()
        .expect("a pid");
    crate::processes::idle(pid).await;
    pid
}

async fn set_secret(app: &App, token: &str, value: &str) {
    let body = json!({ "serverName": "fixture", "secretName": "token", "secretValue": value });
    send(app, token, Method::POST, "/secrets/set", Some(body))
        .await
        .ok();
}

/// Returns the secret in the answer of the slow call.
fn secret_in(answer: Answer) -> Value {
    let answer = answer.ok();
    let content = answer["data"]["content"].as_str().expect("a text");
    serde_json::from_str::<Value>(content).expect("JSON")["token"].take()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_has_begun_outlives_its_token_and_keeps_its_secret() {
    let app = Arc::new(app_with_fixture().await);
    let (id, token) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let (_, other) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    set_secret(&app, &token, "first").await;
    let pid = pid_of_fixture(&app).await;
    let running = tokio::spawn({
        let (app, token) = (app.clone(), token.clone());
        async move {
            let body = slow_call("begun");
            send(&app, &token, Method::POST, "/mcp/tool/call", Some(body)).await
        }
    });
    crate::processes::under_way(pid, 1).await;
    set_secret(&app, &other, "second").await;
    let revoke = format!("/tokens/{id}");
    send(&app, ADMIN, Method::DELETE, &revoke, None).await.ok();
    assert_eq!(secret_in(running.await.expect("an answer")), "first");
    let next = send(
        &app,
        &token,
        Method::POST,
        "/mcp/tool/call",
        Some(slow_call("next")),
    )
    .await;
    next.fails(401, "unauthenticated");
    let next = send(
        &app,
        &other,
        Method::POST,
        "/mcp/tool/call",
        Some(slow_call("next")),
    )
    .await;
    assert_eq!(secret_in(next), "second");
    let gone = json!({ "serverName": "fixture", "secretName": "token" });
    send(&app, &other, Method::POST, "/secrets/delete", Some(gone))
        .await
        .ok();
    let next = send(
        &app,
        &other,
        Method::POST,
        "/mcp/tool/call",
        Some(slow_call("last")),
    )
    .await;
    assert_eq!(secret_in(next), Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_after_the_end_of_its_token_and_belongs_to_its_user() {
    let app = app_with_fixture().await;
    let (id, token) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let (_, other) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let (_, stranger) = make_token(&app, ADMIN, json!({ "username": "ben" })).await;
    set_secret(&app, &token, "of ana").await;
    let accepted = app
        .http
        .post(format!("{}/mcp/tool/call", app.url))
        .bearer_auth(&token)
        .header("prefer", "respond-async")
        .json(&slow_call("job"));
    let accepted = crate::harness::answer(accepted).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let job = accepted.headers["location"]
        .to_str()
        .expect("a path")
        .to_owned();
    let revoke = format!("/tokens/{id}");
    send(&app, ADMIN, Method::DELETE, &revoke, None).await.ok();
    wait_until("the token is refused", async || {
        send(&app, &token, Method::GET, &job, None).await.status == 401
    })
    .await;
    send(&app, &stranger, Method::GET, &job, None)
        .await
        .fails(404, "job_not_found");
    let done = wait_for("the job has its answer", async || {
        let found = send(&app, &other, Method::GET, &job, None).await;
        found.body.to_string().contains("of ana").then_some(found)
    })
    .await;
    assert_eq!(done.status, 200, "{}", done.body);
}
