//! Callers: who may send which request, for which user and which servers.

mod details;
mod midway;
mod routes;
mod table;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, App, answer};

const ADMIN: &str = "an-admin-token-of-many-characters";
const NO_ID: &str = "018f3a2b-4c5d-7000-8000-000000000000";

pub async fn send(
    app: &App,
    token: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Answer {
    let mut request = app.http.request(method, format!("{}{path}", app.url));
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    answer(request).await
}

async fn get(app: &App, token: &str, path: &str) -> Answer {
    send(app, token, Method::GET, path, None).await
}

/// Makes a token and returns its id and its text.
pub async fn make_token(app: &App, maker: &str, body: Value) -> (String, String) {
    let made = send(app, maker, Method::POST, "/tokens", Some(body))
        .await
        .ok();
    let text = |field: &str| made[field].as_str().expect("a text").to_owned();
    (text("id"), text("token"))
}

async fn app_with_fixture() -> App {
    let app = App::start_with(&[("ADMIN_TOKEN", ADMIN)]);
    let body = json!({
        "name": "fixture", "command": crate::harness::python(),
        "args": ["-u", crate::harness::fixture("server.py")],
    });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
    app
}

#[tokio::test]
async fn a_missing_scope_is_named_in_the_challenge() {
    let app = app_with_fixture().await;
    let body = json!({ "username": "ana", "scopes": ["tools"] });
    let (_, token) = make_token(&app, ADMIN, body).await;
    let refused = get(&app, &token, "/events").await;
    let challenge = refused.headers["www-authenticate"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    assert_eq!(
        challenge,
        r#"Bearer error="insufficient_scope", scope="audit""#
    );
    refused.fails(403, "forbidden");
}

#[tokio::test]
async fn a_user_token_calls_with_the_secrets_of_its_user() {
    let app = app_with_fixture().await;
    let (_, ana) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let (_, ben) = make_token(&app, ADMIN, json!({ "username": "ben" })).await;
    for (token, value) in [(&ana, "of ana"), (&ben, "of ben")] {
        let secret =
            json!({ "serverName": "fixture", "secretName": "message", "secretValue": value });
        send(&app, token, Method::POST, "/secrets/set", Some(secret))
            .await
            .ok();
    }
    let call = json!({ "serverName": "fixture", "methodName": "echo", "args": {} });
    for (token, value) in [(&ana, "of ana"), (&ben, "of ben")] {
        let found = send(
            &app,
            token,
            Method::POST,
            "/mcp/tool/call",
            Some(call.clone()),
        )
        .await;
        assert!(found.body.to_string().contains(value), "{}", found.body);
    }
    let whoami = get(&app, &ana, "/whoami").await.ok();
    // The bucket of each call names a token.
    let metrics = get(&app, ADMIN, "/metrics").await.body;
    let metrics = metrics.as_str().expect("a text");
    let exemplar = |token: &str| {
        let id = token.split('_').nth(1).expect("an id");
        let id: uuid::Uuid = id.parse().expect("an id");
        metrics.contains(&format!(" # {{token_id=\"{id}\"}} "))
    };
    assert!(exemplar(&ana) || exemplar(&ben), "{metrics}");
    assert_eq!(
        (&whoami["kind"], &whoami["username"], &whoami["scopes"]),
        (&json!("token"), &json!("ana"), &json!(["tools", "secrets"]))
    );
}

#[tokio::test]
async fn callers_without_admin_see_no_configuration() {
    let app = app_with_fixture().await;
    let (_, token) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let one = get(&app, &token, "/mcp/servers/fixture").await.ok();
    let all = get(&app, &token, "/mcp/servers").await.ok();
    assert_eq!(one["server"], all["servers"][0]);
    let mut fields: Vec<_> = one["server"]
        .as_object()
        .expect("a server")
        .keys()
        .collect();
    fields.sort();
    assert_eq!(
        fields,
        ["enabled", "name", "status", "toolsList", "transportType"]
    );
    get(&app, &token, "/mcp/servers?at=1")
        .await
        .fails(403, "forbidden");
}

#[tokio::test]
async fn a_token_for_some_servers_lists_exactly_the_servers_that_it_calls() {
    let app = app_with_fixture().await;
    let register = async || {
        let body = json!({
            "name": "other", "command": crate::harness::python(),
            "args": ["-u", crate::harness::fixture("server.py")],
        });
        send(&app, ADMIN, Method::POST, "/mcp/servers", Some(body))
            .await
            .ok();
    };
    register().await;
    let limited = json!({ "username": "ana", "servers": ["other"] });
    let (_, token) = make_token(&app, ADMIN, limited).await;
    let names = async || {
        let servers = get(&app, &token, "/mcp/servers").await.ok();
        let tools = get(&app, &token, "/mcp/tools").await.ok();
        let servers: Vec<_> = servers["servers"]
            .as_array()
            .expect("servers")
            .iter()
            .map(|server| server["name"].as_str().expect("a name").to_owned())
            .collect();
        let listed: Vec<_> = tools["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .flat_map(|server| server.as_object().expect("a server").keys().cloned())
            .collect();
        assert_eq!(servers, listed);
        servers
    };
    let call = async |server: &str| {
        let call =
            json!({ "serverName": server, "methodName": "echo", "args": { "message": "x" } });
        send(&app, &token, Method::POST, "/mcp/tool/call", Some(call)).await
    };
    assert_eq!(names().await, ["other"]);
    call("other").await.ok();
    call("fixture").await.fails(404, "server_not_found");
    get(&app, &token, "/mcp/servers/fixture")
        .await
        .fails(404, "server_not_found");

    // A new server with the old name is another server.
    send(&app, ADMIN, Method::DELETE, "/mcp/servers/other", None)
        .await
        .ok();
    register().await;
    assert!(names().await.is_empty());
    call("other").await.fails(404, "server_not_found");
}

#[tokio::test]
async fn a_token_is_shown_once_and_refused_after_its_revocation() {
    let app = app_with_fixture().await;
    let body = json!({
        "username": "ana", "scopes": ["tools", "tokens"], "expiresIn": 3600, "label": "laptop",
    });
    let (id, token) = make_token(&app, ADMIN, body).await;
    let (child_id, child) = make_token(&app, &token, json!({})).await;
    let listed = get(&app, &token, "/tokens").await.ok();
    let tokens = listed["tokens"].as_array().expect("tokens");
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens[0]["id"], json!(id));
    assert_eq!(tokens[0]["label"], "laptop");
    assert!(tokens[0]["lastUsedAt"].is_string() && tokens[0]["revokedAt"].is_null());
    assert_eq!(tokens[1]["createdBy"], "ana");
    assert_eq!(tokens[1]["expiresAt"], tokens[0]["expiresAt"]);
    let secret = token.rsplit_once('_').expect("a secret").1;
    let events = get(&app, ADMIN, "/events").await.ok();
    for shown in [listed.to_string(), events.to_string(), app.log()] {
        assert!(!shown.contains(secret), "{shown}");
    }

    let path = format!("/tokens/{id}");
    send(&app, &token, Method::DELETE, &path, None).await.ok();
    for revoked in [&token, &child] {
        get(&app, revoked, "/whoami")
            .await
            .fails(401, "unauthenticated");
    }
    let all = get(&app, ADMIN, "/tokens?username=ana").await.ok();
    for token in all["tokens"].as_array().expect("tokens") {
        assert!(token["revokedAt"].is_string(), "{token}");
    }
    let types: Vec<_> = get(&app, ADMIN, &format!("/events?subject=token/{child_id}"))
        .await
        .ok()["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["type"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(types, ["token.created", "token.revoked"]);
}

#[tokio::test]
async fn a_token_expires_in_the_middle_of_a_wait() {
    let app = app_with_fixture().await;
    let (_, token) = make_token(&app, ADMIN, json!({ "username": "ana", "expiresIn": 2 })).await;
    let call = json!({ "serverName": "fixture", "methodName": "sleep", "args": { "ms": 4000 } });
    let job = answer(
        app.http
            .post(format!("{}/mcp/tool/call", app.url))
            .header("authorization", format!("Bearer {token}"))
            .header("prefer", "respond-async")
            .json(&call),
    )
    .await;
    assert_eq!(job.status, 202, "{}", job.body);
    let path = format!("/jobs/{}", job.body["jobId"].as_str().expect("an id"));
    get(&app, &token, &format!("{path}?wait=20s"))
        .await
        .fails(401, "unauthenticated");
    // The job belongs to the user, so another token of the user reads its answer.
    let (_, other) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let ended = get(&app, &other, &format!("{path}?wait=30s")).await.ok();
    assert_eq!(ended["job"]["state"], "succeeded");
    let (_, ben) = make_token(&app, ADMIN, json!({ "username": "ben" })).await;
    get(&app, &ben, &path).await.fails(404, "job_not_found");
}

#[tokio::test]
async fn a_revoked_token_ends_its_event_stream_on_every_facade() {
    let mut app = app_with_fixture().await;
    let urls = if app.processes.len() > 1 {
        let second = app.add_with("api", &[("ADMIN_TOKEN", ADMIN)]);
        let second = app.processes[second].url.clone();
        vec![app.url.clone(), second]
    } else {
        vec![app.url.clone()]
    };
    let body = json!({ "username": "ana", "scopes": ["audit"] });
    let (id, token) = make_token(&app, ADMIN, body).await;
    let mut streams = Vec::new();
    for url in &urls {
        let stream = crate::wait::wait_for("the stream is open", async || {
            let opened = app
                .http
                .get(format!("{url}/events"))
                .header("authorization", format!("Bearer {token}"))
                .header("accept", "text/event-stream")
                .send()
                .await
                .expect("an answer");
            (opened.status() == 200).then_some(opened)
        })
        .await;
        streams.push(stream);
    }
    let path = format!("/tokens/{id}");
    send(&app, ADMIN, Method::DELETE, &path, None).await.ok();
    for mut stream in streams {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), async {
            let mut text = String::new();
            while let Ok(Some(chunk)) = stream.chunk().await {
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            text
        });
        let text = ended.await.expect("the stream ends");
        assert!(!text.contains("token.revoked"), "{text}");
    }
}

#[tokio::test]
async fn a_deployment_without_an_identity_still_refuses_wrong_tokens() {
    let app = App::start();
    app.get("/whoami").await.ok();
    let (_, token) = make_token(&app, "", json!({ "username": "ana" })).await;
    let whoami = get(&app, &token, "/whoami").await.ok();
    assert_eq!(whoami["username"], "ana");
    get(&app, &format!("{token}x"), "/whoami")
        .await
        .fails(401, "unauthenticated");
    assert_eq!(
        get(&app, "something", "/whoami").await.ok()["kind"],
        "local"
    );
}

#[tokio::test]
async fn a_token_with_wrong_fields_is_refused_with_the_field() {
    let app = app_with_fixture().await;
    for (body, field) in [
        (json!({ "servers": [] }), "servers"),
        (json!({ "scopes": ["root"] }), "scopes"),
        (json!({ "expiresIn": 0 }), "expiresIn"),
        (json!({ "expiresIn": u64::MAX }), "expiresIn"),
        (json!({ "label": "a\nb" }), "label"),
        (json!({ "username": "mcp-api" }), "username"),
        (
            json!({ "scopes": ["admin"], "servers": ["fixture"] }),
            "servers",
        ),
        (json!({ "user": "ana" }), "user"),
    ] {
        let error = send(&app, ADMIN, Method::POST, "/tokens", Some(body))
            .await
            .fails(400, "invalid_request");
        assert!(error.contains(field), "{error}");
    }
    let unknown = json!({ "servers": ["none"] });
    send(&app, ADMIN, Method::POST, "/tokens", Some(unknown))
        .await
        .fails(404, "server_not_found");
    let path = format!("/tokens/{NO_ID}");
    send(&app, ADMIN, Method::DELETE, &path, None)
        .await
        .fails(404, "token_not_found");
}

#[tokio::test]
async fn a_token_for_some_servers_sees_no_job_and_no_name_of_other_servers() {
    let app = app_with_fixture().await;
    let body = json!({
        "name": "other", "command": crate::harness::python(),
        "args": ["-u", crate::harness::fixture("server.py")],
    });
    send(&app, ADMIN, Method::POST, "/mcp/servers", Some(body))
        .await
        .ok();
    let (_, all) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let scopes = json!(["tools", "secrets", "tokens"]);
    let limited =
        json!({ "username": "ana", "scopes": scopes, "servers": ["fixture"], "label": "limited" });
    let (_, limited) = make_token(&app, ADMIN, limited).await;
    let other = json!({ "username": "ana", "servers": ["other"], "label": "other" });
    make_token(&app, ADMIN, other).await;

    let call = json!({ "serverName": "other", "methodName": "echo", "args": { "message": "x" } });
    let accepted = answer(
        app.http
            .post(format!("{}/mcp/tool/call", app.url))
            .header("authorization", format!("Bearer {all}"))
            .header("prefer", "respond-async")
            .json(&call),
    )
    .await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let path = format!("/jobs/{}", accepted.body["jobId"].as_str().expect("an id"));
    get(&app, &all, &format!("{path}?wait=30s")).await.ok();
    get(&app, &limited, &path).await.fails(404, "job_not_found");
    send(&app, &limited, Method::DELETE, &path, None)
        .await
        .fails(404, "job_not_found");
    assert_eq!(get(&app, &limited, "/jobs").await.ok()["jobs"], json!([]));

    let tokens = get(&app, &limited, "/tokens").await.ok();
    let of_other = tokens["tokens"]
        .as_array()
        .expect("tokens")
        .iter()
        .find(|token| token["label"] == "other")
        .expect("the token");
    assert_eq!(of_other["servers"], json!([]));

    // A server that the token may not use does not exist, also for a route that wants a Google server.
    for server in ["other", "none"] {
        let link = json!({ "serverName": server });
        send(
            &app,
            &limited,
            Method::POST,
            "/auth/google/link",
            Some(link),
        )
        .await
        .fails(404, "server_not_found");
    }
}

#[tokio::test]
async fn a_path_that_is_not_utf8_is_refused_as_json() {
    let app = app_with_fixture().await;
    for (method, path) in [
        (Method::GET, "/jobs/%ff"),
        (Method::DELETE, "/jobs/%ff"),
        (Method::DELETE, "/tokens/%ff"),
        (Method::DELETE, "/dead/%ff"),
        (Method::GET, "/packages/by-name/%ff"),
    ] {
        send(&app, ADMIN, method, path, None)
            .await
            .fails(400, "invalid_request");
    }
}
