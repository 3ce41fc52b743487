//! Authorization servers and MCP servers that differ from the specifications: the behaviors of
//! `fixtures/oauth.mjs`.

use serde_json::{Value, json};

use super::browser::Browser;
use super::{Authority, echo, gated, give, register};
use crate::harness::App;

/// Starts the program with a connected server, whose grant has a refresh token.
async fn connected() -> (App, Authority) {
    let app = App::start();
    let authority = Authority::start().await;
    gated(&app, &authority).await;
    let tokens = authority.tokens("public", "ana").await;
    let server = give(&app, tokens).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    (app, authority)
}

/// Lets the gate refuse the newest access token, so that the next call needs a refresh.
async fn expire_token(authority: &Authority, behavior: &str) {
    let tokens = authority.asked("tokens").await;
    let newest = tokens.as_array().and_then(|tokens| tokens.last()).cloned();
    authority
        .set(json!({ "behavior": behavior, "refuse": newest }))
        .await;
}

#[tokio::test]
async fn tokens_survive_every_form_of_a_token_response() {
    let (app, authority) = connected().await;
    let behaviors = [
        "expires_in_is_text",
        "scope_is_a_list",
        "token_type_is_null",
        "response_is_compressed",
        // The refresh token of the last response is valid too.
        "standard",
    ];
    let mut failed = Vec::new();
    for behavior in behaviors {
        let before = authority.refreshes().await;
        expire_token(&authority, behavior).await;
        let answer = echo(&app, "ana").await;
        let refreshes = authority.refreshes().await - before;
        if (answer.status, refreshes) != (200, 1) {
            failed.push(format!(
                "{behavior}: {refreshes} refreshes, {}",
                answer.body
            ));
            // The next behavior begins with new tokens.
            authority.set(json!({ "behavior": "standard" })).await;
            let tokens = authority.tokens("public", "ana").await;
            give(&app, tokens).await.ok();
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn a_refusal_with_status_200_is_final_and_shows_its_reason() {
    let (app, authority) = connected().await;
    expire_token(&authority, "refusal_has_status_200").await;
    let reason = echo(&app, "ana").await.fails(401, "reauth_required");
    assert!(
        reason.contains("bad_refresh_token: The refresh token is wrong."),
        "{reason}"
    );
    for _ in 0..3 {
        echo(&app, "ana").await.fails(401, "reauth_required");
    }
    let requests = authority.asked("resources").await;
    assert_eq!(requests.as_array().map(Vec::len), Some(1), "{requests}");
}

#[tokio::test]
async fn a_refusal_of_resource_is_remembered_for_the_grant() {
    let (app, authority) = connected().await;
    for _ in 0..2 {
        expire_token(&authority, "resource_is_refused").await;
        echo(&app, "ana").await.ok();
    }
    let requests = authority.asked("resources").await;
    assert_eq!(requests, json!([authority.mcp, Value::Null, Value::Null]));
}

#[tokio::test]
async fn metadata_with_nulls_lead_to_tokens() {
    leads_to_tokens("metadata_has_nulls").await;
}

#[tokio::test]
async fn a_challenge_in_the_second_line_leads_to_tokens() {
    leads_to_tokens("challenge_is_in_the_second_line").await;
}

async fn leads_to_tokens(behavior: &str) {
    let app = App::start();
    let authority = Authority::start().await;
    authority.set(json!({ "behavior": behavior })).await;
    gated(&app, &authority).await;
    let body = json!({ "scopes": ["openid", "offline_access", "mcp"] });
    let started = app.post("/mcp/servers/gated/oauth/start", body).await.ok();
    let link = started["authorizationUrl"].as_str().expect("a URL");
    let page = Browser::new().open(link).await;
    assert_eq!(page.status, 200, "{}", page.text);
    app.until("/mcp/servers/gated", |answer| {
        answer["server"]["status"] == "connected"
    })
    .await;
    echo(&app, "ana").await.ok();
}

#[tokio::test]
async fn an_authorization_server_that_hangs_blocks_no_change() {
    let app = App::start();
    let authority = Authority::start().await;
    gated(&app, &authority).await;
    register(
        &app,
        "other",
        "http://127.0.0.1:9/mcp",
        json!({ "enabled": false }),
    )
    .await
    .ok();
    let denied = echo(&app, "ana").await;
    let link = denied.body["authorizationUrl"]
        .as_str()
        .expect("a URL")
        .to_owned();
    authority
        .set(json!({ "behavior": "metadata_never_arrive" }))
        .await;
    // More than all permits for changes.
    let mut opened = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let request = app.http.get(&link);
        opened.spawn(async move {
            request
                .send()
                .await
                .map(|response| response.status().as_u16())
        });
    }
    // One grant gets a bounded share, and the other requests fail at once.
    for _ in 0..200 {
        let status = opened
            .join_next()
            .await
            .expect("a request")
            .expect("a task");
        assert_eq!(status.expect("a response"), 503);
    }
    app.put("/mcp/servers/other", json!({ "enabled": false }))
        .await
        .ok();
    app.delete("/mcp/servers/other").await.ok();
    let waiting = authority.asked("waiting").await.as_u64().expect("a number");
    assert!(waiting > 0, "no authorization waits for the metadata");
}
