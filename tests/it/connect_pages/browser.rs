//! The pages in a real Chromium.

use reqwest::Method;
use serde_json::json;

use super::{ADMIN, call, register, register_remote, start, token};
use crate::callers::send;
use crate::chromium::{Browser, ENTER};
use crate::oauth::Authority;

const VALUE: &str = "plant-of-ana-5d20";

#[tokio::test]
async fn a_person_sets_a_value_and_removes_it_with_the_keyboard_alone() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let app = start();
    register(
        &app,
        ADMIN,
        "fixture",
        json!([{ "name": "message", "required": true }]),
    )
    .await;
    register_remote(&app, "remote").await;
    let ana = token(&app, "ana").await;

    browser.open(&format!("{}/connect", app.url)).await;
    browser.reads("Enter your token of this API.").await;
    browser.tab_to("#token").await;
    browser.press(&format!("{ana}{ENTER}")).await;
    browser.reads("You are signed in as user ana.").await;
    let text = browser.reads("fixture: needs message").await;
    assert!(text.contains("remote: needs API_KEY"), "{text}");
    browser.tab_to("a[href$='/connect/fixture']").await;
    browser.press(ENTER).await;
    browser.reads("Not set, and required").await;
    browser.tab_to("#value-0").await;
    browser.press(&format!("{VALUE}{ENTER}")).await;
    let text = browser.reads("The value of message is stored.").await;
    assert!(!text.contains(VALUE), "{text}");
    assert_eq!(
        browser.title().await,
        "The value of message is stored. – Server fixture"
    );
    let found = call(&app, &ana, "echo").await.ok();
    assert!(found.to_string().contains(VALUE), "{found}");

    browser
        .tab_to("form[action$='/secrets/delete'] button")
        .await;
    browser.press(ENTER).await;
    browser.reads("The value of message is removed.").await;
    call(&app, &ana, "echo")
        .await
        .fails(401, "credential_required");

    // A value that does not fit: the focus is at the problem, and its link leads to the field.
    browser.tab_to("nav a[href$='/connect']").await;
    browser.press(ENTER).await;
    browser.reads("Choose a server").await;
    browser.tab_to("a[href$='/connect/remote']").await;
    browser.press(ENTER).await;
    browser.reads("Your data goes to 127.0.0.1.").await;
    browser.tab_to("#value-0").await;
    browser.press(&format!("plant-\u{e9}{ENTER}")).await;
    let text = browser.reads("There is a problem").await;
    assert!(text.contains("The value does not fit API_KEY"), "{text}");
    assert_eq!(browser.title().await, "Error – Server remote");
    assert!(browser.has_focus("[role=alert]").await);
    browser.tab_to("[role=alert] a").await;
    browser.press(ENTER).await;
    assert!(browser.has_focus("#value-0").await);
    browser.press(&format!("{VALUE}{ENTER}")).await;
    browser.reads("The value of API_KEY is stored.").await;
    browser.tab_to("form[action$='/disconnect'] button").await;
    browser.press(ENTER).await;
    browser
        .reads("Everything that you had stored for this server is removed.")
        .await;
}

#[tokio::test]
async fn a_person_connects_an_account_and_disconnects_it() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (app, authority) = (start(), Authority::start().await);
    let server =
        json!({ "name": "gated", "transportType": "streamable_http", "url": authority.mcp });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(server))
        .await
        .ok();
    let ana = token(&app, "ana").await;
    let echo = async || {
        let call =
            json!({ "serverName": "gated", "methodName": "echo", "args": { "message": "hi" } });
        send(&app, &ana, Method::POST, "/mcp/tool/call", Some(call)).await
    };
    echo().await.fails(401, "reauth_required");
    let page = format!("{}/connect/gated", app.url);
    browser.open(&page).await;
    browser.reads("Enter your token of this API.").await;
    browser.type_into("#token", &format!("{ana}{ENTER}")).await;
    browser.reads("No account is connected.").await;
    assert_eq!(browser.url().await, page);
    for (done, asked) in [("Connect an account", 1), ("Connect the account again", 2)] {
        browser.reads(done).await;
        browser.click("form[action$='/oauth'] button").await;
        browser.reads("The account is connected.").await;
        assert_eq!(browser.url().await, page);
        assert_eq!(authority.asked("codes").await, asked);
        let found = echo().await.ok();
        assert!(found.to_string().contains("hi"), "{found}");
        // The confirmation is shown once.
        browser.open(&page).await;
        browser.reads("Your account is connected.").await;
    }
    let mut cookies = browser.cookie_names().await;
    // The authorization server has cookies of its own on the same host.
    cookies.retain(|cookie| cookie.starts_with("mcp_api"));
    assert_eq!(cookies, ["mcp_api_form", "mcp_api_session"]);
    browser.click("form[action$='/disconnect'] button").await;
    browser.reads("The account is disconnected.").await;
    echo().await.fails(401, "reauth_required");
}

#[tokio::test]
async fn a_person_connects_an_account_where_no_identity_is_configured() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let (app, authority) = (crate::harness::App::start(), Authority::start().await);
    let server =
        json!({ "name": "gated", "transportType": "streamable_http", "url": authority.mcp });
    app.post("/mcp/servers", server).await.ok();
    browser.open(&format!("{}/connect/gated", app.url)).await;
    browser.reads("The page acts for user default.").await;
    browser.click("form[action$='/oauth'] button").await;
    browser.reads("The account is connected.").await;
    let found = app
        .call("default", "gated", "echo", json!({ "message": "hi" }))
        .await
        .ok();
    assert!(found.to_string().contains("hi"), "{found}");
    browser.click("form[action$='/disconnect'] button").await;
    browser.reads("The account is disconnected.").await;
}
