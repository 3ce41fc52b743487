//! The GitHub server: each user's calls carry the token of that user.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use serde_json::{Value, json};

use super::{node, register};
use crate::harness::{App, fixture};

#[tokio::test]
async fn github_gets_each_users_own_token() {
    let (recorder, seen) = recorder().await;
    let app = App::start();
    let mut server = node("mcp-github");
    server["env"] = json!({ "NODE_OPTIONS": format!("--require={}", fixture("github.cjs")), "GITHUB_RECORDER": recorder });
    register(&app, "github", &server).await.ok();
    let tools = app.get("/mcp/tools").await.ok();
    let tools = tools["tools"][0]["github"].as_array().expect("tools");
    let create = tools
        .iter()
        .find(|tool| tool["name"] == "create_issue")
        .expect("create_issue");
    let schema = &create["inputSchema"];
    assert_eq!(schema["additionalProperties"], false);
    assert!(
        schema["properties"].get("github_pat").is_none(),
        "the key is hidden: {schema}"
    );

    let issue = |title: String| json!({ "owner": "acme", "repo": "site", "title": title });
    let refused = app
        .call("cem", "github", "create_issue", issue("of cem".into()))
        .await;
    let sentence = refused.fails(502, "upstream_error");
    assert!(sentence.contains("GitHub PAT is required"), "{sentence}");

    for user in ["ana", "ben"] {
        app.set_secret(user, "github", "github_pat", &format!("ghp_of-{user}"))
            .await;
    }
    // All calls run at once, so that a mix-up of users is visible.
    let users = ["ana", "ben"].iter().cycle().take(24).enumerate();
    let calls = users
        .map(|(n, user)| app.call(user, "github", "create_issue", issue(format!("{user} {n}"))));
    for answer in futures::future::join_all(calls).await {
        let answer = answer.ok();
        assert_eq!(answer["data"]["isError"], false, "{answer}");
    }
    let seen = seen.lock().expect("the records");
    assert_eq!(seen.len(), 24);
    for Seen { line, token, body } in seen.iter() {
        assert_eq!(line, "POST /repos/acme/site/issues");
        let title = body["title"].as_str().expect("a title");
        let user = title.split(' ').next().expect("a user");
        assert_eq!(*token, format!("Bearer ghp_of-{user}"), "for {title}");
        assert!(body.get("github_pat").is_none(), "{body}");
    }
    assert!(!app.log().contains("ghp_of-"), "the log contains a token");
}

/// A request that GitHub would receive.
struct Seen {
    line: String,
    token: String,
    body: Value,
}

type Records = Arc<Mutex<Vec<Seen>>>;

/// Starts an HTTP server that records its requests and replies like GitHub to a new issue.
async fn recorder() -> (String, Records) {
    let records = Records::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let router = Router::new().fallback(record).with_state(records.clone());
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, records)
}

async fn record(
    State(records): State<Records>,
    request: Request,
) -> (StatusCode, axum::Json<Value>) {
    let (parts, body) = request.into_parts();
    let token = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|token| token.to_str().ok())
        .unwrap_or_default();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let line = format!("{} {}", parts.method, parts.uri.path());
    records.lock().expect("the records").push(Seen {
        line,
        token: token.into(),
        body,
    });
    (StatusCode::CREATED, axum::Json(json!({ "number": 1 })))
}
