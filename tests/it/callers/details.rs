//! The lines of a server in a failure: who may see which lines.

use reqwest::Method;
use serde_json::{Value, json};

use super::{ADMIN, app_with_fixture, get, make_token, send};
use crate::harness::{App, answer, python};
use crate::processes::{signal, under_way};

async fn call(app: &App, token: &str, user: &str, tool: &str, args: Value) -> Value {
    let body =
        json!({ "username": user, "serverName": "fixture", "methodName": tool, "args": args });
    send(app, token, Method::POST, "/mcp/tool/call", Some(body))
        .await
        .body
}

async fn pid(app: &App) -> u32 {
    let found = call(app, ADMIN, "default", "pid", json!({})).await;
    let pid = found["data"]["content"].as_str().expect("a pid");
    pid.parse().expect("a pid")
}

#[tokio::test]
async fn only_an_administrator_sees_the_lines_that_a_server_printed_during_calls() {
    let app = app_with_fixture().await;
    let (_, ana) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let (_, ben) = make_token(&app, ADMIN, json!({ "username": "ben" })).await;
    let pid = pid(&app).await;
    crate::processes::idle(pid).await;
    let sleep = json!({ "ms": 20_000 });
    let request = json!({ "serverName": "fixture", "methodName": "sleep", "args": sleep });
    let accepted = app.http.post(format!("{}/mcp/tool/call", app.url));
    let accepted = accepted.bearer_auth(&ana).header("prefer", "respond-async");
    let accepted = answer(accepted.json(&request)).await.body;
    let (of_ana, of_admin, ()) = tokio::join!(
        call(&app, &ana, "ana", "sleep", sleep.clone()),
        call(&app, ADMIN, "ana", "sleep", sleep.clone()),
        async {
            under_way(pid, 3).await;
            let text = json!({ "text": "a line of ben" });
            call(&app, &ben, "ben", "stderr", text).await;
            signal(pid, "KILL");
        }
    );
    let job = accepted["jobId"].as_str().expect("an id");
    let path = format!("/jobs/{job}?username=ana&wait=30s");
    let job_of_ana = get(&app, &ana, &path).await.body["job"]["answer"]["body"].take();
    let job_of_admin = get(&app, ADMIN, &path).await.body["job"]["answer"]["body"].take();
    for failed in [&of_ana, &job_of_ana] {
        assert_eq!(failed["code"], "upstream_error", "{failed}");
        assert!(failed["details"].is_null(), "{failed}");
        assert!(!failed.to_string().contains("a line of ben"), "{failed}");
    }
    for failed in [of_admin, job_of_admin] {
        let details = failed["details"].as_str().expect("details");
        assert!(details.contains("a line of ben"), "{failed}");
    }
}

#[tokio::test]
async fn every_caller_sees_why_a_server_does_not_start() {
    let app = app_with_fixture().await;
    let program = "import sys; sys.exit('the variable GITHUB_TOKEN is missing')";
    let body = json!({ "name": "broken", "command": python(), "args": ["-c", program] });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
    let (_, ana) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let call = json!({ "serverName": "broken", "methodName": "x", "args": {} });
    let failed = send(&app, &ana, Method::POST, "/mcp/tool/call", Some(call)).await;
    let details = failed.body["details"].as_str().expect("details");
    assert!(details.contains("GITHUB_TOKEN is missing"), "{details}");
    failed.fails(502, "upstream_error");
}
