//! The sign-in to Google: a real browser, a fixture in the place of Google, and failures.

mod browser;
mod flow;
pub mod page;
mod wrong;

use std::sync::LazyLock;

use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderValue};
use serde_json::{Value, json};

use self::page::Google;
use crate::harness::{Answer, App, fixture, python};
use crate::page_client::PageClient;

pub const TOKEN: &str = crate::leaks::TOKEN;
pub const CLIENT_SECRET: &str = "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b";

pub static CREDENTIALS: LazyLock<String> = LazyLock::new(|| {
    json!({ "web": { "client_id": "the-client", "client_secret": CLIENT_SECRET, "redirect_uris": [] } }).to_string()
});

/// Starts the program with a token and the credentials of an application.
pub fn start(more: &[(&str, &str)]) -> App {
    let env = [
        &[
            ("ADMIN_TOKEN", TOKEN),
            ("GOOGLE_OAUTH_CREDENTIALS", CREDENTIALS.as_str()),
        ],
        more,
    ]
    .concat();
    with_token(App::start_with(&env))
}

/// Returns the program with a client that sends the token and follows no redirect.
pub fn with_token(mut app: App) -> App {
    let mut headers = HeaderMap::new();
    headers.insert(
        AUTHORIZATION,
        HeaderValue::from_str(&format!("Bearer {TOKEN}")).expect("a header"),
    );
    app.http = client().default_headers(headers).build().expect("a client");
    app
}

/// Returns a client without the token that follows no redirect.
pub fn client() -> reqwest::ClientBuilder {
    reqwest::Client::builder().redirect(reqwest::redirect::Policy::none())
}

/// Registers the fixture that acts at Google.
pub async fn register(app: &App, google: &Google, name: &str, more: &[(&str, &str)]) -> Answer {
    let mut env = json!({
        "MCP_AUTH_TYPE": "OAUTH2_GOOGLE",
        "GOOGLE_PAGE": format!("{}/consent", google.url),
        "GOOGLE_TOKENS": format!("{}/token", google.url),
        "GOOGLE_CALLBACK": format!("{}/auth/google/callback", app.url),
    });
    more.iter()
        .for_each(|(name, value)| env[*name] = json!(value));
    let body = json!({ "name": name, "command": python(), "args": ["-u", fixture("google.py")], "env": env });
    app.post("/mcp/servers", body).await
}

/// A page that a browser loads.
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

pub async fn open(url: &str, cookie: Option<&str>) -> Page {
    let mut request = client().build().expect("a client").get(url);
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Page {
        status,
        headers,
        text: response.text().await.expect("a text"),
    }
}

/// Returns the link for a user's browser.
pub async fn link(app: &App, user: &str, server: Option<&str>) -> String {
    let answer = app
        .post(
            "/auth/google/link",
            json!({ "username": user, "serverName": server }),
        )
        .await
        .ok();
    answer["url"].as_str().expect("a URL").to_owned()
}

/// A sign-in that has begun: the URL of the consent page and the cookie.
pub struct Begun {
    pub page: reqwest::Url,
    pub cookie: String,
}

impl Begun {
    /// Opens a link that must lead to the consent page, at once or after a click.
    pub async fn at(link: &str) -> Self {
        let mut client = PageClient::new();
        let mut page = client.get(link).await;
        if page.status == 200 {
            page = client.submit(&page, "/auth/google/login", &[]).await;
        }
        let url = page.leads_to();
        let url = url.unwrap_or_else(|| panic!("{} {}", page.status, page.text));
        Self {
            page: url.parse().expect("a URL"),
            cookie: format!("mcp_api_google={}", client.cookies["mcp_api_google"]),
        }
    }

    pub fn state(&self) -> String {
        self.page
            .query_pairs()
            .find(|(name, _)| name == "state")
            .expect("a state")
            .1
            .into_owned()
    }
}

/// Returns the URL to which Google sends the browser after consent.
pub fn callback(app: &App, code: &str, state: &str) -> String {
    let query = [
        ("code", code),
        ("state", state),
        ("scope", "mail"),
        ("authuser", "0"),
    ];
    reqwest::Url::parse_with_params(&format!("{}/auth/google/callback", app.url), query)
        .expect("a URL")
        .into()
}

/// A user gives access with a client in the place of a browser.
pub async fn connect(app: &App, google: &Google, user: &str, server: Option<&str>) -> Page {
    let begun = Begun::at(&link(app, user, server).await).await;
    open(
        &callback(app, &google.code(), &begun.state()),
        Some(&begun.cookie),
    )
    .await
}

/// Returns the arguments that a tool of the fixture got.
pub async fn shown(app: &App, user: &str, server: &str, args: Value) -> Value {
    let answer = app.call(user, server, "show", args).await.ok();
    serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON")
}
