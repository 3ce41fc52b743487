//! The program with planted secrets and with tokens of every kind.

use reqwest::Method;
use serde_json::{Value, json};

use crate::callers::{make_token, send};
use crate::harness::{App, fixture, python};

const ADMIN: &str = "admin-token-of-random-requests-4e1b";
const KEY: &str = "passphrase-of-random-requests-90cd";
/// The values that requests send as secrets, and that the program stores.
pub const SECRETS: [&str; 3] = [
    "planted-secret-7d3f9a61c2",
    "planted\"quote\\4b8e0c-5f1d",
    "planted-<é€>-a09c7e",
];

/// The tokens that requests send, and the texts that no reply may show.
pub struct World {
    /// Tokens of callers without the scope `admin`.
    pub users: Vec<String>,
    /// Tokens of administrators.
    pub admins: Vec<String>,
    /// Tokens that are expired or revoked.
    pub ended: Vec<String>,
    /// Ids that requests may revoke, cancel and read.
    pub ids: Vec<String>,
    needles: Vec<Vec<u8>>,
}

impl World {
    /// Fails if bytes hold a planted text. `origin` names the bytes in the message.
    pub fn check(&self, origin: impl Fn() -> String, bytes: &[u8]) {
        for needle in &self.needles {
            let is_found = memchr::memmem::find(bytes, needle).is_some();
            let needle = String::from_utf8_lossy(needle);
            assert!(!is_found, "{needle} is in {}", origin());
        }
    }
}

/// Starts the program, plants the secrets and makes the tokens.
pub async fn start() -> (App, World) {
    let app = App::embedded_with(&[
        ("ADMIN_TOKEN", ADMIN),
        ("SECRETS_KEY", KEY),
        ("npm_config_registry", "http://127.0.0.1:1"),
        ("npm_config_fetch_retries", "0"),
        ("PIP_INDEX_URL", "http://127.0.0.1:1"),
    ]);
    register_servers(&app).await;
    let mut users = Vec::new();
    for (user, scopes, servers) in [
        ("ana", json!(["tools", "secrets"]), Value::Null),
        ("ana", json!(["tools", "secrets"]), json!(["remote"])),
        ("ben", json!(["tokens", "tools", "secrets"]), Value::Null),
        ("ben", json!(["tokens"]), json!(["fixture"])),
        ("carl", json!(["audit"]), Value::Null),
        ("dora", json!(["metrics"]), Value::Null),
    ] {
        let mut body = json!({ "username": user, "scopes": scopes });
        if !servers.is_null() {
            body["servers"] = servers;
        }
        users.push(make_token(&app, ADMIN, body).await.1);
    }
    plant_secrets(&app).await;
    let (_, eva) = make_token(
        &app,
        ADMIN,
        json!({ "username": "eva", "scopes": ["admin"] }),
    )
    .await;
    let expiring = json!({ "username": "ana", "expiresIn": 1 });
    let (expired_id, expired) = make_token(&app, ADMIN, expiring).await;
    let (revoked_id, revoked) = make_token(&app, ADMIN, json!({ "username": "ana" })).await;
    let path = format!("/tokens/{revoked_id}");
    send(&app, ADMIN, Method::DELETE, &path, None).await.ok();
    let job = accept_job(&app, &users[0]).await;
    let mut world = World {
        users,
        admins: vec![ADMIN.to_owned(), eva],
        ended: vec![expired, revoked],
        ids: vec![expired_id, revoked_id, job],
        needles: vec![],
    };
    world.needles = needles(&world);
    (app, world)
}

async fn register_servers(app: &App) {
    let args = json!(["-u", fixture("server.py")]);
    for body in [
        json!({ "name": "fixture", "command": python(), "args": args }),
        json!({
            "name": "remote", "transportType": "streamable_http", "url": "http://127.0.0.1:1/mcp", "enabled": false,
            "headers": { "Authorization": format!("Bearer {}", SECRETS[0]) },
        }),
    ] {
        send(app, ADMIN, Method::POST, "/mcp/servers", Some(body))
            .await
            .ok();
    }
}

async fn plant_secrets(app: &App) {
    for (number, value) in SECRETS.iter().enumerate() {
        let name = format!("planted_{number}");
        let body = json!({
            "username": "ana", "serverName": "fixture", "secretName": name, "secretValue": value,
        });
        send(app, ADMIN, Method::POST, "/secrets/set", Some(body))
            .await
            .ok();
    }
    let body = json!({
        "accessToken": SECRETS[0], "refreshToken": SECRETS[1], "clientId": "client",
        "clientSecret": SECRETS[2], "redirectUri": "https://h.example/callback", "expiresIn": 100_000,
    });
    let path = "/mcp/servers/remote/oauth";
    send(app, ADMIN, Method::POST, path, Some(body)).await.ok();
}

async fn accept_job(app: &App, token: &str) -> String {
    let call = json!({ "serverName": "fixture", "methodName": "pid", "args": {} });
    let request = app.http.post(format!("{}/mcp/tool/call", app.url));
    let request = request.bearer_auth(token).header("prefer", "respond-async");
    let accepted = crate::harness::answer(request.json(&call)).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    accepted.body["jobId"].as_str().expect("an id").to_owned()
}

/// Returns the planted texts as they are and as JSON, and the secret parts of all tokens.
fn needles(world: &World) -> Vec<Vec<u8>> {
    let mut needles = vec![ADMIN.to_owned(), KEY.to_owned()];
    for secret in SECRETS {
        needles.push(secret.to_owned());
        needles.push(json!(secret).to_string().trim_matches('"').to_owned());
    }
    for token in world.users.iter().chain(&world.admins).chain(&world.ended) {
        let secret = token.splitn(3, '_').nth(2);
        needles.extend(secret.map(str::to_owned));
    }
    needles.dedup();
    needles.into_iter().map(String::into_bytes).collect()
}
