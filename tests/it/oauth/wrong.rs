//! Wrong metadata and wrong responses: each of them causes one clear error within seconds.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{give, register};
use crate::harness::App;
use crate::remote::script::{Script, Seen};

const RESOURCE: &str = "/.well-known/oauth-protected-resource/mcp";
const METADATA: &str = "/.well-known/oauth-authorization-server";

/// A server that wants a token, with its own authorization server at the same origin; `wrong` answers first.
async fn server(wrong: impl Fn(&Seen, &str) -> Option<Response> + Send + Sync + 'static) -> Script {
    Script::start(move |seen| {
        let origin = format!("http://{}", seen.header("host").expect("a host"));
        let good = || match seen.path.as_str() {
            RESOURCE => body(
                json!({ "resource": format!("{origin}/mcp"), "authorization_servers": [origin] }),
            ),
            METADATA => body(metadata(&origin)),
            "/mcp" => StatusCode::UNAUTHORIZED.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        };
        Some(wrong(seen, &origin).unwrap_or_else(good))
    })
    .await
}

fn metadata(origin: &str) -> Value {
    json!({
        "issuer": origin, "authorization_endpoint": format!("{origin}/auth"), "token_endpoint": format!("{origin}/token"),
        "registration_endpoint": format!("{origin}/reg"), "code_challenge_methods_supported": ["S256"],
    })
}

fn body(body: Value) -> Response {
    axum::Json(body).into_response()
}

/// Begins an authorization that cannot be, and gives why.
async fn refused(
    app: &App,
    wrong: impl Fn(&Seen, &str) -> Option<Response> + Send + Sync + 'static,
) -> String {
    let script = server(wrong).await;
    app.delete("/mcp/servers/gated").await;
    register(app, "gated", &script.url, json!({})).await.ok();
    let began = Instant::now();
    let why = app
        .post("/mcp/servers/gated/oauth/start", json!({}))
        .await
        .fails(502, "upstream_error");
    assert!(
        began.elapsed() < Duration::from_secs(50),
        "it took {:?}",
        began.elapsed()
    );
    why
}

#[tokio::test]
async fn wrong_metadata_are_refused() {
    let app = App::start();
    let elsewhere = |seen: &Seen, _: &str| {
        let to = r#"Bearer resource_metadata="http://127.0.0.1:9/metadata""#;
        (seen.path == "/mcp")
            .then(|| (StatusCode::UNAUTHORIZED, [("www-authenticate", to)]).into_response())
    };
    let why = refused(&app, elsewhere).await;
    assert!(why.contains("another origin"), "{why}");
    let other = |seen: &Seen, origin: &str| {
        let other =
            json!({ "resource": "https://other.example/mcp", "authorization_servers": [origin] });
        (seen.path == RESOURCE).then(|| body(other))
    };
    let why = refused(&app, other).await;
    assert!(why.contains("another resource"), "{why}");

    let of_metadata = |field: &'static str, value: Value| {
        move |seen: &Seen, origin: &str| {
            let mut wrong = metadata(origin);
            wrong[field] = value.clone();
            (seen.path == METADATA).then(|| body(wrong))
        }
    };
    for (field, value, said) in [
        ("issuer", json!("https://other.example"), "another one's"),
        ("token_endpoint", Value::Null, "no token endpoint"),
        (
            "token_endpoint",
            json!("file:///etc/passwd"),
            "without https",
        ),
        (
            "authorization_endpoint",
            json!("javascript:alert(1)"),
            "without https",
        ),
        ("code_challenge_methods_supported", json!(["plain"]), "S256"),
        ("registration_endpoint", Value::Null, "clientId"),
    ] {
        let why = refused(&app, of_metadata(field, value)).await;
        assert!(why.contains(said), "{field}: {why}");
    }
    let large =
        |seen: &Seen, _: &str| (seen.path == METADATA).then(|| "x".repeat(1 << 20).into_response());
    let why = refused(&app, large).await;
    assert!(why.contains("more than 256 KiB"), "{why}");
    let redirect = |seen: &Seen, _: &str| {
        let to = [("location", "http://127.0.0.1:9/")];
        (seen.path == METADATA).then(|| (StatusCode::FOUND, to).into_response())
    };
    let why = refused(&app, redirect).await;
    assert!(why.contains("another origin"), "{why}");
    let html = |seen: &Seen, _: &str| (seen.path == "/reg").then(|| "<html>".into_response());
    let why = refused(&app, html).await;
    assert!(why.contains("registered no client"), "{why}");
}

#[tokio::test]
async fn secrets_in_the_errors_of_an_authorization_server_are_masked() {
    let app = App::start();
    let script = server(|seen, _| {
        let described = "no 'a-refresh-token-to-be-hidden' with a-client-secret-to-be-hidden";
        let refusal = json!({ "error": "invalid_grant", "error_description": described });
        (seen.path == "/token")
            .then(|| (StatusCode::BAD_REQUEST, axum::Json(refusal)).into_response())
    })
    .await;
    register(&app, "gated", &script.url, json!({})).await.ok();
    let tokens = json!({
        "accessToken": "an-access-token-to-be-hidden", "refreshToken": "a-refresh-token-to-be-hidden", "clientId": "c",
        "clientSecret": "a-client-secret-to-be-hidden", "redirectUri": "https://p.example/cb",
    });
    let server = give(&app, tokens).await.ok()["server"].to_string();
    let denied = super::echo(&app, "ana").await;
    let events = app.get("/events?limit=1000").await.body.to_string();
    for (place, text) in [
        ("server", &server),
        ("call", &denied.body.to_string()),
        ("log", &app.log()),
        ("events", &events),
    ] {
        assert!(!text.contains("to-be-hidden"), "{place}: {text}");
    }
    assert!(
        server.contains("invalid_grant: no '***' with ***"),
        "{server}"
    );
    denied.fails(401, "reauth_required");
    assert_eq!(
        script
            .seen()
            .iter()
            .filter(|seen| seen.path == "/token")
            .count(),
        1
    );
}
