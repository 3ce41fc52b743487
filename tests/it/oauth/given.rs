//! Tokens that another platform stores: the program seals them, uses them and never shows them.

use std::fs;

use serde_json::{Value, json};

use super::{Authority, echo, gated, give, with};
use crate::harness::{App, answer};
use crate::remote::register;

#[tokio::test]
async fn stored_tokens_connect_the_server_at_once() {
    let (app, authority) = (App::start(), Authority::start().await);
    let server = gated(&app, &authority).await;
    assert_eq!(server["status"], "error", "{server}");
    let denied = echo(&app, "ana").await;
    assert_eq!(denied.body["reauthRequired"], true, "{}", denied.body);
    let why = denied.fails(401, "reauth_required");
    assert!(why.contains("POST /mcp/servers/gated/oauth"), "{why}");

    let tokens = authority.tokens("public", "ana").await;
    let server = give(&app, tokens.clone()).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    for user in ["ana", "ben"] {
        assert_eq!(echo(&app, user).await.ok()["data"]["content"], "Echo: hi");
    }
    assert_eq!(
        authority.asked("tokens").await,
        json!([tokens["accessToken"]])
    );
    assert_eq!(authority.refreshes().await, 0, "they were new");
    assert_not_shown(&app, &[&tokens]).await;
}

/// Searches for the secrets of these tokens in all places that must not contain them.
async fn assert_not_shown(app: &App, all: &[&Value]) {
    let mut places = vec![("the log".to_owned(), app.log())];
    for path in [
        "/events?limit=1000",
        "/mcp/servers",
        "/mcp/servers/gated",
        "/metrics",
        "/mcp/tools",
    ] {
        places.push((path.to_owned(), app.get(path).await.body.to_string()));
    }
    for file in fs::read_dir(app.data()).into_iter().flatten().flatten() {
        let bytes = fs::read(file.path()).expect("a file");
        places.push((
            file.path().display().to_string(),
            String::from_utf8_lossy(&bytes).into_owned(),
        ));
    }
    for (place, text) in &places {
        for tokens in all {
            for field in [
                "accessToken",
                "refreshToken",
                "clientSecret",
                "codeVerifier",
            ] {
                let found = tokens[field]
                    .as_str()
                    .is_some_and(|secret| text.contains(secret));
                assert!(!found, "{place} holds the {field}");
            }
        }
    }
    assert!(
        places
            .iter()
            .any(|(place, text)| place.starts_with("/events") && text.contains("grant.stored"))
    );
}

#[tokio::test]
async fn a_grant_replaces_headers_and_the_grant_of_a_user_replaces_the_shared_grant() {
    let (app, authority) = (App::start(), Authority::start().await);
    let headers = json!({ "headers": { "Authorization": "Bearer of-the-headers" } });
    register(&app, "gated", &authority.mcp, headers).await.ok();
    let (of_all, of_ana) = (
        authority.tokens("public", "all").await,
        authority.tokens("public", "ana").await,
    );
    let server = give(&app, of_all.clone()).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    let shown = server["sessionId"].as_str().expect("a session").to_owned();
    give(&app, with(of_ana.clone(), json!({ "username": "ana" })))
        .await
        .ok();
    for user in ["ana", "ben", "ana"] {
        echo(&app, user).await.ok();
    }
    let tokens = authority.asked("tokens").await;
    assert_eq!(
        tokens,
        json!([of_all["accessToken"], of_ana["accessToken"]])
    );
    assert_eq!(
        app.server("gated").await["sessionId"],
        shown,
        "the session shown is the one of all"
    );
    // The server refuses the token of ana, and the program does not use another user's token instead.
    authority
        .set(json!({ "refuse": of_ana["accessToken"], "status": 400, "times": 9 }))
        .await;
    let denied = echo(&app, "ana").await;
    assert!(
        denied
            .fails(401, "reauth_required")
            .contains("for user ana")
    );
    echo(&app, "ben").await.ok();
    authority.set(json!({ "times": 0 })).await;
    give(
        &app,
        with(
            authority.tokens("public", "ana").await,
            json!({ "username": "ana" }),
        ),
    )
    .await
    .ok();
    echo(&app, "ana").await.ok();
    assert_not_shown(&app, &[&of_all, &of_ana]).await;
}

#[tokio::test]
async fn a_repeated_request_with_a_key_does_not_restore_old_tokens() {
    let (mut app, authority) = (App::start(), Authority::start().await);
    gated(&app, &authority).await;
    let keyed = async |app: &App, key: &str, tokens: &Value| {
        let request = app
            .http
            .post(format!("{}/mcp/servers/gated/oauth", app.url))
            .json(tokens);
        answer(request.header("Idempotency-Key", key)).await
    };
    let (first, second) = (
        authority.tokens("public", "one").await,
        authority.tokens("public", "two").await,
    );
    let once = with(first.clone(), json!({ "ifAbsent": true }));
    let both = tokio::join!(keyed(&app, "k1", &once), keyed(&app, "k1", &once));
    assert_eq!(
        (both.0.status, both.1.status),
        (200, 200),
        "{} {}",
        both.0.body,
        both.1.body
    );
    keyed(&app, "k2", &second).await.ok();
    app.kill_and_restart();
    keyed(&app, "k1", &once).await.ok();
    keyed(&app, "k1", &second).await.fails(409, "conflict");
    let stored = app
        .happened()
        .await
        .into_iter()
        .filter(|line| line.starts_with("grant.stored"));
    assert_eq!(stored.count(), 2);
    echo(&app, "ana").await.ok();
    assert_eq!(
        authority
            .asked("tokens")
            .await
            .as_array()
            .expect("tokens")
            .last(),
        Some(&second["accessToken"])
    );
}

#[tokio::test]
async fn an_invalid_grant_is_refused_with_its_field_and_without_its_value() {
    let app = App::start();
    app.register("child", json!({ "enabled": false }))
        .await
        .ok();
    let remote = json!({ "enabled": false });
    register(&app, "gated", "http://127.0.0.1:9/mcp", remote)
        .await
        .ok();
    let good = json!({ "accessToken": "a-token-to-be-kept", "clientId": "c", "redirectUri": "https://p.example/cb" });
    for (field, value) in [
        ("accessToken", Value::Null),
        ("accessToken", json!("")),
        ("accessToken", json!("two s3cret words")),
        ("accessToken", json!(["s3cret"])),
        ("refreshToken", json!("s3cret\n")),
        ("tokenType", json!("s3cret")),
        ("expiresIn", json!("s3cret")),
        ("expiresIn", json!(-1)),
        ("scopes", json!("s3cret")),
        ("scopes", json!(["a s3cret"])),
        ("clientId", json!("")),
        ("clientId", Value::Null),
        ("clientSecret", json!("")),
        ("redirectUri", json!("s3cret")),
        ("redirectUri", Value::Null),
        ("codeVerifier", json!(7)),
        ("username", json!("")),
        ("unheardOf", json!(1)),
    ] {
        let refused = give(&app, with(good.clone(), json!({ field: value }))).await;
        let why = refused.fails(400, "invalid_request");
        assert!(
            why.contains(field) && !why.contains("s3cret"),
            "{field} {value}: {why}"
        );
    }
    give(&app, good.clone()).await.ok();
    assert!(
        app.post("/mcp/servers/child/oauth", good.clone())
            .await
            .fails(400, "invalid_request")
            .contains("stdio")
    );
    app.post("/mcp/servers/nobody/oauth", good)
        .await
        .fails(404, "server_not_found");
}
