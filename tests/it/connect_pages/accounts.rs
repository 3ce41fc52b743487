//! Accounts: the buttons that connect and disconnect OAuth and Google, without a browser.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ADMIN, open, set, signed_in, start, token};
use crate::callers::send;
use crate::google::page::Google;
use crate::google::{CREDENTIALS, callback};
use crate::harness::{App, fixture, python};
use crate::oauth::Authority;
use crate::page_client::{PageClient, Shown};

async fn register_gated(app: &App, authority: &Authority) {
    let body = json!({
        "name": "gated", "transportType": "streamable_http", "url": authority.mcp,
        "credentials": [{ "name": "message" }],
    });
    send(app, ADMIN, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
}

async fn events_of(app: &App, kind: &str) -> usize {
    let events = send(app, ADMIN, Method::GET, "/events?limit=1000", None)
        .await
        .ok();
    let events = events["events"].as_array().expect("events").iter();
    events.filter(|event| event["type"] == kind).count()
}

/// Follows the pages of the authorization server to the callback, and returns the response of the callback.
async fn authorize(client: &mut PageClient, begun: &Shown) -> Shown {
    let start = begun.leads_to().expect("a URL");
    let back = crate::oauth::walk(&start).await;
    client.get(&back).await
}

#[tokio::test]
async fn a_button_begins_an_authorization_that_returns_to_the_page() {
    let (app, authority) = (start(), Authority::start().await);
    register_gated(&app, &authority).await;
    let ana = token(&app, "ana").await;
    let mut client = signed_in(&app, &ana).await;
    let page = open(&app, &mut client, "gated").await;
    for part in [
        "No account is connected.",
        "User ana will use server gated with the account that you choose on the next page.",
        "Connect an account</button>",
    ] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert!(page.form("/disconnect").is_none(), "{}", page.text);
    let begun = client.submit(&page, "/oauth", &[]).await;
    assert_eq!(begun.status, 200, "{}", begun.text);
    let url = begun.leads_to().expect("a URL");
    assert!(url.starts_with(&authority.issuer), "{url}");
    assert!(begun.header("set-cookie").starts_with("mcp_api_oauth="));

    // Another browser cannot end the authorization.
    let mut other = signed_in(&app, &token(&app, "ben").await).await;
    authorize(&mut other, &begun)
        .await
        .refuses(403, "did not begin this");

    let begun = client.submit(&page, "/oauth", &[]).await;
    let response = authorize(&mut client, &begun).await;
    assert_eq!(response.header("location"), "/connect/gated");
    let confirmed = client.follow(&response).await;
    assert!(
        confirmed
            .text
            .contains("<p role=\"status\">The account is connected.</p>"),
        "{}",
        confirmed.text
    );
    assert!(!client.cookies.contains_key("mcp_api_oauth"));
    let response = set(&mut client, &confirmed, "message", "a value").await;
    let page = client.follow(&response).await;
    for button in [
        "Connect the account again",
        "Disconnect the account",
        "Remove everything",
    ] {
        assert!(
            page.text.contains(&format!("{button}</button>")),
            "{button}: {}",
            page.text
        );
    }

    // One part is removed alone, and then everything.
    let form = page
        .form_with("/disconnect", "part", "oauth")
        .expect("a form");
    let response = client.send_form(&page, &form, &[]).await;
    let page = client.follow(&response).await;
    assert!(
        page.text.contains("The account is disconnected."),
        "{}",
        page.text
    );
    assert!(
        page.text.contains("Remove message</button>"),
        "{}",
        page.text
    );
    assert_eq!(events_of(&app, "grant.removed").await, 1);
    assert_eq!(events_of(&app, "secret.deleted").await, 0);
    let response = client.submit(&page, "/disconnect", &[]).await;
    let page = client.follow(&response).await;
    assert!(
        page.text
            .contains("Everything that you had stored for this server is removed."),
        "{}",
        page.text
    );
    assert!(!page.text.contains("Remove message"), "{}", page.text);
    assert_eq!(events_of(&app, "secret.deleted").await, 1);
    let form = page.form("/oauth").expect("a form");
    let wrong = format!("{}/connect/gated/disconnect", app.url);
    let fields = [("form_token", form.fields[0].1.as_str()), ("part", "shoes")];
    client
        .post(&wrong, &fields)
        .await
        .refuses(400, "The field part of the form must be");
}

#[tokio::test]
async fn a_refused_authorization_and_a_server_without_oauth_lead_back_to_the_page() {
    let (app, authority) = (start(), Authority::start().await);
    register_gated(&app, &authority).await;
    let body = json!({ "name": "closed", "transportType": "streamable_http", "url": "http://127.0.0.1:9/mcp" });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(body)).await;
    let mut client = signed_in(&app, &token(&app, "ana").await).await;
    let page = open(&app, &mut client, "gated").await;
    let begun = client.submit(&page, "/oauth", &[]).await;
    let url = begun.leads_to().expect("a URL");
    let url = reqwest::Url::parse(&url).expect("a URL");
    let state = url
        .query_pairs()
        .find(|(name, _)| name == "state")
        .expect("a state")
        .1
        .into_owned();
    let back = format!(
        "{}/oauth/callback?error=access_denied&state={state}",
        app.url
    );
    let refused = client.get(&back).await;
    refused.refuses(403, "access_denied");
    assert!(
        refused.text.contains("<a href=\"/connect/gated\">"),
        "{}",
        refused.text
    );

    let page = open(&app, &mut client, "closed").await;
    let failed = client.submit(&page, "/oauth", &[]).await;
    assert!(
        (500..600).contains(&failed.status),
        "{} {}",
        failed.status,
        failed.text
    );
    assert!(
        failed.text.contains("There is a problem"),
        "{}",
        failed.text
    );
    assert!(failed.form("/oauth").is_some(), "{}", failed.text);
    // The fixture server has no URL and does not sign in to Google.
    super::register(&app, ADMIN, "fixture", json!([])).await;
    let form_token = page.form("/oauth").expect("a form").fields[0].1.clone();
    for action in ["oauth", "google"] {
        let url = format!("{}/connect/fixture/{action}", app.url);
        let failed = client.post(&url, &[("form_token", &form_token)]).await;
        assert_eq!(failed.status, 400, "{}", failed.text);
    }
}

#[tokio::test]
async fn an_account_for_all_users_is_shown_and_stays() {
    let (app, authority) = (start(), Authority::start().await);
    register_gated(&app, &authority).await;
    let tokens = authority.tokens("public", "root").await;
    let path = "/mcp/servers/gated/oauth";
    send(&app, ADMIN, Method::POST, path, Some(tokens))
        .await
        .ok();
    let mut client = signed_in(&app, &token(&app, "ana").await).await;
    let page = open(&app, &mut client, "gated").await;
    assert!(
        page.text
            .contains("An administrator has connected an account for all users."),
        "{}",
        page.text
    );
    assert!(page.form("/disconnect").is_none(), "{}", page.text);
    assert!(page.form("/oauth").is_some());
}

#[tokio::test]
async fn a_person_connects_and_disconnects_google() {
    let google = Google::start().await;
    let app = App::start_with(&[
        ("ADMIN_TOKEN", ADMIN),
        ("GOOGLE_OAUTH_CREDENTIALS", CREDENTIALS.as_str()),
    ]);
    let body = json!({
        "name": "workspace", "command": python(), "args": ["-u", fixture("google.py")],
        "env": {
            "MCP_AUTH_TYPE": "OAUTH2_GOOGLE",
            "GOOGLE_PAGE": format!("{}/consent", google.url),
            "GOOGLE_TOKENS": format!("{}/token", google.url),
            "GOOGLE_CALLBACK": format!("{}/auth/google/callback", app.url),
        },
    });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
    let ana = token(&app, "ana").await;
    let mut client = signed_in(&app, &ana).await;
    let show = async || {
        let call = json!({ "serverName": "workspace", "methodName": "show", "args": {} });
        send(&app, &ana, Method::POST, "/mcp/tool/call", Some(call)).await
    };
    let state_of = |page: &Shown| {
        let url = page.leads_to().expect("a URL");
        assert!(url.starts_with(&google.url), "{url}");
        let url = reqwest::Url::parse(&url).expect("a URL");
        let state = url
            .query_pairs()
            .find(|(name, _)| name == "state")
            .expect("a state");
        state.1.into_owned()
    };
    let page = open(&app, &mut client, "workspace").await;
    assert!(
        page.text.contains("No Google account is connected."),
        "{}",
        page.text
    );
    let begun = client.submit(&page, "/google", &[]).await;
    let denied = format!(
        "{}/auth/google/callback?error=access_denied&state=",
        app.url
    );
    let mut denied = reqwest::Url::parse(&denied).expect("a URL");
    denied.set_query(None);
    denied
        .query_pairs_mut()
        .append_pair("error", "access_denied")
        .append_pair("state", &state_of(&begun));
    let refused = client.get(denied.as_str()).await;
    refused.refuses(403, "access_denied");
    assert!(
        refused.text.contains("<a href=\"/connect/workspace\">"),
        "{}",
        refused.text
    );

    let begun = client.submit(&page, "/google", &[]).await;
    let response = client
        .get(&callback(&app, &google.code(), &state_of(&begun)))
        .await;
    assert_eq!(response.header("location"), "/connect/workspace");
    let page = client.follow(&response).await;
    assert!(
        page.text
            .contains("<p role=\"status\">Google is connected.</p>"),
        "{}",
        page.text
    );
    let list = client.get(&format!("{}/connect", app.url)).await;
    assert!(
        list.text.contains("workspace</a>: Google connected"),
        "{}",
        list.text
    );
    let shown: Value = show().await.ok();
    assert!(shown.to_string().contains("access_token"), "{shown}");
    let form = page
        .form_with("/disconnect", "part", "google")
        .expect("a form");
    let response = client.send_form(&page, &form, &[]).await;
    let page = client.follow(&response).await;
    assert!(
        page.text.contains("Google is disconnected."),
        "{}",
        page.text
    );
    show().await.fails(401, "reauth_required");
}
