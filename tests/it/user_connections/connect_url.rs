//! `connectUrl` of `credential_required`: the page on which the user sets the missing values.

use serde_json::{Value, json};

use super::{ADMIN, call, get, register, set_secret, token_of};
use crate::harness::{Answer, App, answer};
use crate::mcp_endpoint::client::McpClient;

const OWN: &str = "fixture";
const SHARED: &str = "shared";

async fn app_with_servers(env: &[(&str, &str)]) -> App {
    let app = App::start_with(&[&[("ADMIN_TOKEN", ADMIN)], env].concat());
    let own = json!([{ "name": "KEY", "required": true }]);
    let shared = json!([{ "name": "ORG", "required": true, "owner": "shared" }]);
    register(&app, OWN, own).await;
    register(&app, SHARED, shared).await;
    app
}

/// Calls a tool with further headers.
async fn call_with(app: &App, token: &str, server: &str, header: (&str, &str)) -> Answer {
    let body = json!({ "serverName": server, "methodName": "echo", "args": {} });
    let request = app
        .http
        .post(format!("{}/mcp/tool/call", app.url))
        .bearer_auth(token)
        .header(header.0, header.1)
        .json(&body);
    answer(request).await
}

/// Returns the answer of a call that became a job.
async fn answer_of_job(app: &App, token: &str, server: &str) -> Value {
    let accepted = call_with(app, token, server, ("prefer", "respond-async")).await;
    let id = accepted.body["jobId"].as_str().expect("a job").to_owned();
    let job = get(app, token, &format!("/jobs/{id}?wait=60s")).await.ok();
    assert_eq!(job["job"]["answer"]["status"], 401, "{job}");
    job["job"]["answer"]["body"].clone()
}

#[tokio::test]
async fn a_missing_value_of_the_user_leads_to_the_page_of_the_server() {
    let app = app_with_servers(&[]).await;
    let ana = token_of(&app, "ana").await;
    let url = format!("{}/connect/{OWN}", app.url);
    for refused in [
        call(&app, &ana, OWN, "echo").await,
        call_with(&app, &ana, OWN, ("x-none", "1")).await,
    ] {
        assert_eq!(refused.body["missing"], json!(["KEY"]));
        assert_eq!(refused.body["connectUrl"], url);
        let sentence = refused.fails(401, "credential_required");
        assert!(sentence.contains("KEY"), "{sentence}");
    }
    // The stored answer of a job knows no host.
    let keyed = call_with(&app, &ana, OWN, ("idempotency-key", "one")).await;
    for body in [keyed.body, answer_of_job(&app, &ana, OWN).await] {
        assert_eq!(body["code"], "credential_required", "{body}");
        assert_eq!(body["missing"], json!(["KEY"]));
        assert_eq!(body["connectUrl"], format!("/connect/{OWN}"));
    }
    set_secret(&app, &ana, OWN, "KEY", "a key").await;
    call(&app, &ana, OWN, "echo").await.ok();
}

#[tokio::test]
async fn the_page_is_under_the_public_url() {
    let app = app_with_servers(&[("PUBLIC_URL", "https://mcp.example.com/api/")]).await;
    let ana = token_of(&app, "ana").await;
    let url = format!("https://mcp.example.com/api/connect/{OWN}");
    let refused = call(&app, &ana, OWN, "echo").await;
    assert_eq!(refused.body["connectUrl"], url, "{}", refused.body);
    let body = answer_of_job(&app, &ana, OWN).await;
    assert_eq!(body["connectUrl"], url, "{body}");
}

#[tokio::test]
async fn a_missing_shared_value_leads_to_no_page() {
    let app = app_with_servers(&[]).await;
    let ana = token_of(&app, "ana").await;
    let refused = call(&app, &ana, SHARED, "echo").await;
    for body in [refused.body, answer_of_job(&app, &ana, SHARED).await] {
        assert_eq!(body["code"], "credential_required", "{body}");
        assert_eq!(body["missing"], json!(["ORG"]));
        assert!(body["connectUrl"].is_null(), "{body}");
        let sentence = body["error"].as_str().expect("a sentence");
        assert!(sentence.contains("administrator"), "{sentence}");
    }
}

#[tokio::test]
async fn a_client_of_an_mcp_endpoint_gets_the_link_in_the_text_of_a_result() {
    let app = app_with_servers(&[]).await;
    let ana = token_of(&app, "ana").await;
    let url = format!("{}/connect/{OWN}", app.url);
    let all = McpClient::new(&app, "/mcp").token(&ana);
    let (legacy, _) = all.initialize("2025-11-25").await;
    let path = format!("/mcp/servers/{OWN}/mcp");
    let of_server = McpClient::new(&app, &path).token(&ana);
    for result in [
        all.call_modern("fixture__echo", json!({})).await,
        legacy.call_legacy("fixture__echo", json!({})).await,
        of_server.call_modern("echo", json!({})).await,
    ] {
        assert_eq!(result["isError"], true, "{result}");
        let text = result["content"][0]["text"].as_str().expect("a text");
        assert!(text.contains("KEY") && text.ends_with(&url), "{text}");
        assert_eq!(
            result["_meta"]["mcp-api/failure"],
            json!({ "code": "credential_required", "missing": ["KEY"], "connectUrl": url })
        );
    }
    for result in [
        all.call_modern("shared__echo", json!({})).await,
        legacy.call_legacy("shared__echo", json!({})).await,
    ] {
        assert_eq!(result["isError"], true, "{result}");
        let text = result["content"][0]["text"].as_str().expect("a text");
        assert!(text.contains("administrator"), "{text}");
        assert!(!result.to_string().contains("/connect/"), "{result}");
    }
}
