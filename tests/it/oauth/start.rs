//! Authorization in a browser.

use serde_json::json;
use url::Url;

use super::browser::{Browser, Page};
use super::{Authority, echo, gated, register};
use crate::harness::App;

/// Begins, and gives the link.
async fn start(app: &App, body: serde_json::Value) -> String {
    let started = app.post("/mcp/servers/gated/oauth/start", body).await.ok();
    started["authorizationUrl"]
        .as_str()
        .expect("a URL")
        .to_owned()
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.into_owned())
}

/// Where the authorization server sends the browser back to.
fn is_callback(url: &Url) -> bool {
    url.path() == "/oauth/callback"
}

fn refused(page: &Page, why: &str) {
    assert!(
        page.status == 403 && page.text.contains(why),
        "{} {}",
        page.status,
        page.text
    );
}

#[tokio::test]
async fn a_browser_authorizes_a_server() {
    let (app, authority) = (App::start(), Authority::start().await);
    gated(&app, &authority).await;
    let link = start(&app, json!({})).await;
    assert!(
        link.starts_with(&format!("{}/oauth/authorize?link=", app.url)),
        "{link}"
    );
    let page = Browser::new().open(&link).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(
        page.text.contains("Server gated can be used now."),
        "{}",
        page.text
    );
    app.until("/mcp/servers/gated", |answer| {
        answer["server"]["status"] == "connected"
    })
    .await;
    echo(&app, "ben").await.ok();

    let asked = &authority.asked("authorizations").await[0];
    assert_eq!(
        (&asked["code_challenge_method"], &asked["resource"]),
        (&json!("S256"), &json!(authority.mcp))
    );
    assert!(
        asked["scope"].as_str().expect("scopes").contains("mcp"),
        "{asked}"
    );
    assert_eq!(authority.asked("registrations").await, 1);
    // It came with a refresh token.
    let token = authority.asked("tokens").await[0].clone();
    authority.set(json!({ "refuse": token })).await;
    echo(&app, "ben").await.ok();
    assert_eq!(authority.refreshes().await, 1);
    assert!(!app.log().contains(token.as_str().expect("a token")));
}

#[tokio::test]
async fn a_call_without_tokens_returns_the_authorization_link() {
    let (app, authority) = (App::start(), Authority::start().await);
    gated(&app, &authority).await;
    let denied = echo(&app, "ana").await;
    let link = denied.body["authorizationUrl"]
        .as_str()
        .expect("a URL")
        .to_owned();
    denied.fails(401, "reauth_required");
    let page = Browser::new().open(&link).await;
    assert!(
        page.status == 200 && page.text.contains("for user ana"),
        "{} {}",
        page.status,
        page.text
    );
    echo(&app, "ana").await.ok();
    echo(&app, "ben").await.fails(401, "reauth_required");
}

#[tokio::test]
async fn only_the_browser_that_began_completes_the_authorization_once() {
    let token = "admin-token-of-this-test";
    let (app, authority) = (
        App::start_with(&[("ADMIN_TOKEN", token)]),
        Authority::start().await,
    );
    let post = async |path: &str, body: serde_json::Value| {
        let request = app
            .http
            .post(format!("{}{path}", app.url))
            .bearer_auth(token)
            .json(&body);
        crate::harness::answer(request).await.ok()
    };
    let server =
        json!({ "name": "gated", "transportType": "streamable_http", "url": authority.mcp });
    post("/mcp/servers", server).await;
    let begun = async || {
        let started = post(
            "/mcp/servers/gated/oauth/start",
            json!({ "username": "ana" }),
        )
        .await;
        started["authorizationUrl"]
            .as_str()
            .expect("a URL")
            .to_owned()
    };
    let link = begun().await;
    let mut browser = Browser::new();
    let back = browser.open_until(&link, is_callback).await.url;
    refused(
        &Browser::new().open(back.as_str()).await,
        "did not begin this",
    );
    // The same browser, with a code of somebody else's authorization.
    let foreign = Browser::new()
        .open_until(&begun().await, is_callback)
        .await
        .url;
    refused(
        &browser.open(foreign.as_str()).await,
        "another authorization",
    );
    let mut other = back.clone();
    let pairs: Vec<_> = back.query_pairs().into_owned().collect();
    let from = |(name, value): &(String, String)| match name.as_str() {
        "iss" => (name.clone(), "https://other.example".to_owned()),
        _ => (name.clone(), value.clone()),
    };
    other
        .query_pairs_mut()
        .clear()
        .extend_pairs(pairs.iter().map(from));
    refused(
        &browser.open(other.as_str()).await,
        "another authorization server",
    );
    // What was begun is used up by that.
    refused(&browser.open(back.as_str()).await, "finished already");

    let mut browser = Browser::new();
    let back = browser.open_until(&begun().await, is_callback).await.url;
    assert_eq!(browser.open(back.as_str()).await.status, 200);
    refused(&browser.open(back.as_str()).await, "did not begin this");
    for link in [
        link.replace("link=", "link=x"),
        format!("{link}x"),
        format!("{}/oauth/authorize?link=a.b", app.url),
    ] {
        refused(&Browser::new().open(&link).await, "not made here");
    }
    let mut denied = Browser::new();
    let back = denied.open_until(&begun().await, is_callback).await.url;
    let no = format!(
        "{}/oauth/callback?error=access_denied%3Cb%3E&state={}",
        app.url,
        query(&back, "state").expect("a state")
    );
    let page = denied.open(&no).await;
    refused(&page, "access_denied");
    assert!(!page.text.contains("<b>"), "{}", page.text);
}

#[tokio::test]
async fn two_callbacks_at_the_same_moment_exclude_each_other() {
    let (app, authority) = (App::start(), Authority::start().await);
    gated(&app, &authority).await;
    let link = start(&app, json!({})).await;
    let mut first = Browser::new();
    let back = first.open_until(&link, is_callback).await.url;
    let mut second = first.clone();
    authority.set(json!({ "before": 500 })).await;
    let (first, second) = tokio::join!(first.open(back.as_str()), second.open(back.as_str()));
    let (completed, excluded) = if first.status == 200 {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(completed.status, 200, "{}", completed.text);
    refused(&excluded, "finished already");
    assert_eq!(authority.asked("begun").await, 1, "one exchange");
    app.until("/mcp/servers/gated", |answer| {
        answer["server"]["status"] == "connected"
    })
    .await;
    echo(&app, "ana").await.ok();
}

#[tokio::test]
async fn a_client_is_given_described_or_registered() {
    let app = App::start_with(&[("PUBLIC_URL", "https://mcp.example.com/api/")]);
    let authority = Authority::start().await;
    gated(&app, &authority).await;
    let client = json!({ "clientId": "client basic", "clientSecret": "s3cret:of/basic+client", "scopes": ["mcp"] });
    let link = start(&app, client).await;
    let path = link
        .strip_prefix("https://mcp.example.com/api")
        .expect("the public URL");
    let page = Browser::new()
        .open_until(&format!("{}{path}", app.url), |url| url.path() == "/auth")
        .await
        .url;
    assert_eq!(query(&page, "client_id").as_deref(), Some("client basic"));
    assert_eq!(
        query(&page, "redirect_uri").as_deref(),
        Some("https://mcp.example.com/api/oauth/callback")
    );
    assert_eq!(query(&page, "scope").as_deref(), Some("mcp"));
    assert_eq!(authority.asked("registrations").await, 0);
    let document = app.get("/oauth/client.json").await.body;
    assert_eq!(
        document["client_id"],
        "https://mcp.example.com/api/oauth/client.json"
    );
    assert_eq!(
        document["redirect_uris"],
        json!(["https://mcp.example.com/api/oauth/callback"])
    );

    let post = async |body| app.post("/mcp/servers/gated/oauth/start", body).await;
    for (field, wrong) in [
        ("scopes", json!({ "scopes": ["a b"] })),
        ("clientSecret", json!({ "clientSecret": "s3cret" })),
        ("clientId", json!({ "clientId": "" })),
        ("redirectUri", json!({ "redirectUri": "x" })),
    ] {
        let why = post(wrong).await.fails(400, "invalid_request");
        assert!(why.contains(field) && !why.contains("s3cret"), "{why}");
    }
    app.post("/mcp/servers/nobody/oauth/start", json!({}))
        .await
        .fails(404, "server_not_found");
    register(
        &app,
        "closed",
        "http://127.0.0.1:9/mcp",
        json!({ "enabled": false }),
    )
    .await
    .ok();
    app.post("/mcp/servers/closed/oauth/start", json!({}))
        .await
        .fails(502, "upstream_error");
}
