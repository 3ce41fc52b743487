//! A value that changes or is deleted at one facade, in the middle of a job and of a stream of another facade.

use reqwest::Method;
use serde_json::{Value, json};

use super::{delete_secret, pid_for, register, until_ended};
use crate::harness::{App, answer};
use crate::mcp_endpoint::client::{FIXTURE, McpClient, Messages, text_of};
use crate::processes::{idle, under_way};
use crate::wait::wait_until;

/// Two facades and two workers, and the URL of the second facade.
async fn two_of_each() -> (App, String) {
    let mut app = App::distributed(2, &[]);
    let second = app.add("api");
    let url = app.processes[second].url.clone();
    register(
        &app,
        json!([{ "name": "KEY", "in": "env", "required": true }]),
    )
    .await;
    app.set_secret("ana", "fixture", "KEY", "first").await;
    (app, url)
}

/// Calls a tool for ana at a facade, at once or as a job.
fn request(app: &App, url: &str, tool: &str, args: Value) -> reqwest::RequestBuilder {
    let body =
        json!({ "username": "ana", "serverName": "fixture", "methodName": tool, "args": args });
    let request = app
        .http
        .request(Method::POST, format!("{url}/mcp/tool/call"));
    request.json(&body)
}

#[tokio::test]
async fn a_job_ends_with_its_value_and_the_next_call_has_the_new_one() {
    let (app, other) = two_of_each().await;
    let pid = pid_for(&app, "ana").await;
    idle(pid).await;
    let slow = request(&app, &other, "sleep", json!({ "ms": 3000 }));
    let accepted = answer(slow.header("prefer", "respond-async")).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let job = accepted.headers["location"]
        .to_str()
        .expect("a path")
        .to_owned();
    under_way(pid, 1).await;
    app.set_secret("ana", "fixture", "KEY", "second").await;
    let next = answer(request(&app, &other, "environment", json!({})))
        .await
        .ok();
    assert!(next.to_string().contains("second"), "{next}");
    let done = app.get(&format!("{job}?username=ana&wait=60s")).await.ok();
    assert!(done.to_string().contains("slept 3000"), "{done}");
    until_ended(pid).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_value_and_the_next_call_is_refused() {
    let (app, other) = two_of_each().await;
    let pid = pid_for(&app, "ana").await;
    idle(pid).await;
    let client = McpClient::at(&app, &other, FIXTURE).user("ana");
    let params = json!({
        "name": "progress", "arguments": { "steps": 8, "ms": 400 }, "_meta": { "progressToken": 1 },
    });
    let mut messages = Messages::open(client.modern_request("tools/call", params)).await;
    under_way(pid, 1).await;
    delete_secret(&app, "ana", "KEY").await;
    // The worker of the server hears of the deletion a moment later.
    wait_until("the next call is refused", async || {
        let refused = answer(request(&app, &other, "echo", json!({}))).await;
        refused.status == 401 && refused.body["code"] == "credential_required"
    })
    .await;
    let mut last = Value::Null;
    while let Some(message) = messages.next().await {
        last = message;
    }
    assert_eq!(text_of(&last["result"]), "done");
    until_ended(pid).await;
}
