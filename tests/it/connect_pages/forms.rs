//! Forms: another page, another browser or another user cannot send them.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ADMIN, open, register, set, signed_in, start, token};
use crate::callers::send;
use crate::harness::App;
use crate::page_client::PageClient;

const ACTIONS: [&str; 5] = ["secrets", "secrets/delete", "oauth", "google", "disconnect"];

/// Returns the number of events.
async fn events(app: &App) -> usize {
    let events = send(app, ADMIN, Method::GET, "/events?limit=1000", None)
        .await
        .ok();
    events["events"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_form_needs_the_token_of_its_page_in_its_session() {
    let app = start();
    register(&app, ADMIN, "fixture", json!([{ "name": "message" }])).await;
    let (ana, ben) = (token(&app, "ana").await, token(&app, "ben").await);
    let mut of_ana = signed_in(&app, &ana).await;
    let mut of_ben = signed_in(&app, &ben).await;
    let page = open(&app, &mut of_ana, "fixture").await;
    let response = set(&mut of_ana, &page, "message", "of ana").await;
    assert_eq!(response.status, 303, "{}", response.text);
    let form_token = |page: &crate::page_client::Shown| {
        let form = page.form("/secrets").expect("a form");
        form.fields[0].1.clone()
    };
    let token_of_ana = form_token(&page);
    let token_of_ben = form_token(&open(&app, &mut of_ben, "fixture").await);
    let before = events(&app).await;
    for action in ACTIONS {
        let url = format!("{}/connect/fixture/{action}", app.url);
        for wrong in [None, Some(""), Some("AAAA"), Some(token_of_ben.as_str())] {
            let mut fields = vec![("name", "message"), ("owner", "user"), ("value", "forged")];
            fields.extend(wrong.map(|token| ("form_token", token)));
            let refused = of_ana.post(&url, &fields).await;
            refused.refuses(403, "did not load it here");
            assert!(!refused.text.contains("forged"));
        }
        // The token of ana in the browser of ben, and without the cookie of the form.
        let fields = [
            ("form_token", token_of_ana.as_str()),
            ("name", "message"),
            ("owner", "user"),
            ("value", "forged"),
        ];
        of_ben
            .post(&url, &fields)
            .await
            .refuses(403, "did not load it here");
        let mut without = of_ana.clone();
        without.cookies.remove("mcp_api_form");
        without
            .post(&url, &fields)
            .await
            .refuses(403, "did not load it here");
        // Without a session.
        let ended = PageClient::new().post(&url, &fields).await;
        ended.refuses(401, "nothing was changed");
        assert!(ended.form("/signin").is_some() && !ended.text.contains("forged"));
    }
    // A session that ends between the page and its form.
    let list = of_ana.get(&format!("{}/connect", app.url)).await;
    let copy = of_ana.cookies.clone();
    of_ana.submit(&list, "/signout", &[]).await;
    let fields = [("form_token", token_of_ana.as_str())];
    let ended = of_ana
        .post(&format!("{}/connect/fixture/disconnect", app.url), &fields)
        .await;
    ended.refuses(401, "nothing was changed");
    assert_eq!(events(&app).await, before);
    // The same request in its session is accepted.
    of_ana.cookies = copy;
    let accepted = of_ana
        .post(&format!("{}/connect/fixture/disconnect", app.url), &fields)
        .await;
    assert_eq!(accepted.status, 303, "{}", accepted.text);
}

#[tokio::test]
async fn a_page_of_another_site_sends_no_form_and_a_token_is_no_session() {
    let app = start();
    register(&app, ADMIN, "fixture", json!([{ "name": "message" }])).await;
    let ana = token(&app, "ana").await;
    let mut client = signed_in(&app, &ana).await;
    let page = open(&app, &mut client, "fixture").await;
    let form = page.form("/secrets").expect("a form");
    let mut fields = form.fields.clone();
    fields.push(("value".into(), "forged".into()));
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let cookies: Vec<_> = client
        .cookies
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let url = format!("{}/connect/fixture/secrets", app.url);
    let post = || {
        let request = app.http.post(&url).header("cookie", cookies.join("; "));
        request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.clone())
    };
    for site in ["cross-site", "same-site"] {
        let answer = post()
            .header("sec-fetch-site", site)
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), 403, "{site}");
    }
    let json = app
        .http
        .post(&url)
        .header("cookie", cookies.join("; "))
        .json(&json!({}));
    assert_eq!(json.send().await.expect("an answer").status(), 415);

    // A bearer token authenticates no page, and the session authenticates no JSON route.
    let http = crate::google::client().build().expect("a client");
    for bearer in [ana.as_str(), ADMIN] {
        let header = format!("Bearer {bearer}");
        for path in ["/connect", "/connect/fixture"] {
            let request = http
                .get(format!("{}{path}", app.url))
                .header("authorization", &header);
            assert_eq!(
                request.send().await.expect("an answer").status(),
                302,
                "{path}"
            );
        }
        let request = http.post(&url).header("authorization", &header);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = request.body(body.clone()).send().await.expect("an answer");
        assert_eq!(answer.status(), 401);
    }
    let connections = client.get(&format!("{}/connections", app.url)).await;
    assert_eq!(connections.status, 401);
    let shown: Value = send(&app, &ana, Method::GET, "/connections", None)
        .await
        .ok();
    assert_eq!(shown["connections"][0]["slots"][0]["set"], false, "{shown}");
}
