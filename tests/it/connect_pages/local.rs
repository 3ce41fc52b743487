//! The pages of a deployment without an identity.

use reqwest::Method;
use serde_json::json;

use super::{open, register, set};
use crate::callers::{make_token, send};
use crate::harness::App;
use crate::page_client::PageClient;

#[tokio::test]
async fn without_an_identity_a_page_acts_for_the_user_default_or_the_signed_in_user() {
    let app = App::start();
    register(
        &app,
        "",
        "fixture",
        json!([{ "name": "message" }, { "name": "ORG", "owner": "shared" }]),
    )
    .await;
    let (id, ana) = make_token(&app, "", json!({ "username": "ana" })).await;
    let echo = async |user: &str| {
        let answer = app.call(user, "fixture", "echo", json!({})).await;
        answer.body.to_string()
    };
    let mut client = PageClient::new();
    let page = open(&app, &mut client, "fixture").await;
    assert!(
        page.text.contains("The page acts for user default."),
        "{}",
        page.text
    );
    assert!(page.form_with("/secrets", "name", "ORG").is_some());
    let response = set(&mut client, &page, "message", "of default").await;
    let confirmed = client.follow(&response).await;
    assert!(
        confirmed.text.contains("The value of message is stored."),
        "{}",
        confirmed.text
    );

    client.sign_in(&app.url, &ana).await;
    // The form of the time before the sign-in is not valid any more.
    let old = set(&mut client, &page, "message", "forged").await;
    old.refuses(403, "did not load it here");
    let page = open(&app, &mut client, "fixture").await;
    assert!(
        page.text.contains("You are signed in as user ana."),
        "{}",
        page.text
    );
    assert!(page.form_with("/secrets", "name", "ORG").is_none());
    let response = set(&mut client, &page, "message", "of ana").await;
    assert_eq!(response.status, 303, "{}", response.text);
    assert!(echo("default").await.contains("of default"));
    assert!(echo("ana").await.contains("of ana"));

    // A session that has ended never falls back to the user default.
    send(&app, "", Method::DELETE, &format!("/tokens/{id}"), None)
        .await
        .ok();
    let mut other = client.clone();
    let refused = set(&mut other, &page, "message", "forged").await;
    refused.refuses(401, "nothing was changed");
    let response = open(&app, &mut client, "fixture").await;
    assert_eq!(
        response.header("location"),
        "/signin?next=%2Fconnect%2Ffixture"
    );
    // The browser has forgotten the session now.
    let page = open(&app, &mut client, "fixture").await;
    assert!(
        page.text.contains("The page acts for user default."),
        "{}",
        page.text
    );
    assert!(echo("default").await.contains("of default"));
}

#[tokio::test]
async fn without_an_identity_no_other_site_sends_a_form_or_reads_a_page() {
    let app = App::start();
    register(&app, "", "fixture", json!([{ "name": "message" }])).await;
    let url = format!("{}/connect/fixture/secrets", app.url);
    let mut victim = PageClient::new();
    let page = open(&app, &mut victim, "fixture").await;
    let form = page.form("/secrets").expect("a form");
    let cookies = format!("mcp_api_form={}", victim.cookies["mcp_api_form"]);
    let mut fields = form.fields.clone();
    fields.push(("value".into(), "forged".into()));
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    // Even with the cookie and the token of the form.
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("host", "evil.example"),
    ] {
        let request = app
            .http
            .post(&url)
            .header("cookie", &cookies)
            .header(name, value);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(body.clone()).send().await.expect("an answer");
        assert_eq!(answer.status(), 403, "{name}: {value}");
    }
    let host = app
        .http
        .get(format!("{}/connect/fixture", app.url))
        .header("host", "evil.example");
    assert_eq!(host.send().await.expect("an answer").status(), 403);
    // Another site does not know the token, and the browser does not send the cookie.
    let fields = [("name", "message"), ("owner", "user"), ("value", "forged")];
    victim
        .post(&url, &fields)
        .await
        .refuses(403, "did not load it here");
    let mut fields: Vec<_> = form
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    fields.push(("value", "forged"));
    PageClient::new()
        .post(&url, &fields)
        .await
        .refuses(403, "did not load it here");
    let connections = app.get("/connections").await.ok();
    assert_eq!(
        connections["connections"][0]["slots"][0]["set"], false,
        "{connections}"
    );
}
