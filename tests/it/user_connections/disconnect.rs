//! `DELETE /connections/:name`: all values of one user for one server.

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    ADMIN, arguments, call, connection, delete, get, post, register, set_secret, set_shared,
    set_slots, start, token_of,
};
use crate::callers::make_token;
use crate::harness::{Answer, App, answer};
use crate::remote::script::Script;

fn credentials() -> Value {
    json!([{ "name": "KEY", "required": true }, { "name": "ORG", "owner": "shared" }])
}

#[tokio::test]
async fn a_user_removes_the_own_values_and_no_value_of_another_owner() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    register(&app, "other", credentials()).await;
    let (ana, ben) = (token_of(&app, "ana").await, token_of(&app, "ben").await);
    set_shared(&app, "fixture", "ORG", "of all").await;
    for (token, server) in [(&ana, "fixture"), (&ben, "fixture"), (&ana, "other")] {
        set_secret(&app, token, server, "KEY", "a key").await;
    }
    delete(&app, &ana, "/connections/fixture").await.ok();
    let slots = async |token: &str, server: &str| {
        let connection = connection(&app, token, server).await;
        set_slots(&connection)
    };
    assert_eq!(slots(&ana, "fixture").await, [false, true]);
    assert_eq!(slots(&ben, "fixture").await, [true, true]);
    assert_eq!(slots(&ana, "other").await, [true, false]);
    call(&app, &ana, "fixture", "echo")
        .await
        .fails(401, "credential_required");
    assert_eq!(
        arguments(&app, &ben, "fixture").await,
        json!({ "KEY": "a key", "ORG": "of all" })
    );
    // Nothing is left to remove.
    delete(&app, &ana, "/connections/fixture").await.ok();
}

#[tokio::test]
async fn a_user_removes_the_own_oauth_tokens() {
    let app = start();
    let script = Script::start(|_| None).await;
    let server = json!({ "name": "remote", "transportType": "streamable_http", "url": script.url });
    post(&app, ADMIN, "/mcp/servers", server).await.ok();
    let (ana, ben) = (token_of(&app, "ana").await, token_of(&app, "ben").await);
    for token in [&ana, &ben] {
        let tokens = json!({
            "accessToken": "access", "clientId": "c", "redirectUri": "https://h.example/callback",
        });
        post(&app, token, "/mcp/servers/remote/oauth", tokens)
            .await
            .ok();
    }
    delete(&app, &ana, "/connections/remote").await.ok();
    let is_connected = async |token: &str| {
        let connection = connection(&app, token, "remote").await;
        connection["oauth"]["connected"] == true
    };
    assert!(!is_connected(&ana).await && is_connected(&ben).await);
    let events = get(&app, ADMIN, "/events?limit=1000").await.ok();
    let removed: Vec<_> = events["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["type"] == "grant.removed")
        .collect();
    assert_eq!(removed.len(), 1, "{events}");
    let data = removed[0]["data"].as_object().expect("data");
    let fields: Vec<_> = data.keys().map(String::as_str).collect();
    assert_eq!(fields, ["server", "serverName", "user"]);
    assert_eq!(data["user"], "ana");
}

#[tokio::test]
async fn only_an_administrator_disconnects_another_user() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    register(&app, "other", credentials()).await;
    let (ana, ben) = (token_of(&app, "ana").await, token_of(&app, "ben").await);
    set_secret(&app, &ana, "fixture", "KEY", "of ana").await;
    let path = "/connections/fixture?username=ana";
    delete(&app, &ben, path).await.fails(403, "forbidden");
    let is_set = async || set_slots(&connection(&app, &ana, "fixture").await)[0];
    assert!(is_set().await);
    delete(&app, ADMIN, "/connections/fixture").await.ok();
    assert!(is_set().await, "the request acted for the user default");
    delete(&app, ADMIN, path).await.ok();
    assert!(!is_set().await);

    let body = json!({ "username": "ana", "servers": ["fixture"] });
    let (_, of_fixture) = make_token(&app, ADMIN, body).await;
    for path in ["/connections/other", "/connections/none"] {
        delete(&app, &of_fixture, path)
            .await
            .fails(404, "server_not_found");
    }
    let body = json!({ "username": "ana", "scopes": ["tools"] });
    let (_, tools) = make_token(&app, ADMIN, body).await;
    delete(&app, &tools, "/connections/fixture")
        .await
        .fails(403, "forbidden");
}

async fn delete_once(app: &App, token: &str, path: &str, key: &str) -> Answer {
    let request = app
        .http
        .request(Method::DELETE, format!("{}{path}", app.url))
        .bearer_auth(token)
        .header("idempotency-key", key);
    answer(request).await
}

#[tokio::test]
async fn a_repeat_with_the_same_key_removes_no_later_value() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    let ana = token_of(&app, "ana").await;
    let path = "/connections/fixture";
    set_secret(&app, &ana, "fixture", "KEY", "first").await;
    delete_once(&app, &ana, path, "one").await.ok();
    set_secret(&app, &ana, "fixture", "KEY", "second").await;
    delete_once(&app, &ana, path, "one").await.ok();
    let is_set = async || set_slots(&connection(&app, &ana, "fixture").await)[0];
    assert!(is_set().await, "the repeat removed the second value");
    delete_once(&app, &ana, path, "two").await.ok();
    assert!(!is_set().await);
}
