//! The issuers of `fixtures/issuer.mjs`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{PATIENCE, answer, fixture};
use crate::remote::installed;

/// `PUBLIC_URL` of the program, and the audience of the JWTs.
pub const PUBLIC_URL: &str = "https://mcp.example.com";

async fn json_of(request: reqwest::RequestBuilder) -> Value {
    let found = answer(request).await;
    assert_eq!(found.status, 200, "{}", found.body);
    found.body
}

/// A real issuer, and an issuer that signs every JWT that a test asks for. Dropped, both are killed.
pub struct Issuer {
    child: Child,
    pub real: String,
    pub url: String,
    control: String,
    http: reqwest::Client,
}

impl Issuer {
    pub fn start() -> Self {
        Self::start_for(PUBLIC_URL)
    }

    /// Starts the issuers for a program with this `PUBLIC_URL`. Node.js rarely stops for ever at its start, so an issuer
    /// that does not begin in time is started again.
    pub fn start_for(public_url: &str) -> Self {
        let started = (0..3).find_map(|_| Self::try_start(public_url));
        started.expect("an issuer that starts")
    }

    fn try_start(public_url: &str) -> Option<Self> {
        let mut child = Command::new("node")
            .args([
                fixture("issuer.mjs"),
                installed("npm/node_modules"),
                public_url.to_owned(),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, first_line) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            output.read_line(&mut line).expect("a line");
            // The receiver may have given up.
            let _ = sender.send(line);
        });
        let Ok(first_line) = first_line.recv_timeout(PATIENCE) else {
            child.kill().expect("killed");
            child.wait().expect("ended");
            return None;
        };
        let urls: Value = serde_json::from_str(&first_line).expect("URLs");
        let url = |name: &str| urls[name].as_str().expect("a URL").to_owned();
        Some(Self {
            child,
            real: url("real"),
            url: url("issuer"),
            control: url("control"),
            http: reqwest::Client::new(),
        })
    }

    /// Changes how the issuer responds.
    pub async fn set(&self, settings: Value) {
        let url = format!("{}/settings", self.control);
        json_of(self.http.put(url).json(&settings)).await;
    }

    /// Returns how often the program has asked for the keys.
    pub async fn reads(&self) -> u64 {
        let url = format!("{}/reads", self.control);
        json_of(self.http.get(url)).await["metadata"]
            .as_u64()
            .expect("a number")
    }

    /// Returns the token requests to the scripted issuer: `{authorization, form, content}`.
    pub async fn token_requests(&self) -> Vec<Value> {
        let url = format!("{}/token_requests", self.control);
        let requests = json_of(self.http.get(url)).await;
        requests.as_array().expect("a list").clone()
    }

    /// Returns a JWT of a key, such as `RS256 a`, with other claims and header fields than usual.
    pub async fn sign(&self, request: Value) -> String {
        let mut body = json!({ "key": "RS256 a", "header": {}, "claims": {} });
        for (name, value) in request.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let url = format!("{}/sign", self.control);
        let signed = json_of(self.http.post(url).json(&body)).await;
        signed["jwt"].as_str().expect("a JWT").to_owned()
    }

    /// Returns a valid JWT of a user.
    pub async fn sign_for(&self, user: &str) -> String {
        self.sign(json!({ "claims": { "sub": user } })).await
    }

    /// Returns a JWT of the real issuer for one of its clients.
    pub async fn real_jwt(&self, client: &str, resource: &str) -> String {
        let token = json_of(
            self.http
                .post(format!("{}/token", self.real))
                .basic_auth(client, Some("a-secret-of-a-client"))
                .header("content-type", "application/x-www-form-urlencoded")
                .body(
                    url::form_urlencoded::Serializer::new(String::new())
                        .append_pair("grant_type", "client_credentials")
                        .append_pair("resource", resource)
                        .append_pair("scope", "mcp")
                        .finish(),
                ),
        )
        .await;
        token["access_token"].as_str().expect("a JWT").to_owned()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
