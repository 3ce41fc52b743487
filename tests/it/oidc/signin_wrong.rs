//! Sign-ins at an issuer that are refused: each with one page, without a session, and without a value of the sign-in.

use std::time::Instant;

use serde_json::{Value, json};

use super::issuer::Issuer;
use super::signin::{Begun, SECRET, callback, is_signed_in, variables};
use crate::harness::App;
use crate::page_client::{PageClient, Shown};
use crate::wait::wait_until;

fn start(issuer: &Issuer) -> App {
    App::start_with(&[variables(&issuer.url), vec![("OIDC_CLIENT_SECRET", SECRET)]].concat())
}

/// Asserts that a page refuses a sign-in, says how to go on, and begins no session.
fn refuses(page: &Shown, client: &PageClient, status: u16, sentence: &str) {
    page.refuses(status, sentence);
    assert!(
        page.text.contains("<a href=\"/signin?next=%2F"),
        "{}",
        page.text
    );
    assert!(!page.text.contains("a-code"), "{}", page.text);
    assert!(!client.cookies.contains_key("mcp_api_session"));
}

#[tokio::test]
async fn a_callback_belongs_to_one_sign_in_of_one_browser() {
    let issuer = Issuer::start();
    let app = start(&issuer);
    let mut client = PageClient::new();
    let begun = Begun::at(&app, &mut client, "/signin").await;
    let state = begun.parameter("state");
    begun.answer_with(&issuer, "ana", json!({})).await;

    // Another browser, and no state.
    let mut other = PageClient::new();
    let sentence = "This browser did not begin this sign-in";
    refuses(
        &begun.come_back(&app, &mut other).await,
        &other,
        403,
        sentence,
    );
    let page = callback(&app, &mut client, &[("code", "a-code")]).await;
    refuses(&page, &client, 400, "state is missing");
    // The state of another sign-in, and a wrong state.
    let of_other = Begun::at(&app, &mut other, "/signin")
        .await
        .parameter("state");
    for wrong in [of_other.as_str(), "AAAA", "%", ""] {
        let query = [("code", "a-code"), ("state", wrong)];
        let page = callback(&app, &mut client, &query).await;
        refuses(&page, &client, 403, "begun another sign-in since");
    }
    let page = callback(&app, &mut client, &[("state", &state), ("state", &state)]).await;
    assert_eq!(page.status, 400);
    assert!(issuer.token_requests().await.is_empty());

    // A wrong callback does not end the sign-in, and a second callback has no cookie.
    let mut copy = client.clone();
    assert_eq!(begun.come_back(&app, &mut client).await.status, 302);
    assert!(is_signed_in(&app, &mut client, "ana").await);
    begun
        .come_back(&app, &mut client)
        .await
        .refuses(403, sentence);
    // A copy of the cookie does not help, because the issuer accepts a code once.
    issuer
        .set(json!({ "token": { "status": 400, "body": { "error": "invalid_grant" } } }))
        .await;
    let page = begun.come_back(&app, &mut copy).await;
    refuses(&page, &copy, 403, "does not accept this sign-in any more");
}

#[tokio::test]
async fn an_error_of_the_issuer_ends_the_sign_in() {
    let issuer = Issuer::start();
    let app = start(&issuer);
    let mut client = PageClient::new();
    let next = "/oauth/authorize?link=a.b";
    let begun = Begun::at(&app, &mut client, next).await;
    let state = begun.parameter("state");
    let error = "access_denied<script>";
    let description = "a-code";
    let query = [
        ("error", error),
        ("error_description", description),
        ("state", &state),
    ];
    let page = callback(&app, &mut client, &query).await;
    refuses(&page, &client, 403, "(access_deniedscript)");
    assert!(
        page.text.contains("next=%2Foauth%2Fauthorize%3Flink%3Da.b"),
        "{}",
        page.text
    );
    assert!(!client.cookies.contains_key("mcp_api_signin"));
    let page = begun.come_back(&app, &mut client).await;
    page.refuses(403, "did not begin this sign-in");
    assert!(issuer.token_requests().await.is_empty());
}

#[tokio::test]
async fn a_response_of_another_issuer_is_refused() {
    let issuer = Issuer::start();
    let promise = json!({ "authorization_response_iss_parameter_supported": true });
    issuer.set(json!({ "metadata": promise })).await;
    let app = start(&issuer);
    for named in [Some(issuer.real.as_str()), Some(""), None] {
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin").await;
        let state = begun.parameter("state");
        let mut query = vec![("code", "a-code"), ("state", state.as_str())];
        query.extend(named.map(|named| ("iss", named)));
        let page = callback(&app, &mut client, &query).await;
        refuses(&page, &client, 403, "Another issuer than OIDC_ISSUER");
    }
    assert!(issuer.token_requests().await.is_empty());
    let mut client = PageClient::new();
    let begun = Begun::at(&app, &mut client, "/signin").await;
    begun.answer_with(&issuer, "ana", json!({})).await;
    let state = begun.parameter("state");
    let query = [("code", "a-code"), ("state", &state), ("iss", &issuer.url)];
    assert_eq!(callback(&app, &mut client, &query).await.status, 302);
}

#[tokio::test]
async fn a_wrong_id_token_begins_no_session() {
    let issuer = Issuer::start();
    let app = start(&issuer);
    let audiences = json!(["pages", "other"]);
    for (more, status, sentence) in [
        (
            json!({ "claims": { "nonce": "other" } }),
            502,
            "another sign-in",
        ),
        (
            json!({ "claims": { "nonce": null } }),
            502,
            "another sign-in",
        ),
        (json!({ "claims": { "aud": "other" } }), 502, "audience"),
        (
            json!({ "claims": { "aud": super::PUBLIC_URL } }),
            502,
            "audience",
        ),
        (
            json!({ "claims": { "aud": audiences } }),
            502,
            "another client",
        ),
        (
            json!({ "claims": { "azp": "other" } }),
            502,
            "another client",
        ),
        (
            json!({ "claims": { "in": { "exp": -70 } } }),
            502,
            "expired",
        ),
        (
            json!({ "claims": { "in": { "nbf": 70 } } }),
            502,
            "not valid yet",
        ),
        (
            json!({ "claims": { "iss": "https://evil.example" } }),
            502,
            "another issuer",
        ),
        (json!({ "header": { "alg": "none" } }), 502, "algorithm"),
        (json!({ "header": { "alg": "HS256" } }), 502, "algorithm"),
        (
            json!({ "key": "RS256 x", "header": { "kid": "RS256 a" } }),
            502,
            "signature",
        ),
        (json!({ "key": "RS256 x" }), 502, "no key"),
        (
            json!({ "claims": { "sub": "mcp-api" } }),
            403,
            "names no user",
        ),
        (json!({ "claims": { "sub": null } }), 403, "names no user"),
        (json!({ "padding": 20_000 }), 502, "16 KiB"),
    ] {
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin").await;
        begun.answer_with(&issuer, "ana", more.clone()).await;
        let page = begun.come_back(&app, &mut client).await;
        refuses(&page, &client, status, sentence);
        let requests = issuer.token_requests().await;
        let sent = requests.last().expect("a token request")["content"]["id_token"].clone();
        let payload = sent.as_str().and_then(|jwt| jwt.split('.').nth(1));
        let payload = payload.expect("a payload");
        assert!(
            !page.text.contains(payload) && !app.log().contains(payload),
            "{more}"
        );
    }
    // With several audiences, the client must be the party that requested the token.
    let mut client = PageClient::new();
    let begun = Begun::at(&app, &mut client, "/signin").await;
    let claims = json!({ "claims": { "aud": audiences, "azp": "pages" } });
    begun.answer_with(&issuer, "ana", claims).await;
    assert_eq!(begun.come_back(&app, &mut client).await.status, 302);
}

#[tokio::test]
async fn a_token_endpoint_without_an_id_token_begins_no_session() {
    let issuer = Issuer::start();
    let app = start(&issuer);
    for (status, body, expected, sentence) in [
        (
            200,
            json!({ "access_token": "a-code" }),
            502,
            "sent no ID token",
        ),
        (200, json!("a-code"), 502, "sent no ID token"),
        (
            401,
            json!({ "error": "invalid_client", "error_description": "a-code" }),
            502,
            "(invalid_client); an administrator must check",
        ),
        (404, json!({}), 502, "status 404"),
        (500, json!({}), 503, "cannot be asked now"),
        (
            200,
            json!({ "id_token": { "a-code": 1 } }),
            502,
            "sent no ID token",
        ),
    ] {
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin").await;
        let token = json!({ "status": status, "body": body });
        issuer.set(json!({ "token": token })).await;
        let page = begun.come_back(&app, &mut client).await;
        refuses(&page, &client, expected, sentence);
    }
    assert!(!app.log().contains("a-code"));
}

/// Opens the sign-in and clicks the button that leads to the issuer.
async fn click(app: &App, client: &mut PageClient) -> Shown {
    let page = client.get(&format!("{}/signin", app.url)).await;
    client.submit(&page, "/signin/start", &[]).await
}

#[tokio::test]
async fn while_the_issuer_is_unreachable_a_page_offers_a_retry() {
    let issuer = Issuer::start();
    issuer.set(json!({ "mode": "disconnecting" })).await;
    let app = start(&issuer);
    let mut client = PageClient::new();
    let begin = Instant::now();
    for _ in 0..10 {
        let page = click(&app, &mut client).await;
        refuses(&page, &client, 503, "cannot be asked now");
        assert!(page.text.contains(">Retry</a>"), "{}", page.text);
        assert!(page.headers.contains_key("retry-after"));
    }
    // A failed read is repeated after five seconds.
    assert!(issuer.reads().await <= 1 + begin.elapsed().as_secs() / 5);
    // Tokens still sign in.
    assert_eq!(client.sign_in(&app.url, super::ADMIN).await.status, 303);
    issuer.set(json!({ "mode": "standard" })).await;
    wait_until("the issuer is asked again", async || {
        click(&app, &mut client).await.status == 200
    })
    .await;
    // The issuer goes away before the code is exchanged.
    let mut client = PageClient::new();
    let begun = Begun::at(&app, &mut client, "/signin").await;
    issuer.set(json!({ "mode": "disconnecting" })).await;
    let page = begun.come_back(&app, &mut client).await;
    refuses(&page, &client, 503, "cannot be asked now");
}

#[tokio::test]
async fn metadata_without_usable_endpoints_lead_nowhere() {
    for metadata in [
        json!({ "authorization_endpoint": null }),
        json!({ "authorization_endpoint": "http://login.example.com/auth" }),
        json!({ "authorization_endpoint": "javascript:alert(1)" }),
        json!({ "issuer": "https://evil.example" }),
    ] {
        let issuer = Issuer::start();
        issuer.set(json!({ "metadata": metadata })).await;
        let app = start(&issuer);
        let mut client = PageClient::new();
        let page = click(&app, &mut client).await;
        refuses(&page, &client, 502, "The issuer ");
    }
}

#[tokio::test]
async fn a_secret_goes_to_no_endpoint_that_accepts_none() {
    let issuer = Issuer::start();
    for metadata in [
        json!({ "token_endpoint_auth_methods_supported": ["private_key_jwt"] }),
        json!({ "token_endpoint": "http://login.example.com/token" }),
        json!({ "token_endpoint": Value::Null }),
    ] {
        issuer.set(json!({ "metadata": metadata })).await;
        let app = start(&issuer);
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin").await;
        let page = begun.come_back(&app, &mut client).await;
        refuses(&page, &client, 502, "The issuer ");
    }
    assert!(issuer.token_requests().await.is_empty());
}
