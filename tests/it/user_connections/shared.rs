//! `POST /secrets/set` and `POST /secrets/delete` with `"shared": true`, and the search for shared values and header values.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::{
    ADMIN, arguments, connection, get, post, register, set_secret, set_shared, set_slots, start,
    token_of,
};
use crate::callers::make_token;
use crate::leaks::{self, KEY, SECRETS, TOKEN, clean, clean_everywhere};
use crate::remote::script::Script;

fn credentials() -> Value {
    json!([{ "name": "ORG", "owner": "shared" }, { "name": "KEY" }])
}

fn shared(name: &str) -> Value {
    json!({ "serverName": "fixture", "secretName": name, "shared": true })
}

fn with_value(mut body: Value, value: &str) -> Value {
    body["secretValue"] = value.into();
    body
}

#[tokio::test]
async fn a_shared_value_serves_all_users_until_it_is_deleted() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    let (ana, ben) = (token_of(&app, "ana").await, token_of(&app, "ben").await);
    for value in ["first", "second"] {
        set_shared(&app, "fixture", "ORG", value).await;
        for token in [&ana, &ben] {
            assert_eq!(
                arguments(&app, token, "fixture").await,
                json!({ "ORG": value })
            );
        }
    }
    let mut absent = with_value(shared("ORG"), "third");
    absent["ifAbsent"] = true.into();
    post(&app, ADMIN, "/secrets/set", absent)
        .await
        .fails(409, "conflict");
    let events = get(&app, ADMIN, "/events?limit=1000").await.ok();
    let set = events["events"].as_array().expect("events").iter();
    let set: Vec<_> = set
        .filter(|event| event["type"] == "secret.set")
        .map(|event| event["data"].clone())
        .collect();
    assert_eq!(set.len(), 2);
    for data in set {
        let fields: Vec<_> = data.as_object().expect("data").keys().collect();
        assert_eq!(fields, ["server", "serverName"]);
    }
    post(&app, ADMIN, "/secrets/delete", shared("ORG"))
        .await
        .ok();
    assert_eq!(arguments(&app, &ana, "fixture").await, json!({}));
    let why = post(&app, ADMIN, "/secrets/delete", shared("ORG")).await;
    assert!(why.fails(404, "secret_not_found").contains("shared"));
}

#[tokio::test]
async fn only_an_administrator_manages_a_shared_value() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    let scopes = json!(["tools", "secrets", "tokens", "audit", "metrics"]);
    let body = json!({ "username": "ana", "scopes": scopes });
    let (_, ana) = make_token(&app, ADMIN, body).await;
    let (_, admin) = make_token(
        &app,
        ADMIN,
        json!({ "username": "ben", "scopes": ["admin"] }),
    )
    .await;
    for (path, body) in [
        ("/secrets/set", with_value(shared("ORG"), "a value")),
        ("/secrets/delete", shared("ORG")),
    ] {
        let refused = post(&app, &ana, path, body.clone()).await;
        let challenge = refused.headers["www-authenticate"].to_str().expect("ASCII");
        assert!(challenge.contains(r#"scope="admin""#), "{challenge}");
        refused.fails(403, "forbidden");
        let mut named = body.clone();
        named["username"] = "ana".into();
        for token in [&*ana, ADMIN] {
            let why = post(&app, token, path, named.clone()).await;
            assert!(why.fails(400, "invalid_request").contains("username"));
        }
        post(&app, &admin, path, body).await.ok();
    }
}

#[tokio::test]
async fn a_value_has_the_owner_that_its_credential_names() {
    let app = start();
    register(&app, "fixture", credentials()).await;
    let ana = token_of(&app, "ana").await;
    for name in ["KEY", "OTHER"] {
        let body = with_value(shared(name), "a value");
        let why = post(&app, ADMIN, "/secrets/set", body).await;
        let why = why.fails(400, "invalid_request");
        assert!(why.contains("\"owner\": \"shared\""), "{why}");
    }
    let own = json!({ "serverName": "fixture", "secretName": "ORG", "secretValue": "a value" });
    let why = post(&app, &ana, "/secrets/set", own).await;
    let why = why.fails(400, "invalid_request");
    assert!(why.contains("administrator"), "{why}");
    set_secret(&app, &ana, "fixture", "KEY", "of ana").await;
    let connection = connection(&app, &ana, "fixture").await;
    assert_eq!(set_slots(&connection), [false, true]);
}

/// Registers the fixture server with a shared argument, and a server behind a URL that repeats the header of ana.
async fn register_planted(app: &crate::harness::App) -> Script {
    let script = Script::start(|seen| {
        let header = seen.header("authorization").unwrap_or_default().to_owned();
        let is_call = seen.about() == "tools/call";
        is_call.then(|| (StatusCode::BAD_GATEWAY, format!("no: {header}")).into_response())
    })
    .await;
    let all = json!({
        "name": "all", "command": crate::harness::python(),
        "args": ["-u", crate::harness::fixture("server.py")],
        "credentials": [{ "name": "token", "owner": "shared" }],
    });
    let remote = json!({
        "name": "remote", "transportType": "streamable_http", "url": script.url,
        "credentials": [
            { "name": "KEY", "in": "header", "as": "Authorization", "format": "Bearer {value}" },
        ],
    });
    for server in [all, remote] {
        let (status, text) = leaks::post(app, "/mcp/servers", &server).await;
        assert_eq!(status, 200, "{text}");
    }
    script
}

#[tokio::test]
async fn shared_values_and_values_of_headers_are_shown_nowhere() {
    let app = leaks::start().await;
    let script = register_planted(&app).await;
    let header = |value: &str| {
        json!({
            "username": "ana", "serverName": "remote", "secretName": "KEY", "secretValue": value,
        })
    };
    // A header has one line.
    for secret in [SECRETS[3], "line\nbreak", "carriage\rreturn"] {
        let (status, text) = leaks::post(&app, "/secrets/set", &header(secret)).await;
        assert_eq!(status, 400, "{text}");
        assert!(
            text.contains("secretValue does not fit Authorization"),
            "{text}"
        );
        clean("the refusal", text.as_bytes(), &SECRETS);
    }
    let value = header(SECRETS[0]);
    assert_eq!(leaks::post(&app, "/secrets/set", &value).await.0, 200);
    let call = json!({
        "username": "ana", "serverName": "remote", "methodName": "echo", "args": {},
    });
    let (status, text) = leaks::post(&app, "/mcp/tool/call", &call).await;
    assert_eq!(status, 502, "{text}");
    clean("the failed call", text.as_bytes(), &SECRETS);
    let sent = script.seen();
    let sent = sent.iter().filter(|seen| seen.about() == "tools/call");
    let expected = format!("Bearer {}", SECRETS[0]);
    assert!(sent.clone().count() > 0);
    assert!(
        sent.clone()
            .all(|seen| seen.header("authorization") == Some(&*expected))
    );

    for secret in &SECRETS[1..] {
        let value = json!({
            "serverName": "all", "secretName": "token", "secretValue": secret, "shared": true,
        });
        assert_eq!(leaks::post(&app, "/secrets/set", &value).await.0, 200);
        for how in ["stderr", "error", "no result"] {
            let call = json!({
                "username": "ana", "serverName": "all", "methodName": "leak",
                "args": { "how": how },
            });
            let (status, text) = leaks::post(&app, "/mcp/tool/call", &call).await;
            if how == "stderr" {
                let answer: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(answer["data"]["content"], *secret, "{text}");
            } else {
                assert_eq!(status, 502, "{text}");
                clean(how, text.as_bytes(), &SECRETS);
            }
        }
    }
    for path in [
        "/connections?username=ana",
        "/mcp/servers/all",
        "/mcp/servers/remote",
    ] {
        let request = app
            .http
            .get(format!("{}{path}", app.url))
            .bearer_auth(TOKEN);
        let text = request.send().await.expect("an answer").text().await;
        clean(path, text.expect("a text").as_bytes(), &SECRETS);
    }
    clean_everywhere(&app, &[&SECRETS[..], &[KEY, TOKEN]].concat()).await;
}
