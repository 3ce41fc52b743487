//! Credentials of servers: each user's own values, in the environment of a process, in headers and in the query.

mod bounds;
mod crowd;
mod environment;
mod everything;
mod foreign;
mod midway;
mod sent;
mod several_workers;

use serde_json::{Value, json};

use crate::harness::{Answer, App};
use crate::processes::is_alive;
use crate::wait::wait_until;

/// Registers the fixture server with credentials.
async fn register(app: &App, credentials: Value) -> Value {
    let answer = app.register("fixture", json!({ "credentials": credentials }));
    answer.await.ok()["server"].take()
}

/// Returns the text of a tool's result.
fn text_of(answer: Answer) -> String {
    let answer = answer.ok();
    let content = answer["data"]["content"].as_str();
    content.expect("a text").to_owned()
}

/// Returns one variable of the process that serves the user.
async fn variable(app: &App, user: &str, name: &str) -> Value {
    let environment = text_of(app.call(user, "fixture", "environment", json!({})).await);
    serde_json::from_str::<Value>(&environment).expect("JSON")[name].take()
}

/// Returns the id of the process that serves the user.
async fn pid_for(app: &App, user: &str) -> u32 {
    let pid = text_of(app.call(user, "fixture", "pid", json!({})).await);
    pid.parse().expect("a pid")
}

async fn until_ended(pid: u32) {
    wait_until("the process of the user has ended", async || !is_alive(pid)).await;
}

async fn delete_secret(app: &App, user: &str, name: &str) {
    let body = json!({ "username": user, "serverName": "fixture", "secretName": name });
    app.post("/secrets/delete", body).await.ok();
}
