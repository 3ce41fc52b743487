//! Tokens are refreshed once for all connections, also if workers die.

use serde_json::{Value, json};

use super::{Authority, echo, gated, give, with};
use crate::harness::{Answer, App, answer};
use crate::process::Services;
use crate::wait::wait_until;
use mcp_api::time::clock::now_ms;

/// The server connected, with tokens that are to be refreshed so soon.
async fn connected(app: &App, authority: &Authority, client: &str, expires_in: Value) -> Value {
    let tokens = authority.tokens(client, "ana").await;
    gated(app, authority).await;
    let server = give(
        app,
        with(tokens.clone(), json!({ "expiresIn": expires_in })),
    )
    .await
    .ok()["server"]
        .take();
    assert_eq!(server["status"], "connected", "{server}");
    tokens
}

#[tokio::test]
async fn a_hundred_calls_at_the_end_of_a_token_make_one_request() {
    let app = App::distributed(3, &[]);
    let authority = Authority::start().await;
    // Long enough to give all tokens before the first one is due, also on a busy machine.
    let life = json!(16);
    let tokens = connected(&app, &authority, "client basic", life.clone()).await;
    for user in ["u1", "u2"] {
        let own = with(
            authority.tokens("client post", user).await,
            json!({ "username": user, "expiresIn": life }),
        );
        give(&app, own).await.ok();
        echo(&app, user).await.ok();
    }
    assert_eq!(authority.refreshes().await, 0);
    authority.set(json!({ "before": 1500 })).await;
    let due = last_refresh_time(&app).await;
    wait_until("all tokens are due", async || now_ms() >= due).await;
    let users = ["ana", "ben", "u1", "u2"];
    let calls = (0..100).map(|n| echo(&app, users[n % users.len()]));
    for called in futures::future::join_all(calls).await {
        called.ok();
    }
    assert_eq!(authority.refreshes().await, 3, "one for each grant");
    assert_eq!(authority.asked("resource").await, authority.mcp.as_str());
    assert!(
        authority
            .asked("tokens")
            .await
            .as_array()
            .expect("tokens")
            .contains(&tokens["accessToken"])
    );
}

/// Returns the latest time at which a stored grant is due for a refresh, in milliseconds since 1970.
async fn last_refresh_time(app: &App) -> u64 {
    let events = app.get("/events?limit=1000").await.ok();
    let events = events["events"].as_array().expect("events").iter();
    let stored = events.filter(|event| event["type"] == "grant.stored");
    let times = stored.filter_map(|event| event["data"]["tokens"]["refreshAt"].as_u64());
    times.max().expect("a stored grant has a refresh time")
}

#[tokio::test]
async fn a_refused_token_is_refreshed_and_the_call_runs_once() {
    let (app, authority) = (App::start(), Authority::start().await);
    let tokens = connected(&app, &authority, "public", Value::Null).await;
    echo(&app, "ana").await.ok();
    authority
        .set(json!({ "refuse": tokens["accessToken"] }))
        .await;
    let before = authority.asked("calls").await.as_u64();
    let calls = (0..20).map(|_| echo(&app, "ana"));
    for called in futures::future::join_all(calls).await {
        called.ok();
    }
    assert_eq!(authority.refreshes().await, 1);
    assert_eq!(
        authority.asked("calls").await.as_u64(),
        before.map(|calls| calls + 20)
    );
    // Its refresh token was used up, and the new one is kept: also by a process that starts anew.
    let second = authority.asked("tokens").await[1].clone();
    let mut app = app;
    app.kill_and_restart();
    authority.set(json!({ "refuse": second })).await;
    echo(&app, "ana").await.ok();
    assert_eq!(authority.refreshes().await, 2);
}

#[tokio::test]
async fn a_server_that_refuses_every_token_causes_one_refresh() {
    let (app, authority) = (App::start(), Authority::start().await);
    connected(&app, &authority, "public", json!(3600)).await;
    authority.set(json!({ "refuse": true })).await;
    for _ in 0..5 {
        let why = echo(&app, "ana").await.fails(401, "reauth_required");
        assert!(why.contains("also after that was refreshed"), "{why}");
    }
    assert_eq!(authority.refreshes().await, 1);
    authority.set(json!({ "refuse": false })).await;
    give(&app, authority.tokens("public", "ana").await)
        .await
        .ok();
    echo(&app, "ana").await.ok();
}

#[tokio::test]
async fn a_refusal_is_final_until_new_tokens_are_stored() {
    let (app, authority) = (App::start(), Authority::start().await);
    let tokens = connected(&app, &authority, "public", json!(3600)).await;
    authority
        .set(json!({ "refuse": tokens["accessToken"], "status": 400, "times": 99 }))
        .await;
    for _ in 0..3 {
        let denied = echo(&app, "ana").await;
        assert_eq!(denied.body["reauthRequired"], true, "{}", denied.body);
        denied.fails(401, "reauth_required");
    }
    assert_eq!(authority.asked("failed").await, 1, "it is not asked again");
    let events = app.happened().await;
    assert!(
        events.contains(&"grant.refresh_failed server/gated".to_owned()),
        "{events:?}"
    );
    authority.set(json!({ "refuse": false, "times": 0 })).await;
    let server = give(&app, authority.tokens("public", "ana").await)
        .await
        .ok()["server"]
        .take();
    assert_eq!(server["status"], "connected", "{server}");
    echo(&app, "ana").await.ok();
}

#[tokio::test]
async fn a_request_to_a_busy_authorization_server_is_repeated() {
    for status in [429, 503] {
        let (app, authority) = (App::start(), Authority::start().await);
        let tokens = connected(&app, &authority, "public", json!(3600)).await;
        authority
            .set(json!({ "refuse": tokens["accessToken"], "status": status, "times": 2 }))
            .await;
        echo(&app, "ana").await.ok();
        assert_eq!(
            (authority.asked("failed").await, authority.refreshes().await),
            (json!(2), 1)
        );
    }
}

#[tokio::test]
async fn an_unavailable_authorization_server_leaves_the_grant_valid() {
    let (app, authority) = (App::start(), Authority::start().await);
    let tokens = connected(&app, &authority, "public", json!(3600)).await;
    authority
        .set(json!({ "refuse": tokens["accessToken"], "status": 503, "times": 4 }))
        .await;
    let why = echo(&app, "ana").await.fails(503, "unavailable");
    assert!(why.contains("503"), "{why}");
    // What was not looked at is not used up.
    let heals = async || echo(&app, "ana").await.status == 200;
    wait_until("it is tried again", heals).await;
    assert_eq!(authority.refreshes().await, 1);
}

#[tokio::test]
async fn a_client_authenticates_with_a_supported_method() {
    for (methods, client, how) in [
        ("client_secret_basic,none", "client basic", "basic"),
        ("client_secret_post,none", "client post", "post"),
        ("none", "public", "none"),
    ] {
        let (app, authority) = (App::start(), Authority::with_auth_methods(methods).await);
        connected(&app, &authority, client, json!(0)).await;
        assert_eq!(
            (authority.asked("auth").await, authority.refreshes().await),
            (json!([how, how]), 1)
        );
    }
}

/// A facade, a worker for servers, and one for tokens alone.
fn apart() -> App {
    let mut app = App::start_on(Some(Services::start()), 0, &[("LEASE_TTL", "3s")]);
    app.add_with("worker", &[("POOLS", "tools")]);
    app.add_with("worker", &[("POOLS", "tokens")]);
    app
}

/// Kills the worker of tokens in the middle of a refresh that the authorization server does as `how` says, and gives
/// what became of the call that waited for it.
async fn killed_in_the_middle(how: Value) -> (App, Authority, Answer) {
    let (mut app, authority) = (apart(), Authority::start().await);
    let tokens = connected(&app, &authority, "public", Value::Null).await;
    authority
        .set(with(how, json!({ "refuse": tokens["accessToken"] })))
        .await;
    let calling = {
        let (http, url) = (app.http.clone(), format!("{}/mcp/tool/call", app.url));
        let body =
            json!({ "serverName": "gated", "methodName": "echo", "args": { "message": "hi" } });
        tokio::spawn(async move { answer(http.post(url).json(&body)).await })
    };
    let begun = async || authority.asked("begun").await == 2;
    wait_until("the refresh has begun", begun).await;
    app.add_with("worker", &[("POOLS", "tokens")]);
    app.processes[2].kill();
    authority.set(json!({ "before": 0, "after": 0 })).await;
    let called = calling.await.expect("an answer");
    (app, authority, called)
}

#[tokio::test]
async fn a_worker_killed_before_the_request_causes_one_more_request() {
    let (app, authority, called) = killed_in_the_middle(json!({ "before": 60_000 })).await;
    called.ok();
    echo(&app, "ana").await.ok();
    assert_eq!(
        (authority.refreshes().await, authority.asked("begun").await),
        (1, json!(3))
    );
}

#[tokio::test]
async fn a_worker_killed_with_the_new_tokens_requires_a_new_authorization() {
    let (app, authority, called) = killed_in_the_middle(json!({ "after": 60_000 })).await;
    called.fails(401, "reauth_required");
    echo(&app, "ana").await.fails(401, "reauth_required");
    assert_eq!(
        authority.asked("begun").await,
        3,
        "one more try, and no other"
    );
    authority.set(json!({ "refuse": false })).await;
    give(&app, authority.tokens("public", "ana").await)
        .await
        .ok();
    echo(&app, "ana").await.ok();
}

#[tokio::test]
async fn many_workers_refresh_once() {
    let app = App::distributed(3, &[]);
    let authority = Authority::start().await;
    connected(&app, &authority, "public", Value::Null).await;
    authority.set(json!({ "before": 1000 })).await;
    let data = stored_grant(&app).await;
    let ask = json!({ "grant": { "server": data["server"] }, "access": data["tokens"]["access"] })
        .to_string();
    let nats = async_nats::connect(app.services.as_ref().expect("services").nats.url())
        .await
        .expect("NATS");
    let asks = (0..10).map(|_| nats.request("mcp.v1.ask.oauth.refresh_tokens", ask.clone().into()));
    for answer in futures::future::join_all(asks).await {
        let answer = answer.expect("an answer");
        let status = answer
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Mcp-Status"))
            .map(|status| status.as_str());
        assert_eq!(
            status,
            Some("ok"),
            "{}",
            String::from_utf8_lossy(&answer.payload)
        );
    }
    assert_eq!(authority.refreshes().await, 1);
    echo(&app, "ana").await.ok();
}

/// Reads the data of the first `grant.stored` in the log, because `GET /events` hides the ids of sealed values.
async fn stored_grant(app: &App) -> Value {
    let url = &app.services.as_ref().expect("services").mongo_url;
    let client = mongodb::Client::with_uri_str(url).await.expect("a client");
    let log = client
        .default_database()
        .expect("a database")
        .collection::<mongodb::bson::Document>("mcpapi_log");
    let entry = log
        .find_one(mongodb::bson::doc! { "commits.events": "grant.stored" })
        .await
        .expect("an answer")
        .expect("an entry");
    let commits: Value =
        serde_json::from_str(entry.get_str("body").expect("a body")).expect("JSON");
    let events = commits.as_array().expect("commits").iter();
    events
        .flat_map(|commit| commit["events"].as_array().expect("events"))
        .find(|event| event["type"] == "grant.stored")
        .map(|event| event["data"].clone())
        .expect("an event")
}
