//! The sign-in in a real Chromium: a link, a click, and a call.

use serde_json::{Value, json};

use super::page::Google;
use super::{CREDENTIALS, link, register, shown, start};
use crate::chromium::{Browser, ENTER};

#[tokio::test]
async fn a_user_gives_access_by_a_click() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let google = Google::start().await;
    let app = start(&[]);
    register(&app, &google, "workspace", &[]).await.ok();

    // The failed call names the URL.
    let refused = app.call("ana", "workspace", "show", json!({})).await;
    let page = refused.body["authorizationUrl"]
        .as_str()
        .expect("a URL")
        .to_owned();
    refused.fails(401, "reauth_required");
    browser.open(&page).await;
    // The page names the user and the server, and asks for one click.
    let text = browser.reads("User ana will use server workspace").await;
    assert!(text.contains("Continue only if you are user ana"), "{text}");
    browser.click("button").await;
    browser.reads("May it read your mail?").await;
    let url = browser.url().await;
    assert!(url.starts_with(&google.url), "{url}");
    browser.click("#allow").await;
    let text = browser.reads("Connected to Google").await;
    assert!(text.contains("ana") && text.contains("workspace"), "{text}");
    assert_eq!(
        browser.cookie_names().await,
        ["mcp_api_form"],
        "what is done needs no cookie"
    );
    let args = shown(
        &app,
        "ana",
        "workspace",
        json!({ "userCredentials": "mine", "q": 1 }),
    )
    .await;
    let application: Value = serde_json::from_str(&CREDENTIALS).expect("JSON");
    assert_eq!(
        args,
        json!({ "userCredentials": google.tokens(), "gauthFileContent": application, "q": 1 })
    );

    // A second load of the callback has no cookie.
    browser.post("/refresh", json!({})).await;
    browser.reads("did not begin this").await;

    let refused = app.call("ben", "workspace", "show", json!({})).await;
    browser
        .open(refused.body["authorizationUrl"].as_str().expect("a URL"))
        .await;
    browser.click("button").await;
    browser.reads("May it read your mail?").await;
    browser.click("#deny").await;
    browser.reads("access_denied").await;
    app.call("ben", "workspace", "show", json!({}))
        .await
        .fails(401, "reauth_required");
}

#[tokio::test]
async fn a_user_signs_in_with_the_keyboard_and_gives_access() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let google = Google::start().await;
    let app = start(&[]);
    register(&app, &google, "workspace", &[]).await.ok();
    let token = async |user: &str| {
        let made = app.post("/tokens", json!({ "username": user })).await.ok();
        made["token"].as_str().expect("a token").to_owned()
    };
    let (ana, ben) = (token("ana").await, token("ben").await);
    let link = link(&app, "ana", None).await;

    // Another user signs in at the link of ana.
    browser.open(&link).await;
    browser.reads("Sign in as user ana").await;
    browser.type_into("#token", &format!("{ben}{ENTER}")).await;
    let text = browser.reads("This link is for user ana").await;
    assert!(text.contains("signed in as user ben"), "{text}");
    browser.click("a").await;
    browser.reads("You are signed in as user ben.").await;
    browser.type_into("#token", &format!("wrong{ENTER}")).await;
    browser.reads("The token is wrong").await;
    browser.type_into("#token", &format!("{ana}{ENTER}")).await;
    browser.reads("User ana will use server workspace").await;
    browser.type_into("button", ENTER).await;
    browser.reads("May it read your mail?").await;
    browser.click("#allow").await;
    browser.reads("Connected to Google").await;
    assert_eq!(
        browser.cookie_names().await,
        ["mcp_api_form", "mcp_api_session"]
    );
    shown(&app, "ana", "workspace", json!({})).await;

    // The link was used.
    browser.open(&link).await;
    browser.click("button").await;
    browser.reads("This link was used already").await;
}
