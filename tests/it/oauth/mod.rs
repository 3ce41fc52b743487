//! OAuth for servers behind URLs: a real authorization server, and a real MCP server behind a gate.

pub mod browser;
mod given;
mod links;
mod refresh;
mod start;
mod unusual;
mod wrong;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use self::browser::Browser;
use crate::harness::{Answer, App, answer, fixture};
use crate::remote::{Kind, Real, installed, register};

/// The callback of another platform that obtains tokens.
const CALLBACK: &str = "https://platform.example/callback";

/// The authorization server and the gate of `fixtures/oauth.mjs`. Dropped, both are killed.
pub struct Authority {
    child: Child,
    pub issuer: String,
    /// The URL of the MCP server.
    pub mcp: String,
    http: reqwest::Client,
    _behind: Real,
}

impl Authority {
    pub async fn start() -> Self {
        Self::with_auth_methods("client_secret_basic,client_secret_post,none").await
    }

    /// Starts an authorization server that supports these authentication methods of clients.
    pub async fn with_auth_methods(methods: &str) -> Self {
        let behind = Real::start(Kind::Everything("streamableHttp", "/mcp")).await;
        let mut command = Command::new("node");
        command.args([
            fixture("oauth.mjs"),
            installed("npm/node_modules"),
            behind.url(),
            methods.to_owned(),
        ]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node");
        let mut first_line = String::new();
        BufReader::new(child.stdout.take().expect("its output"))
            .read_line(&mut first_line)
            .expect("a line");
        let addresses: Value = serde_json::from_str(&first_line).expect("addresses");
        let text = |name: &str| addresses[name].as_str().expect("a URL").to_owned();
        let http = reqwest::Client::new();
        Self {
            child,
            issuer: text("issuer"),
            mcp: text("mcp"),
            http,
            _behind: behind,
        }
    }

    /// Changes settings of the fixture.
    pub async fn set(&self, settings: Value) {
        let url = format!("{}/control", self.issuer);
        let request = self.http.put(url).json(&settings);
        assert_eq!(request.send().await.expect("an answer").status(), 200);
    }

    /// Returns a count or a list of the fixture, such as `refreshes`.
    pub async fn asked(&self, name: &str) -> Value {
        answer(self.http.get(format!("{}/control", self.issuer)))
            .await
            .body[name]
            .take()
    }

    /// Returns how often tokens were refreshed.
    pub async fn refreshes(&self) -> u64 {
        self.asked("refreshes").await.as_u64().expect("a number")
    }

    /// Returns tokens for a user, as another platform obtains them: the body of `POST /mcp/servers/:name/oauth`.
    pub async fn tokens(&self, client: &str, user: &str) -> Value {
        let verifier = "a-verifier-of-a-platform-that-is-long-enough-0123";
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
        let query = form(&[
            ("client_id", client),
            ("response_type", "code"),
            ("redirect_uri", CALLBACK),
            ("scope", "openid offline_access mcp"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
            ("resource", &self.mcp),
            ("login_hint", user),
        ]);
        let page = format!("{}/auth?{query}", self.issuer);
        let back = Browser::new()
            .open_until(&page, |url| url.as_str().starts_with(CALLBACK))
            .await
            .url;
        let code = back
            .query_pairs()
            .find(|(name, _)| name == "code")
            .unwrap_or_else(|| panic!("{back}"))
            .1
            .into_owned();
        let secret = client
            .strip_prefix("client ")
            .map(|how| format!("s3cret:of/{how}+client"));
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", verifier),
            ("resource", &self.mcp),
        ];
        let mut request = self.http.post(format!("{}/token", self.issuer));
        match &secret {
            Some(secret) if client.ends_with("basic") => {
                let encoded = |text: &str| {
                    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
                };
                request = request.basic_auth(encoded(client), Some(encoded(secret)));
            }
            Some(secret) => fields.extend([("client_id", client), ("client_secret", secret)]),
            None => fields.push(("client_id", client)),
        }
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form(&fields));
        let response = answer(request).await;
        assert_eq!(response.status, 200, "{}", response.body);
        json!({
            "accessToken": response.body["access_token"], "refreshToken": response.body["refresh_token"], "tokenType": "Bearer",
            "expiresIn": response.body["expires_in"], "scopes": ["mcp"], "clientId": client, "clientSecret": secret,
            "redirectUri": CALLBACK, "codeVerifier": verifier,
        })
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Walks through the pages of an authorization server, and returns the URL of the callback.
pub async fn walk(start: &str) -> String {
    let is_callback = |url: &url::Url| url.path() == "/oauth/callback";
    let page = Browser::new().open_until(start, is_callback).await;
    page.url.into()
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

/// Registers the server `gated`, which requires a token.
async fn gated(app: &App, authority: &Authority) -> Value {
    register(app, "gated", &authority.mcp, json!({})).await.ok()["server"].take()
}

/// Stores tokens for the server `gated`.
async fn give(app: &App, tokens: Value) -> Answer {
    app.post("/mcp/servers/gated/oauth", tokens).await
}

async fn echo(app: &App, user: &str) -> Answer {
    app.call(user, "gated", "echo", json!({ "message": "hi" }))
        .await
}

/// Returns the body with more fields.
fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    body
}
