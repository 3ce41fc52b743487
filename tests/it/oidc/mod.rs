//! JWTs of an OpenID Connect issuer as bearer tokens, and the sign-in of people there.

mod browser;
mod front;
pub mod issuer;
pub mod signin;
mod signin_wrong;

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use self::issuer::{Issuer, PUBLIC_URL};
use crate::harness::{Answer, App, answer};
use crate::wait::wait_until;

const ADMIN: &str = "an-admin-token-of-many-characters";

/// Starts the program with an issuer.
fn app(issuer_url: &str) -> App {
    App::start_with(&[
        ("ADMIN_TOKEN", ADMIN),
        ("PUBLIC_URL", PUBLIC_URL),
        ("OIDC_ISSUER", issuer_url),
        ("OIDC_ADMIN_GROUP", "admins"),
    ])
}

async fn send(app: &App, token: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
    let mut request = app
        .http
        .request(method, format!("{}{path}", app.url))
        .header("authorization", format!("Bearer {token}"));
    if let Some(body) = body {
        request = request.json(&body);
    }
    answer(request).await
}

async fn get(app: &App, token: &str, path: &str) -> Answer {
    send(app, token, Method::GET, path, None).await
}

async fn whoami(app: &App, token: &str) -> Answer {
    get(app, token, "/whoami").await
}

fn challenge_of(found: &Answer) -> &str {
    found.headers["www-authenticate"].to_str().expect("ASCII")
}

#[tokio::test]
async fn jwts_of_a_real_issuer_authenticate_their_users() {
    let issuer = Issuer::start();
    let app = app(&issuer.real);
    let audiences =
        ["", "/mcp", "/mcp/servers/github/mcp"].map(|path| format!("{PUBLIC_URL}{path}"));
    // Each of these clients has its own algorithm.
    for (client, audience) in ["ana", "ben", "root"].into_iter().zip(&audiences) {
        let jwt = issuer.real_jwt(client, audience).await;
        let is_admin = client == "root";
        let caller = whoami(&app, &jwt).await.ok();
        let mut scopes = vec!["tools", "secrets", "tokens"];
        scopes.extend(is_admin.then_some("admin"));
        assert_eq!(caller["kind"], "oidc");
        assert_eq!(caller["username"], client);
        assert_eq!(caller["scopes"], json!(scopes));
        assert!(caller["expiresAt"].is_string() && caller["tokenId"].is_null());
        let status = get(&app, &jwt, "/keys").await.status;
        assert_eq!(status, if is_admin { 200 } else { 403 }, "{client}");
    }
    let elsewhere = issuer.real_jwt("ana", "https://other.example.com").await;
    whoami(&app, &elsewhere).await.fails(401, "unauthenticated");
}

#[tokio::test]
async fn a_user_of_the_issuer_makes_tokens_for_himself() {
    let issuer = Issuer::start();
    let app = app(&issuer.url);
    let jwt = issuer.sign_for("ana").await;
    let make = async |body| send(&app, &jwt, Method::POST, "/tokens", Some(body)).await;
    let made = make(json!({ "label": "laptop" })).await.ok();
    assert_eq!(made["username"], "ana");
    assert!(made["expiresAt"].is_string(), "{made}");
    let token = made["token"].as_str().expect("a token");
    assert_eq!(whoami(&app, token).await.ok()["username"], "ana");
    make(json!({ "username": "ben" }))
        .await
        .fails(403, "forbidden");
    make(json!({ "scopes": ["admin"] }))
        .await
        .fails(403, "forbidden");
    make(json!({ "expiresIn": 91 * 24 * 3600 }))
        .await
        .fails(400, "invalid_request");
    let events = get(&app, ADMIN, "/events").await.ok();
    let actor = &events["events"][0]["actor"];
    assert_eq!(
        (&actor["kind"], &actor["user"], &actor["subject"]),
        (&json!("oidc"), &json!("ana"), &json!("ana"))
    );
}

#[tokio::test]
async fn wrong_jwts_are_refused_and_never_repeated() {
    let issuer = Issuer::start();
    let app = app(&issuer.url);
    whoami(&app, &issuer.sign_for("ana").await).await.ok();
    for (request, reason) in [
        (
            json!({ "claims": { "iss": "https://evil.example" } }),
            "issuer",
        ),
        (
            json!({ "claims": { "aud": "https://evil.example" } }),
            "audience",
        ),
        (json!({ "claims": { "aud": null } }), "aud"),
        (json!({ "header": { "alg": "none" } }), "algorithm"),
        (json!({ "header": { "alg": "HS256" } }), "algorithm"),
        (
            json!({ "header": { "alg": "ES256" }, "key": "ES256 x" }),
            "no key",
        ),
        // The signature of another key of the same algorithm.
        (
            json!({ "key": "RS256 x", "header": { "kid": "RS256 a" } }),
            "signature",
        ),
        (json!({ "claims": { "in": { "exp": -70 } } }), "expired"),
        (json!({ "claims": { "exp": null } }), "exp"),
        (
            json!({ "claims": { "in": { "nbf": 70 } } }),
            "not valid yet",
        ),
        (json!({ "claims": { "sub": "mcp-api" } }), "user"),
        (json!({ "claims": { "sub": 7 } }), "user"),
        (json!({ "padding": 20_000 }), "16 KiB"),
    ] {
        let jwt = issuer.sign(request.clone()).await;
        let found = whoami(&app, &jwt).await;
        let shown = format!("{request}: {}", found.body);
        assert!(
            challenge_of(&found).starts_with("Bearer resource_metadata="),
            "{shown}"
        );
        let payload = jwt.split('.').nth(1).expect("a payload").to_owned();
        let sentence = found.fails(401, "unauthenticated");
        assert!(sentence.contains(reason), "{shown}");
        for text in [sentence, app.log()] {
            assert!(!text.contains(&payload), "{shown}");
        }
    }
    for header in ["eyJhbGciOiJub25lIn0.e30.", "a.b.c", "a.b.c.d.e", "..", "x"] {
        whoami(&app, header).await.fails(401, "unauthenticated");
    }
}

#[tokio::test]
async fn a_rotated_key_replaces_the_old_key() {
    let issuer = Issuer::start();
    let app = app(&issuer.url);
    let old = issuer.sign_for("ana").await;
    whoami(&app, &old).await.ok();
    issuer.set(json!({ "keys": ["ES256 b"] })).await;
    let new = issuer.sign(json!({ "key": "ES256 b" })).await;
    whoami(&app, &new).await.ok();
    // The issuer has removed the old key, so JWTs that the process has verified before end, too.
    whoami(&app, &old).await.fails(401, "unauthenticated");
}

#[tokio::test]
async fn unknown_keys_cause_one_read_in_thirty_seconds() {
    let issuer = Issuer::start();
    let app = app(&issuer.url);
    whoami(&app, &issuer.sign_for("ana").await).await.ok();
    assert_eq!(issuer.reads().await, 1);
    let begin = Instant::now();
    for number in 0..20 {
        let unknown = json!({ "header": { "kid": format!("key {number}") } });
        let jwt = issuer.sign(unknown).await;
        whoami(&app, &jwt).await.fails(401, "unauthenticated");
    }
    let intervals = begin.elapsed().as_secs() / 30 + 1;
    assert!(issuer.reads().await <= 1 + intervals);
}

#[tokio::test]
async fn while_the_issuer_is_unreachable_only_new_keys_wait() {
    let issuer = Issuer::start();
    issuer.set(json!({ "mode": "disconnecting" })).await;
    let app = app(&issuer.url);
    let made = send(
        &app,
        ADMIN,
        Method::POST,
        "/tokens",
        Some(json!({ "username": "ana" })),
    );
    let token = made.await.ok()["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    let jwt = issuer.sign_for("ana").await;
    let found = whoami(&app, &jwt).await;
    assert!(found.headers.contains_key("retry-after"));
    found.fails(503, "unavailable");
    whoami(&app, &token).await.ok();
    whoami(&app, ADMIN).await.ok();
    issuer.set(json!({ "mode": "standard" })).await;
    wait_until("the issuer is asked again", async || {
        whoami(&app, &jwt).await.status == 200
    })
    .await;
    issuer.set(json!({ "mode": "disconnecting" })).await;
    whoami(&app, &issuer.sign_for("ben").await).await.ok();
    let unknown = issuer.sign(json!({ "key": "ES256 new" })).await;
    let found = whoami(&app, &unknown).await;
    assert!(found.headers.contains_key("retry-after"));
    found.fails(503, "unavailable");
}

#[tokio::test]
async fn an_issuer_with_wrong_documents_gives_no_keys() {
    let issuer = Issuer::start();
    let app = app(&issuer.url);
    let jwt = issuer.sign_for("ana").await;
    for mode in ["failing", "huge", "redirecting", "misnamed"] {
        issuer.set(json!({ "mode": mode })).await;
        let before = issuer.reads().await;
        wait_until("the issuer is asked again", async || {
            whoami(&app, &jwt).await.fails(503, "unavailable");
            issuer.reads().await > before
        })
        .await;
    }
}

#[tokio::test]
async fn a_hanging_issuer_is_asked_once_and_blocks_no_other_caller() {
    let issuer = Issuer::start();
    issuer.set(json!({ "mode": "hanging" })).await;
    let app = app(&issuer.url);
    let mut jwts = vec![];
    for number in 0..20 {
        jwts.push(issuer.sign_for(&format!("user {number}")).await);
    }
    let waiting = join_all(jwts.iter().map(|jwt| whoami(&app, jwt)));
    let others = async {
        wait_until("the issuer is asked", async || issuer.reads().await > 0).await;
        let begin = Instant::now();
        whoami(&app, ADMIN).await.ok();
        assert!(begin.elapsed() < Duration::from_secs(4));
    };
    let (answers, ()) = futures::join!(waiting, others);
    for found in answers {
        found.fails(503, "unavailable");
    }
    assert_eq!(issuer.reads().await, 1);
}

#[tokio::test]
async fn metadata_name_the_issuer_of_every_mcp_endpoint() {
    let issuer = Issuer::start();
    let app = app(&issuer.url);
    let path = "/.well-known/oauth-protected-resource";
    for endpoint in ["", "/mcp", "/mcp/servers/github/mcp"] {
        let found = app.get(&format!("{path}{endpoint}")).await;
        assert_eq!(found.status, 200, "{}", found.body);
        assert_eq!(found.body["resource"], format!("{PUBLIC_URL}{endpoint}"));
        assert_eq!(found.body["authorization_servers"], json!([issuer.url]));
        if !endpoint.is_empty() {
            let refused = app.get(endpoint).await;
            let url = format!("{PUBLIC_URL}{path}{endpoint}");
            let expected = format!(r#"Bearer resource_metadata="{url}""#);
            assert_eq!(challenge_of(&refused), expected);
            refused.fails(401, "unauthenticated");
        }
    }
    let refused = app.get("/whoami").await;
    let expected = format!(r#"Bearer resource_metadata="{PUBLIC_URL}{path}""#);
    assert_eq!(challenge_of(&refused), expected);
    for wrong in ["/other", "/mcp/servers/a%20b/mcp", "/mcp/servers/github"] {
        assert_eq!(app.get(&format!("{path}{wrong}")).await.status, 404);
    }
}

#[tokio::test]
async fn without_an_issuer_there_are_no_metadata() {
    let app = App::start_with(&[("ADMIN_TOKEN", ADMIN), ("PUBLIC_URL", PUBLIC_URL)]);
    for endpoint in ["", "/mcp", "/mcp/servers/github/mcp"] {
        app.get(&format!("/.well-known/oauth-protected-resource{endpoint}"))
            .await
            .fails(404, "route_not_found");
    }
    assert_eq!(challenge_of(&app.get("/whoami").await), "Bearer");
    whoami(&app, "eyJhbGciOiJub25lIn0.e30.x")
        .await
        .fails(401, "unauthenticated");
}
