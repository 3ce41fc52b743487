//! The pages on which people give values and accounts to servers.

mod accounts;
mod browser;
mod forms;
mod local;
mod rules;
mod values;

use reqwest::Method;
use serde_json::{Value, json};

use crate::callers::{make_token, send};
use crate::harness::{Answer, App, fixture, python};
use crate::page_client::{PageClient, Shown};

const ADMIN: &str = "an-admin-token-of-many-characters";

fn start() -> App {
    App::start_with(&[("ADMIN_TOKEN", ADMIN)])
}

/// Registers the fixture server with credentials.
async fn register(app: &App, token: &str, name: &str, credentials: Value) {
    let body = json!({
        "name": name, "command": python(), "args": ["-u", fixture("server.py")],
        "credentials": credentials,
    });
    send(app, token, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
}

/// Registers a server behind a URL that does not answer. It waits for the header of a user.
async fn register_remote(app: &App, name: &str) {
    let body = json!({
        "name": name, "transportType": "streamable_http",
        "url": "https://127.0.0.1:9/hidden-path?hidden-name=hidden-value",
        "credentials": [{ "name": "API_KEY", "in": "header", "as": "X-Key", "required": true }],
    });
    send(app, ADMIN, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
}

async fn token(app: &App, user: &str) -> String {
    make_token(app, ADMIN, json!({ "username": user })).await.1
}

/// Returns a browser that is signed in with a token.
async fn signed_in(app: &App, token: &str) -> PageClient {
    let mut client = PageClient::new();
    assert_eq!(client.sign_in(&app.url, token).await.status, 303);
    client
}

async fn open(app: &App, client: &mut PageClient, server: &str) -> Shown {
    client.get(&format!("{}/connect/{server}", app.url)).await
}

/// Sends the form that sets a value.
async fn set(client: &mut PageClient, page: &Shown, name: &str, value: &str) -> Shown {
    let form = page.form_with("/secrets", "name", name);
    let form = form.unwrap_or_else(|| panic!("no form for {name}: {}", page.text));
    client.send_form(page, &form, &[("value", value)]).await
}

/// Calls a tool of the server `fixture` with a token of a user.
async fn call(app: &App, token: &str, tool: &str) -> Answer {
    let call = json!({ "serverName": "fixture", "methodName": tool, "args": {} });
    send(app, token, Method::POST, "/mcp/tool/call", Some(call)).await
}
