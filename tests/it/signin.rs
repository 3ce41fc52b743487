//! The sign-in of people: sessions of browsers, and the protection of forms.

use std::time::Instant;

use reqwest::Method;
use serde_json::json;

use crate::callers::{make_token, send};
use crate::harness::App;
use crate::page_client::{PageClient, Shown};
use crate::wait::wait_until;

const ADMIN: &str = "an-admin-token-of-many-characters";

fn start() -> App {
    App::start_with(&[("ADMIN_TOKEN", ADMIN)])
}

/// Returns the page of the sign-in, which names the signed-in user.
async fn signin_page(app: &App, client: &mut PageClient) -> Shown {
    client.get(&format!("{}/signin", app.url)).await
}

async fn is_signed_in(app: &App, client: &mut PageClient, user: &str) -> bool {
    let page = signin_page(app, client).await;
    page.text
        .contains(&format!("You are signed in as user {user}."))
}

#[tokio::test]
async fn a_token_signs_a_browser_in_and_out() {
    let app = start();
    let (_, ana) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    for (token, user) in [(ADMIN, "default"), (ana.as_str(), "ana")] {
        let mut client = PageClient::new();
        assert!(!is_signed_in(&app, &mut client, user).await);
        let page = client.sign_in(&app.url, token).await;
        assert_eq!((page.status, page.header("location")), (303, "/signin"));
        let cookie = page.header("set-cookie");
        for part in [
            "mcp_api_session=",
            "HttpOnly",
            "SameSite=Lax",
            "Path=/",
            "Max-Age=28800",
        ] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(!cookie.contains(token), "{cookie}");
        assert!(is_signed_in(&app, &mut client, user).await);
        let page = signin_page(&app, &mut client).await;
        let page = client.submit(&page, "/signout", &[]).await;
        assert_eq!((page.status, page.header("location")), (303, "/signin"));
        assert!(!client.cookies.contains_key("mcp_api_session"));
        assert!(!is_signed_in(&app, &mut client, user).await);
    }
    assert!(!app.log().contains(&ana));
}

#[tokio::test]
async fn a_page_needs_no_script_and_loads_nothing() {
    let app = start();
    let page = signin_page(&app, &mut PageClient::new()).await;
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert_eq!(page.header("cache-control"), "no-store");
    for part in [
        "<html lang=\"en\">",
        "<main>",
        "<h1>",
        "<label for=\"token\">",
        "id=\"token\"",
    ] {
        assert!(page.text.contains(part), "{part}: {}", page.text);
    }
    assert!(!page.text.contains("<script") && !page.text.contains("style="));
}

#[tokio::test]
async fn a_session_authenticates_pages_only() {
    let app = start();
    let mut client = PageClient::new();
    client.sign_in(&app.url, ADMIN).await;
    for path in ["/whoami", "/mcp/servers", "/tokens", "/metrics"] {
        let page = client.get(&format!("{}{path}", app.url)).await;
        assert_eq!(page.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let app = start();
    let (id, ana) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let body = json!({ "username": "ben", "expiresIn": 10 });
    let (_, ben) = make_token(&app, ADMIN, body).await;
    let (mut of_ana, mut of_ben) = (PageClient::new(), PageClient::new());
    assert_eq!(of_ben.sign_in(&app.url, &ben).await.status, 303);
    assert_eq!(of_ana.sign_in(&app.url, &ana).await.status, 303);
    assert!(is_signed_in(&app, &mut of_ana, "ana").await);
    let revoked = send(&app, ADMIN, Method::DELETE, &format!("/tokens/{id}"), None).await;
    revoked.ok();
    assert!(!is_signed_in(&app, &mut of_ana, "ana").await);
    wait_until("the session of ben has ended", async || {
        !is_signed_in(&app, &mut of_ben, "ben").await
    })
    .await;
    for token in [&ana, &ben] {
        let refused = PageClient::new().sign_in(&app.url, token).await;
        refused.refuses(401, "The token is wrong, has expired or was revoked.");
    }
}

#[tokio::test]
async fn another_admin_token_ends_the_sessions_of_the_old_one() {
    let mut app = App::embedded_with(&[("ADMIN_TOKEN", ADMIN)]);
    let mut client = PageClient::new();
    client.sign_in(&app.url, ADMIN).await;
    app.kill_and_restart();
    assert!(is_signed_in(&app, &mut client, "default").await);
    app.kill();
    app.restart_with(&[("ADMIN_TOKEN", "another-token-of-many-characters")]);
    assert!(!is_signed_in(&app, &mut client, "default").await);
}

#[tokio::test]
async fn a_wrong_token_is_answered_late_and_right_tokens_still_work() {
    let app = start();
    let begun = Instant::now();
    let wrong = (0..20).map(|_| async {
        let page = PageClient::new().sign_in(&app.url, "a-wrong-token").await;
        page.refuses(401, "role=\"alert\"");
        assert!(!page.header("set-cookie").contains("mcp_api_session"));
    });
    futures::future::join_all(wrong).await;
    assert!(begun.elapsed().as_millis() >= 1000, "{:?}", begun.elapsed());
    assert_eq!(PageClient::new().sign_in(&app.url, ADMIN).await.status, 303);
    assert!(!app.log().contains("a-wrong-token"));
}

#[tokio::test]
async fn a_sign_in_leads_to_pages_of_this_api_only() {
    let app = start();
    for (next, expected) in [
        ("/oauth/authorize?link=a", "/oauth/authorize?link=a"),
        ("https://evil.example/signin", "/signin"),
        ("//evil.example", "/signin"),
        ("/mcp/servers", "/signin"),
    ] {
        let mut client = PageClient::new();
        let url = reqwest::Url::parse_with_params(&format!("{}/signin", app.url), [("next", next)]);
        let page = client.get(url.expect("a URL").as_str()).await;
        let page = client.submit(&page, "/signin", &[("token", ADMIN)]).await;
        assert_eq!((page.status, page.header("location")), (303, expected));
        // A changed form leads to no other page.
        let page = signin_page(&app, &mut client).await;
        let form = page.form("/signin").expect("a form");
        let fields = [
            ("form_token", form.fields[0].1.as_str()),
            ("token", ADMIN),
            ("next", next),
        ];
        let page = client.post(&format!("{}/signin", app.url), &fields).await;
        assert_eq!((page.status, page.header("location")), (303, expected));
    }
}

#[tokio::test]
async fn a_form_of_another_page_is_refused() {
    let app = start();
    let url = format!("{}/signin", app.url);
    let mut client = PageClient::new();
    let page = client.get(&url).await;
    let token = page.form("/signin").expect("a form").fields[0].1.clone();
    let fields = [("form_token", token.as_str()), ("token", ADMIN)];
    let sentence = "did not load it here";
    // Without the cookie, and with the cookie of another browser.
    PageClient::new()
        .post(&url, &fields)
        .await
        .refuses(403, sentence);
    let mut other = PageClient::new();
    other.get(&url).await;
    other.post(&url, &fields).await.refuses(403, sentence);
    let forged = [("form_token", "AAAA"), ("token", ADMIN)];
    client.post(&url, &forged).await.refuses(403, sentence);
    client
        .post(&url, &[("token", ADMIN)])
        .await
        .refuses(403, sentence);
    // A page of another site sends the form.
    for site in ["cross-site", "same-site"] {
        let request = app.http.post(&url).header("sec-fetch-site", site);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body("token=a").send().await.expect("an answer");
        assert_eq!(answer.status(), 403, "{site}");
    }
    let answer = app.http.post(&url).json(&json!({ "token": ADMIN })).send();
    assert_eq!(answer.await.expect("an answer").status(), 415);
    // A form of the time before a sign-in is not valid afterwards.
    assert_eq!(client.post(&url, &fields).await.status, 303);
    client.post(&url, &fields).await.refuses(403, sentence);
    client
        .post(&format!("{}/signout", app.url), &fields)
        .await
        .refuses(403, sentence);
}

#[tokio::test]
async fn the_cookie_is_secure_and_below_the_path_of_a_public_url() {
    let app = App::start_with(&[
        ("ADMIN_TOKEN", ADMIN),
        ("PUBLIC_URL", "https://mcp.example.com/api/"),
    ]);
    let mut client = PageClient::new();
    let page = signin_page(&app, &mut client).await;
    let form = page.form("/api/signin").expect("a form");
    let fields = [("form_token", form.fields[0].1.as_str()), ("token", ADMIN)];
    let page = client.post(&format!("{}/signin", app.url), &fields).await;
    assert_eq!((page.status, page.header("location")), (303, "/api/signin"));
    let cookie = page.header("set-cookie");
    assert!(
        cookie.contains("Secure") && cookie.contains("Path=/api/"),
        "{cookie}"
    );
}
