//! Links where an identity is configured: only the user of a link begins its authorization, and only once.

use reqwest::Method;
use serde_json::{Value, json};

use super::Authority;
use crate::callers::{make_token, send};
use crate::harness::App;
use crate::page_client::{PageClient, Shown};

const ADMIN: &str = "an-admin-token-of-many-characters";

/// Starts the program with the server `gated`.
async fn start() -> (App, Authority) {
    let app = App::start_with(&[("ADMIN_TOKEN", ADMIN)]);
    let authority = Authority::start().await;
    let server =
        json!({ "name": "gated", "transportType": "streamable_http", "url": authority.mcp });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(server))
        .await
        .ok();
    (app, authority)
}

/// Returns the link of `…/oauth/start`.
async fn new_link(app: &App, body: Value) -> String {
    let path = "/mcp/servers/gated/oauth/start";
    let started = send(app, ADMIN, Method::POST, path, Some(body)).await.ok();
    started["authorizationUrl"]
        .as_str()
        .expect("a URL")
        .to_owned()
}

async fn token(app: &App, user: &str, scopes: &[&str]) -> String {
    let body = json!({ "username": user, "scopes": scopes });
    make_token(app, ADMIN, body).await.1
}

/// Clicks the button of a link's page.
async fn click(client: &mut PageClient, page: &Shown) -> Shown {
    client.submit(page, "/oauth/authorize", &[]).await
}

fn leads_to_the_authority(page: &Shown, authority: &Authority) {
    assert_eq!(page.status, 200, "{}", page.text);
    let url = page.leads_to().expect("a URL");
    assert!(url.starts_with(&authority.issuer), "{url}");
    assert!(page.text.contains("<a href="), "{}", page.text);
    assert!(page.header("set-cookie").starts_with("mcp_api_oauth="));
}

#[tokio::test]
async fn a_user_with_a_token_signs_in_before_a_link_begins() {
    let (app, authority) = start().await;
    let ana = token(&app, "ana", &["secrets"]).await;
    let without_secrets = token(&app, "ana", &["tools"]).await;
    let ben = token(&app, "ben", &["tools", "secrets"]).await;
    let link = new_link(&app, json!({ "username": "ana" })).await;

    // The session of a browser is worth what its token is worth.
    let mut client = PageClient::new();
    client.sign_in(&app.url, &without_secrets).await;
    let page = client.get(&link).await;
    page.refuses(403, "a token without the scope secrets");

    // Another user, and an administrator.
    for token in [ben.as_str(), ADMIN] {
        let mut client = PageClient::new();
        client.sign_in(&app.url, token).await;
        let page = client.get(&link).await;
        page.refuses(
            403,
            "This link is for user ana, and this browser is signed in as user",
        );
        assert!(page.form("/oauth/authorize").is_none());
    }
    // A form of another page does not help them.
    let mut client = PageClient::new();
    client.sign_in(&app.url, &ben).await;
    let page = client.get(&format!("{}/signin", app.url)).await;
    let form = page.form("/signout").expect("a form");
    let fields = [("form_token", form.fields[0].1.as_str())];
    let page = client.post(&link, &fields).await;
    page.refuses(403, "This link is for user ana");

    // The user of the link, in a browser that has no session yet.
    let mut client = PageClient::new();
    let page = client.get(&link).await;
    page.refuses(401, "Sign in as user ana");
    assert!(page.form("/oauth/authorize").is_none());
    let page = client.submit(&page, "/signin", &[("token", &ana)]).await;
    assert_eq!(page.status, 303);
    let next = page.url.join(page.header("location")).expect("a URL");
    assert_eq!(next.as_str(), link);
    let page = client.get(next.as_str()).await;
    assert!(
        page.text.contains("User ana will use server gated"),
        "{}",
        page.text
    );
    assert!(page.leads_to().is_none());
    let begun = click(&mut client, &page).await;
    leads_to_the_authority(&begun, &authority);
    // A second click, and a second load of the page.
    click(&mut client, &page).await.refuses(403, "used already");
    let page = client.get(&link).await;
    click(&mut client, &page).await.refuses(403, "used already");
}

#[tokio::test]
async fn a_link_for_all_users_needs_an_administrator() {
    let (app, authority) = start().await;
    let ben = token(&app, "ben", &["tools", "secrets"]).await;
    let root = token(&app, "root", &["admin"]).await;
    for allowed in [ADMIN, root.as_str()] {
        let link = new_link(&app, json!({})).await;
        let mut client = PageClient::new();
        let page = client.get(&link).await;
        page.refuses(401, "Sign in as an administrator");
        client.sign_in(&app.url, &ben).await;
        client.get(&link).await.refuses(403, "scope admin");
        client.sign_in(&app.url, allowed).await;
        let page = client.get(&link).await;
        assert!(
            page.text.contains("Every user will use server gated"),
            "{}",
            page.text
        );
        leads_to_the_authority(&click(&mut client, &page).await, &authority);
    }
}

#[tokio::test]
async fn a_user_who_cannot_sign_in_clicks_once() {
    let (app, authority) = start().await;
    let link = new_link(&app, json!({ "username": "ana" })).await;
    let mut client = PageClient::new();
    let page = client.get(&link).await;
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(page.leads_to().is_none(), "it does not redirect at once");
    assert!(
        page.text.contains("User ana will use server gated"),
        "{}",
        page.text
    );
    // Without the cookie of the form.
    let stranger = click(&mut PageClient::new(), &page).await;
    stranger.refuses(403, "did not load it here");
    let begun = click(&mut client, &page).await;
    leads_to_the_authority(&begun, &authority);
    // The callback without its cookie.
    let callback = format!("{}/oauth/callback?code=x&state=y", app.url);
    let page = PageClient::new().get(&callback).await;
    page.refuses(403, "did not begin this");
    client
        .get(&callback)
        .await
        .refuses(403, "another authorization");
    // A user who can sign in is asked for the sign-in from now on.
    let link = new_link(&app, json!({ "username": "ana" })).await;
    let page = client.get(&link).await;
    token(&app, "ana", &["tools"]).await;
    let ended = click(&mut client, &page).await;
    ended.refuses(401, "open the link again");
    client.get(&link).await.refuses(401, "Sign in as user ana");
}

#[tokio::test]
async fn a_link_of_a_call_begins_once_at_all_facades_and_after_a_restart() {
    let (mut app, authority) = start().await;
    let mut second = app.url.clone();
    if app.services.is_some() {
        let facade = app.add("api");
        second = app.processes[facade].url.clone();
    }
    let ana = token(&app, "ana", &["tools", "secrets"]).await;
    let call = json!({ "serverName": "gated", "methodName": "echo", "args": { "message": "x" } });
    let refused = send(&app, &ana, Method::POST, "/mcp/tool/call", Some(call)).await;
    let link = refused.body["authorizationUrl"]
        .as_str()
        .expect("a URL")
        .to_owned();
    let elsewhere = link.replace(&app.url, &second);
    let mut client = PageClient::new();
    // One session serves all facades.
    assert_eq!(client.sign_in(&second, &ana).await.status, 303);
    let (first_page, second_page) = (client.get(&link).await, client.get(&elsewhere).await);
    let mut other = client.clone();
    let (first, other) = tokio::join!(
        click(&mut client, &first_page),
        click(&mut other, &second_page)
    );
    let (begun, excluded) = if first.status == 200 {
        (first, other)
    } else {
        (other, first)
    };
    leads_to_the_authority(&begun, &authority);
    excluded.refuses(403, "used already");
    let page = client.get(&elsewhere).await;
    click(&mut client, &page).await.refuses(403, "used already");
    if app.services.is_none() {
        app.kill_and_restart();
        let link = link.replace(&second, &app.url);
        let page = client.get(&link).await;
        click(&mut client, &page).await.refuses(403, "used already");
    }
}

#[tokio::test]
async fn a_link_begins_at_once_where_no_identity_is_configured() {
    let (app, authority) = (App::start(), Authority::start().await);
    super::gated(&app, &authority).await;
    let path = "/mcp/servers/gated/oauth/start";
    let started = app.post(path, json!({ "username": "ana" })).await.ok();
    let link = started["authorizationUrl"].as_str().expect("a URL");
    for _ in 0..2 {
        let page = PageClient::new().get(link).await;
        assert_eq!(page.status, 302, "{}", page.text);
        let url = page.leads_to().expect("a URL");
        assert!(url.starts_with(&authority.issuer), "{url}");
    }
}
