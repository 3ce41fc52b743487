//! The sign-in at an issuer that the test scripts.

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::Url;

use super::issuer::{Issuer, PUBLIC_URL};
use crate::harness::App;
use crate::page_client::{PageClient, Shown};

pub const ADMIN: &str = "an-admin-token-of-many-characters";
pub const SECRET: &str = "a:secret/of+pages";

/// The variables of a program whose people sign in at an issuer.
pub fn variables(issuer_url: &str) -> Vec<(&str, &str)> {
    vec![
        ("ADMIN_TOKEN", ADMIN),
        ("PUBLIC_URL", PUBLIC_URL),
        ("OIDC_ISSUER", issuer_url),
        ("OIDC_ADMIN_GROUP", "admins"),
        ("OIDC_CLIENT_ID", "pages"),
    ]
}

/// The way of a browser to the issuer.
pub struct Begun {
    pub page: Shown,
    pub url: Url,
}

impl Begun {
    /// Clicks the button that leads to the issuer.
    pub async fn at(app: &App, client: &mut PageClient, next: &str) -> Self {
        let url = Url::parse_with_params(&format!("{}/signin", app.url), [("next", next)]);
        let page = client.get(url.expect("a URL").as_str()).await;
        assert!(
            page.text.contains("Sign in with 127.0.0.1"),
            "{}",
            page.text
        );
        let page = client.submit(&page, "/signin/start", &[]).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let url = page.leads_to().expect("a URL").parse().expect("a URL");
        Self { page, url }
    }

    /// Returns a parameter of the request to the issuer.
    pub fn parameter(&self, name: &str) -> String {
        let found = self.url.query_pairs().find(|(found, _)| found == name);
        found.map_or(String::new(), |(_, value)| value.into_owned())
    }

    /// Makes the token endpoint send an ID token of the user with this `nonce`, with other claims and header fields.
    pub async fn answer_with(&self, issuer: &Issuer, user: &str, more: Value) {
        let mut sign = json!({ "claims": {
            "sub": user, "aud": "pages", "nonce": self.parameter("nonce"),
        } });
        for (part, fields) in more.as_object().expect("an object") {
            let Some(fields) = fields.as_object() else {
                sign[part] = fields.clone();
                continue;
            };
            for (name, value) in fields {
                sign[part][name] = value.clone();
            }
        }
        issuer.set(json!({ "token": { "sign": sign } })).await;
    }

    /// Returns to the program with a code.
    pub async fn come_back(&self, app: &App, client: &mut PageClient) -> Shown {
        let state = self.parameter("state");
        callback(app, client, &[("code", "a-code"), ("state", &state)]).await
    }
}

pub async fn callback(app: &App, client: &mut PageClient, query: &[(&str, &str)]) -> Shown {
    let url = Url::parse_with_params(&format!("{}/signin/callback", app.url), query);
    client.get(url.expect("a URL").as_str()).await
}

pub async fn is_signed_in(app: &App, client: &mut PageClient, user: &str) -> bool {
    let page = client.get(&format!("{}/signin", app.url)).await;
    page.text
        .contains(&format!("You are signed in as user {user}."))
}

#[tokio::test]
async fn a_person_signs_in_with_a_code_and_pkce() {
    let issuer = Issuer::start();
    for (method, secret) in [
        ("client_secret_basic", SECRET),
        ("client_secret_post", SECRET),
        ("none", ""),
    ] {
        issuer
            .set(json!({ "metadata": { "token_endpoint_auth_methods_supported": [method] } }))
            .await;
        let app = App::start_with(
            &[variables(&issuer.url), vec![("OIDC_CLIENT_SECRET", secret)]].concat(),
        );
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin?a=b").await;
        let cookie = begun.page.header("set-cookie");
        for part in [
            "mcp_api_signin=",
            "HttpOnly",
            "SameSite=Lax",
            "Secure",
            "Path=/signin",
            "Max-Age=600",
        ] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(
            begun
                .url
                .as_str()
                .starts_with(&format!("{}/auth?", issuer.url))
        );
        for (name, value) in [
            ("response_type", "code"),
            ("client_id", "pages"),
            ("redirect_uri", &format!("{PUBLIC_URL}/signin/callback")),
            ("scope", "openid"),
            ("code_challenge_method", "S256"),
            ("prompt", ""),
        ] {
            assert_eq!(begun.parameter(name), value, "{name}");
        }
        begun.answer_with(&issuer, "ana", json!({})).await;
        let page = begun.come_back(&app, &mut client).await;
        assert_eq!(
            (page.status, page.header("location")),
            (302, "/signin?a=b"),
            "{}",
            page.text
        );
        let cookies: Vec<_> = client.cookies.keys().collect();
        assert_eq!(cookies, ["mcp_api_form", "mcp_api_session"]);
        assert!(is_signed_in(&app, &mut client, "ana").await);

        let requests = issuer.token_requests().await;
        let request = requests.last().expect("a token request");
        let form = &request["form"];
        let verifier = form["code_verifier"].as_str().expect("a verifier");
        assert_eq!(verifier.len(), 43);
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        assert_eq!(begun.parameter("code_challenge"), challenge);
        let basic = BASE64_STANDARD.encode("pages:a%3Asecret%2Fof%2Bpages");
        let (authorization, id, sent) = match method {
            "client_secret_basic" => (json!(format!("Basic {basic}")), json!(null), json!(null)),
            "client_secret_post" => (json!(null), json!("pages"), json!(SECRET)),
            _ => (json!(null), json!("pages"), json!(null)),
        };
        assert_eq!(request["authorization"], authorization);
        assert_eq!((&form["client_id"], &form["client_secret"]), (&id, &sent));
        assert_eq!(form["grant_type"], "authorization_code");
        assert_eq!(form["code"], "a-code");
        // The cookie of the sign-in names none of the secret values.
        let content = cookie.split(['=', '.']).nth(1).expect("a content");
        let content = BASE64_URL_SAFE_NO_PAD.decode(content).expect("Base64");
        let content = String::from_utf8(content).expect("UTF-8");
        for value in [
            verifier,
            &begun.parameter("state"),
            &begun.parameter("nonce"),
        ] {
            assert!(!content.contains(value) && !app.log().contains(value));
        }
    }
}

#[tokio::test]
async fn the_scopes_follow_the_claims_of_the_configuration() {
    let issuer = Issuer::start();
    let supported = json!(["openid", "email", "groups", "other"]);
    issuer
        .set(json!({ "metadata": { "scopes_supported": supported } }))
        .await;
    let more = vec![("OIDC_USER_CLAIM", "email")];
    let app = App::start_with(&[variables(&issuer.url), more].concat());
    let mut client = PageClient::new();
    let begun = Begun::at(&app, &mut client, "/signin").await;
    assert_eq!(begun.parameter("scope"), "openid email groups");
    let claims = json!({ "claims": { "email": "ana@example.com" } });
    begun.answer_with(&issuer, "7", claims).await;
    begun.come_back(&app, &mut client).await;
    assert!(is_signed_in(&app, &mut client, "ana@example.com").await);
}

#[tokio::test]
async fn a_session_outlives_its_id_token_and_ends_with_the_configuration() {
    let issuer = Issuer::start();
    let mut app = App::embedded_with(&variables(&issuer.url));
    let mut clients = vec![];
    // The end of an ID token has a tolerance of 60 seconds.
    for seconds in [600, -45] {
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin").await;
        let claims = json!({ "claims": { "in": { "exp": seconds } } });
        begun.answer_with(&issuer, "ana", claims).await;
        assert_eq!(begun.come_back(&app, &mut client).await.status, 302);
        clients.push(client);
    }
    // The second ID token ended 45 seconds ago.
    app.kill_and_restart();
    for client in &mut clients {
        assert!(is_signed_in(&app, client, "ana").await);
    }
    app.kill();
    let mut changed = variables(&issuer.url);
    changed.push(("OIDC_ADMIN_GROUP", "other"));
    app.restart_with(&changed);
    assert!(!is_signed_in(&app, &mut clients[0], "ana").await);
}

#[tokio::test]
async fn a_second_sign_in_asks_for_another_account() {
    let issuer = Issuer::start();
    let app = App::start_with(&variables(&issuer.url));
    let mut client = PageClient::new();
    for (user, prompt) in [("ana", ""), ("ben", "login")] {
        let begun = Begun::at(&app, &mut client, "/signin").await;
        assert_eq!(begun.parameter("prompt"), prompt);
        begun.answer_with(&issuer, user, json!({})).await;
        begun.come_back(&app, &mut client).await;
        assert!(is_signed_in(&app, &mut client, user).await);
    }
    let page = client.get(&format!("{}/signin", app.url)).await;
    client.submit(&page, "/signout", &[]).await;
    assert!(!is_signed_in(&app, &mut client, "ben").await);
}

#[tokio::test]
async fn a_sign_in_that_is_too_long_for_a_cookie_names_the_next_step() {
    let issuer = Issuer::start();
    let app = App::start_with(&variables(&issuer.url));
    for (length, leads) in [(2500, true), (3000, false)] {
        let next = format!("/oauth/authorize?link={}", "a".repeat(length));
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, &next).await;
        assert!(client.cookies["mcp_api_signin"].len() < 3900);
        begun.answer_with(&issuer, "ana", json!({})).await;
        let page = begun.come_back(&app, &mut client).await;
        assert_eq!(
            page.leads_to().as_deref() == Some(&*next),
            leads,
            "{}",
            page.text
        );
        assert_eq!(page.text.contains("Open the link again"), !leads);
        assert!(is_signed_in(&app, &mut client, "ana").await);
    }
}

#[tokio::test]
async fn without_a_client_people_sign_in_with_tokens_only() {
    let issuer = Issuer::start();
    let app = App::start_with(&variables(&issuer.url)[..4]);
    let mut client = PageClient::new();
    let page = client.get(&format!("{}/signin", app.url)).await;
    assert!(!page.text.contains("Sign in with"), "{}", page.text);
    let form = page.form("/signin").expect("a form");
    let fields = [("form_token", form.fields[0].1.as_str())];
    let page = client
        .post(&format!("{}/signin/start", app.url), &fields)
        .await;
    page.refuses(404, "OIDC_CLIENT_ID");
    callback(&app, &mut client, &[])
        .await
        .refuses(404, "OIDC_CLIENT_ID");
}
