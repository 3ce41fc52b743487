//! The header `Idempotency-Key`, on jobs and on changes.

use reqwest::Method;
use serde_json::{Value, json};

use super::{call, fixture};
use crate::harness::{Answer, App, answer};

impl App {
    async fn keyed(&self, key: &str, body: &Value) -> Answer {
        let request = self
            .http
            .post(format!("{}/mcp/tool/call", self.url))
            .json(body);
        answer(request.header("Idempotency-Key", key)).await
    }
}

#[tokio::test]
async fn a_repeated_key_repeats_no_call() {
    let mut app = fixture().await;
    let body = call("ana", "note_slowly", app.noting("one", 300));
    let both = tokio::join!(app.keyed("k1", &body), app.keyed("k1", &body));
    assert_eq!(
        (both.0.status, &both.0.body),
        (200, &both.1.body),
        "{}",
        both.1.body
    );
    app.kill_and_restart();
    assert_eq!(app.keyed("k1", &body).await.body, both.0.body);
    assert_eq!(app.notes(), ["one"]);

    let other = call("ana", "note_slowly", app.noting("two", 0));
    app.keyed("k1", &other).await.fails(409, "conflict");
    app.keyed("k2", &other).await.ok();
    // The same key of another user is another key.
    app.keyed("k1", &call("ben", "note_slowly", app.noting("three", 0)))
        .await
        .ok();
    assert_eq!(app.notes(), ["one", "two", "three"]);
    for key in ["", "ä", &"x".repeat(256)] {
        let sentence = app.keyed(key, &body).await.fails(400, "invalid_request");
        assert!(sentence.contains("Idempotency-Key"), "{sentence}");
    }
    // A repeat of a failed call gets the first answer.
    let failing = call("ana", "rpc_error", json!({ "code": -1, "message": "no" }));
    let first = app.keyed("k3", &failing).await;
    assert_eq!(
        (first.status, app.keyed("k3", &failing).await.body),
        (502, first.body)
    );
}

#[tokio::test]
async fn a_key_lives_longer_than_the_answers_of_other_jobs() {
    let app = App::start_with(&[("JOB_RESULT_TTL", "1s")]);
    app.register_fixture("fixture").await.ok();
    let body = call("ana", "note_slowly", app.noting("one", 0));
    let first = app.keyed("k1", &body).await;
    // A later job without a key expires first.
    let other = app.job("default", "echo", json!({ "message": "x" })).await;
    app.end_of(&other).await;
    app.until(&format!("/jobs/{other}"), |body| {
        body["code"] == "job_not_found"
    })
    .await;
    let again = app.keyed("k1", &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(app.notes(), ["one"]);
    app.keyed("k1", &call("ana", "note_slowly", app.noting("two", 0)))
        .await
        .fails(409, "conflict");
}

#[tokio::test]
async fn a_repeated_key_repeats_no_change() {
    let mut app = fixture().await;
    let send = async |app: &App, method: Method, path: &str, key: &str, body: Option<Value>| {
        let mut request = app
            .http
            .request(method, format!("{}{path}", app.url))
            .header("Idempotency-Key", key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    };
    let count = async |app: &App, what: &str| {
        app.happened()
            .await
            .iter()
            .filter(|line| line.starts_with(what))
            .count()
    };
    let second = json!({ "name": "second", "command": crate::harness::python(), "args": ["-u", crate::harness::fixture("server.py")] });
    let register = || {
        send(
            &app,
            Method::POST,
            "/mcp/servers",
            "r1",
            Some(second.clone()),
        )
    };
    let (first, same) = tokio::join!(register(), register());
    assert_eq!(
        (first.status, same.status),
        (200, 200),
        "{} {}",
        first.body,
        same.body
    );
    assert_eq!(first.body["server"]["name"], same.body["server"]["name"]);
    assert_eq!(count(&app, "server.registered server/second").await, 1);

    let secret = |value: &str| {
        Some(
            json!({ "username": "ana", "serverName": "second", "secretName": "message", "secretValue": value }),
        )
    };
    send(&app, Method::POST, "/secrets/set", "s1", secret("one"))
        .await
        .ok();
    send(&app, Method::POST, "/secrets/set", "s2", secret("two"))
        .await
        .ok();
    app.kill_and_restart();
    // A repeat of the first request does not undo the second request.
    send(&app, Method::POST, "/secrets/set", "s1", secret("one"))
        .await
        .ok();
    assert_eq!(
        app.call("ana", "second", "echo", json!({})).await.ok()["data"]["content"],
        "two"
    );
    send(&app, Method::POST, "/secrets/set", "s1", secret("three"))
        .await
        .fails(409, "conflict");

    let restarts = count(&app, "server.enabled").await;
    for _ in 0..2 {
        send(&app, Method::PUT, "/mcp/servers/second/enable", "e1", None)
            .await
            .ok();
    }
    assert_eq!(count(&app, "server.enabled").await, restarts + 1);
    for _ in 0..2 {
        send(&app, Method::DELETE, "/mcp/servers/second", "d1", None)
            .await
            .ok();
    }
    // A refused request with a key is decided again.
    send(&app, Method::DELETE, "/mcp/servers/third", "d2", None)
        .await
        .fails(404, "server_not_found");
}
