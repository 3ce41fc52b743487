//! The sign-in in a real Chromium, at the login page of a real issuer.

use reqwest::Method;
use serde_json::json;

use super::front::Front;
use super::issuer::Issuer;
use super::send;
use super::signin::{ADMIN, SECRET, variables};
use crate::chromium::{Browser, ENTER};
use crate::harness::App;
use crate::oauth::Authority;
use crate::wait::wait_until;

/// Starts the program behind a port, with a client of the real issuer.
fn start(front: &Front, issuer: &Issuer, client: &str, secret: &str) -> App {
    let mut variables = variables(&issuer.real);
    variables.extend([
        ("PUBLIC_URL", front.url.as_str()),
        ("OIDC_CLIENT_ID", client),
        ("OIDC_CLIENT_SECRET", secret),
    ]);
    let app = App::start_with(&variables);
    front.lead_to(&app);
    app
}

const ISSUER_BUTTON: &str = "form[action$='/signin/start'] button";

/// Logs in at the login page of the issuer.
async fn log_in(browser: &Browser, user: &str) {
    browser.reads("Log in to the issuer").await;
    browser.type_into("#login", &format!("{user}{ENTER}")).await;
}

#[tokio::test]
async fn a_person_signs_in_at_the_login_page_of_the_issuer() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let front = Front::start().await;
    let issuer = Issuer::start_for(&front.url);
    // Each client authenticates in its own way and gets ID tokens of its own algorithm.
    for (client, secret) in [
        ("pages basic", SECRET),
        ("pages post", SECRET),
        ("pages public", ""),
    ] {
        let app = start(&front, &issuer, client, secret);
        browser.open(&format!("{}/signin", front.url)).await;
        browser.reads("Sign in with 127.0.0.1").await;
        browser.type_into(ISSUER_BUTTON, ENTER).await;
        // The issuer remembers the person after the first time.
        if client == "pages basic" {
            log_in(&browser, "ana").await;
        }
        browser.reads("You are signed in as user ana.").await;
        assert_eq!(browser.url().await, format!("{}/signin", front.url));
        assert_eq!(
            browser.cookie_names().await,
            ["mcp_api_form", "mcp_api_session"]
        );
        browser.click("form[action$='/signout'] button").await;
        wait_until("the session has ended", async || {
            let text = browser.text().await.unwrap_or_default();
            text.contains("Or enter a token") && !text.contains("signed in")
        })
        .await;
        drop(app);
    }
}

#[tokio::test]
async fn a_person_cancels_and_signs_in_again() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let front = Front::start().await;
    let issuer = Issuer::start_for(&front.url);
    let _app = start(&front, &issuer, "pages public", "");
    browser.open(&format!("{}/signin", front.url)).await;
    browser.click(ISSUER_BUTTON).await;
    browser.reads("Log in to the issuer").await;
    browser.click("#cancel").await;
    browser.reads("access_denied").await;
    // A second load of the callback has no cookie.
    browser.post("/refresh", json!({})).await;
    browser.reads("did not begin this sign-in").await;
    browser.click("a").await;
    browser.reads("Sign in with").await;
    browser.click(ISSUER_BUTTON).await;
    log_in(&browser, "root").await;
    browser.reads("You are signed in as user root.").await;
}

#[tokio::test]
async fn a_link_is_for_its_user_at_the_issuer() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let front = Front::start().await;
    let issuer = Issuer::start_for(&front.url);
    let app = start(&front, &issuer, "pages basic", SECRET);
    let authority = Authority::start().await;
    let server =
        json!({ "name": "gated", "transportType": "streamable_http", "url": authority.mcp });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(server))
        .await
        .ok();
    let new_link = async |body| {
        let path = "/mcp/servers/gated/oauth/start";
        let started = send(&app, ADMIN, Method::POST, path, Some(body)).await.ok();
        let url = started["authorizationUrl"].as_str().expect("a URL");
        url.to_owned()
    };

    // Ana has no token of this API, and another person opens the link first.
    let link = new_link(json!({ "username": "ana" })).await;
    browser.open(&link).await;
    browser.reads("Sign in as user ana").await;
    browser.click(ISSUER_BUTTON).await;
    log_in(&browser, "ben").await;
    let text = browser.reads("This link is for user ana").await;
    assert!(text.contains("signed in as user ben"), "{text}");
    // The issuer asks for the account again.
    browser.click("a").await;
    browser.reads("You are signed in as user ben.").await;
    browser.click(ISSUER_BUTTON).await;
    log_in(&browser, "ana").await;
    browser.reads("User ana will use server gated").await;
    assert_eq!(browser.url().await, link);
    browser.click("button").await;
    let text = browser.reads("Access was given").await;
    assert!(text.contains("gated") && text.contains("ana"), "{text}");
    assert_eq!(authority.asked("codes").await, 1);

    // A link for all users needs an administrator, and the group makes root an administrator.
    let link = new_link(json!({})).await;
    browser.open(&link).await;
    browser.reads("This link gives access to all users").await;
    browser.click("a").await;
    browser.reads("You are signed in as user ana.").await;
    browser.click(ISSUER_BUTTON).await;
    log_in(&browser, "root").await;
    browser.reads("Every user will use server gated").await;
}
