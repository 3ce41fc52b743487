//! `/connections`: the values and grants of one user for each server, their removal, and the link to the page that sets
//! them.

mod connect_url;
mod disconnect;
mod hidden;
mod list;
mod shared;

use reqwest::Method;
use serde_json::{Value, json};

use crate::callers::{make_token, send};
use crate::harness::{Answer, App, fixture, python};

const ADMIN: &str = "an-admin-token-of-many-characters";

fn start() -> App {
    App::start_with(&[("ADMIN_TOKEN", ADMIN)])
}

/// Registers the fixture server with credentials.
async fn register(app: &App, name: &str, credentials: Value) {
    let body = json!({
        "name": name, "command": python(), "args": ["-u", fixture("server.py")],
        "credentials": credentials,
    });
    post(app, ADMIN, "/mcp/servers", body).await.ok();
}

async fn token_of(app: &App, user: &str) -> String {
    make_token(app, ADMIN, json!({ "username": user })).await.1
}

async fn get(app: &App, token: &str, path: &str) -> Answer {
    send(app, token, Method::GET, path, None).await
}

async fn post(app: &App, token: &str, path: &str, body: Value) -> Answer {
    send(app, token, Method::POST, path, Some(body)).await
}

async fn delete(app: &App, token: &str, path: &str) -> Answer {
    send(app, token, Method::DELETE, path, None).await
}

async fn set_secret(app: &App, token: &str, server: &str, name: &str, value: &str) {
    let body = json!({ "serverName": server, "secretName": name, "secretValue": value });
    post(app, token, "/secrets/set", body).await.ok();
}

async fn set_shared(app: &App, server: &str, name: &str, value: &str) {
    let body = json!({
        "serverName": server, "secretName": name, "secretValue": value, "shared": true,
    });
    post(app, ADMIN, "/secrets/set", body).await.ok();
}

/// Returns the connection of the caller to a server.
async fn connection(app: &App, token: &str, server: &str) -> Value {
    let list = get(app, token, "/connections").await.ok();
    let connections = list["connections"].as_array().expect("a list");
    let found = connections
        .iter()
        .find(|connection| connection["serverName"] == server);
    found.expect("the server is listed").clone()
}

/// Returns for each slot whether a value is set.
fn set_slots(connection: &Value) -> Vec<bool> {
    let slots = connection["slots"].as_array().expect("slots");
    slots.iter().map(|slot| slot["set"] == true).collect()
}

async fn call(app: &App, token: &str, server: &str, tool: &str) -> Answer {
    let body = json!({ "serverName": server, "methodName": tool, "args": {} });
    post(app, token, "/mcp/tool/call", body).await
}

/// Returns the arguments that the tool gets in a call of this caller.
async fn arguments(app: &App, token: &str, server: &str) -> Value {
    let answer = call(app, token, server, "arguments").await.ok();
    let text = answer["data"]["content"].as_str().expect("a text");
    serde_json::from_str(text).expect("JSON")
}
