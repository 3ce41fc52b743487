//! Rules of the pages: the sign-in, scopes and servers, the destination of data, and the form of the HTML.

use serde_json::json;

use super::{ADMIN, open, register, register_remote, signed_in, start, token};
use crate::callers::make_token;
use crate::page_client::PageClient;

#[tokio::test]
async fn a_page_leads_to_the_sign_in_and_back() {
    let app = start();
    register(&app, ADMIN, "fixture", json!([{ "name": "message" }])).await;
    let ana = token(&app, "ana").await;
    for path in ["/connect", "/connect/fixture", "/connect/unknown"] {
        let mut client = PageClient::new();
        let response = client.get(&format!("{}{path}", app.url)).await;
        let next = path.replace('/', "%2F");
        let location = response.header("location").to_owned();
        assert_eq!(
            (response.status, location),
            (302, format!("/signin?next={next}"))
        );
        let signin = client
            .get(&format!("{}{}", app.url, response.header("location")))
            .await;
        let response = client.submit(&signin, "/signin", &[("token", &ana)]).await;
        assert_eq!((response.status, response.header("location")), (303, path));
        let page = client.follow(&response).await;
        let expected = if path == "/connect/unknown" { 404 } else { 200 };
        assert_eq!(page.status, expected, "{}", page.text);
    }
    // The sign-in page leads on to the connections.
    let mut client = signed_in(&app, &ana).await;
    let page = client.get(&format!("{}/signin", app.url)).await;
    assert!(
        page.text
            .contains("<a href=\"/connect\">Your connections</a>"),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn a_token_without_the_scope_or_the_server_gets_a_clear_page() {
    let app = start();
    register(&app, ADMIN, "fixture", json!([{ "name": "message" }])).await;
    register(&app, ADMIN, "hidden", json!([{ "name": "message" }])).await;
    let body = json!({ "username": "ana", "scopes": ["tools"] });
    let mut client = signed_in(&app, &make_token(&app, ADMIN, body).await.1).await;
    for path in [
        "/connect",
        "/connect/fixture",
        "/connect/hidden",
        "/connect/unknown",
    ] {
        let page = client.get(&format!("{}{path}", app.url)).await;
        page.refuses(403, "with a token without the scope secrets");
        assert!(page.text.contains("Sign in again</a>"), "{}", page.text);
    }
    let signin = client.get(&format!("{}/signin", app.url)).await;
    let form_token = signin.form("/signout").expect("a form").fields[0].1.clone();
    let fields = [
        ("form_token", form_token.as_str()),
        ("name", "message"),
        ("owner", "user"),
        ("value", "a"),
    ];
    let url = format!("{}/connect/fixture/secrets", app.url);
    client
        .post(&url, &fields)
        .await
        .refuses(403, "without the scope secrets");

    let body = json!({ "username": "ana", "servers": ["fixture"] });
    let mut client = signed_in(&app, &make_token(&app, ADMIN, body).await.1).await;
    let list = client.get(&format!("{}/connect", app.url)).await;
    assert!(
        list.text.contains("fixture</a>") && !list.text.contains("hidden</a>"),
        "{}",
        list.text
    );
    let hidden = open(&app, &mut client, "hidden").await;
    let unknown = open(&app, &mut client, "unknown").await;
    hidden.refuses(404, "hidden");
    assert_eq!(hidden.text.replace("hidden", "unknown"), unknown.text);
    for name in ["-", "a%20b", "%ff", "..%2fsignin"] {
        assert_eq!(open(&app, &mut client, name).await.status, 404, "{name}");
    }
    let form_token = list.form("/signout").expect("a form").fields[0].1.clone();
    let fields = [
        ("form_token", form_token.as_str()),
        ("name", "message"),
        ("owner", "user"),
        ("value", "a"),
    ];
    for action in ["secrets", "secrets/delete", "oauth", "google", "disconnect"] {
        let url = format!("{}/connect/hidden/{action}", app.url);
        client.post(&url, &fields).await.refuses(404, "hidden");
    }
}

#[tokio::test]
async fn a_page_shows_the_host_or_the_program_and_no_configuration() {
    let app = start();
    register(&app, ADMIN, "fixture", json!([{ "name": "message" }])).await;
    register_remote(&app, "remote").await;
    let mut client = signed_in(&app, &token(&app, "ana").await).await;
    let program = crate::harness::python()
        .rsplit('/')
        .next()
        .expect("a name")
        .to_owned();
    let page = open(&app, &mut client, "fixture").await;
    let sentence =
        format!("Your data goes to the program {program}, which runs at this deployment.");
    assert!(page.text.contains(&sentence), "{}", page.text);
    assert!(
        !page.text.contains("server.py") && !page.text.contains("/usr"),
        "{}",
        page.text
    );
    let page = open(&app, &mut client, "remote").await;
    assert!(
        page.text.contains("Your data goes to 127.0.0.1."),
        "{}",
        page.text
    );
    assert!(!page.text.contains("hidden-"), "{}", page.text);
    // A server that takes a credential in a header asks for no OAuth.
    assert!(page.form("/oauth").is_none());
}

#[tokio::test]
async fn a_page_needs_no_script_loads_nothing_and_has_landmarks() {
    let app = start();
    register(&app, ADMIN, "fixture", json!([{ "name": "a\"b<c" }])).await;
    let mut client = signed_in(&app, &token(&app, "ana").await).await;
    let list = client.get(&format!("{}/connect", app.url)).await;
    for page in [list, open(&app, &mut client, "fixture").await] {
        assert_eq!(page.status, 200);
        assert_eq!(
            page.header("content-security-policy"),
            "default-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        );
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("cache-control"), "no-store");
        for part in [
            "<html lang=\"en\">",
            "<nav aria-label=\"Pages\">",
            "<main>",
            "<h1>",
        ] {
            assert!(page.text.contains(part), "{part}: {}", page.text);
        }
        for banned in ["<script", "style=", "http://", "https://", "b<c"] {
            assert!(!page.text.contains(banned), "{banned}: {}", page.text);
        }
    }
}

#[tokio::test]
async fn links_and_forms_are_below_the_path_of_a_public_url() {
    let app = crate::harness::App::start_with(&[
        ("ADMIN_TOKEN", ADMIN),
        ("PUBLIC_URL", "https://mcp.example.com/api/"),
    ]);
    register(&app, ADMIN, "fixture", json!([{ "name": "message" }])).await;
    let mut client = PageClient::new();
    let response = client.get(&format!("{}/connect/fixture", app.url)).await;
    assert_eq!(
        response.header("location"),
        "/api/signin?next=%2Fconnect%2Ffixture"
    );
    let signin = client
        .get(&format!("{}/signin?next=%2Fconnect%2Ffixture", app.url))
        .await;
    let form = signin.form("/api/signin").expect("a form");
    let mut fields: Vec<_> = form
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    fields.push(("token", ADMIN));
    let response = client.post(&format!("{}/signin", app.url), &fields).await;
    assert_eq!(response.header("location"), "/api/connect/fixture");
    let page = open(&app, &mut client, "fixture").await;
    let form = page.form("/api/connect/fixture/secrets").expect("a form");
    assert!(
        page.text.contains("<a href=\"/api/connect\">"),
        "{}",
        page.text
    );
    let mut fields: Vec<_> = form
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    fields.push(("value", "a"));
    let response = client
        .post(&format!("{}/connect/fixture/secrets", app.url), &fields)
        .await;
    assert_eq!(response.header("location"), "/api/connect/fixture");
    let cookie = response.header("set-cookie");
    assert!(
        cookie.contains("Path=/api/connect") && cookie.contains("Secure"),
        "{cookie}"
    );
}
