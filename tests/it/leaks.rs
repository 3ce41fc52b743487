//! Searches for planted secrets in replies, logs, events, metrics, files and command lines.

use std::fs;
use std::path::Path;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, Engine as _};
use serde_json::{Value, json};

use crate::harness::App;
use crate::mcp_endpoint::client::{McpClient, Messages};
use crate::oidc::issuer::{Issuer, PUBLIC_URL};
use crate::oidc::signin::{Begun, callback};
use crate::page_client::PageClient;
use crate::remote::script::Script;

/// The planted secrets. They contain quotes, line breaks and characters that encoders escape.
pub const SECRETS: [&str; 4] = [
    "plant-one-7d3f9a61c2",
    "plant\"two\\4b8e0c\ttab'quote-5f1d",
    "plant-thrée-€-ключ-😀-a09c7e",
    "plant<four>&-9e2b/slash-0d4c\nsecond-line-of-four-77aa\nthird-line-of-four-88bb",
];
pub const KEY: &str = "passphrase-of-the-deployment-31f8";
pub const TOKEN: &str = "admin-token-of-this-test-c55d";

/// Returns the readable notations of a secret.
fn forms(secret: &str) -> Vec<String> {
    let json = serde_json::to_string(secret)
        .expect("JSON")
        .trim_matches('"')
        .to_owned();
    let escaped: String = json
        .chars()
        .map(|c| {
            if c.is_ascii() {
                c.to_string()
            } else {
                utf16(c)
            }
        })
        .collect();
    let html = escaped
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    let mut forms = vec![
        secret.to_owned(),
        json.clone(),
        escaped,
        html,
        hex::encode(secret),
        hex::encode_upper(secret),
    ];
    // A text within base64 begins at one of three offsets.
    forms.extend((0..3).map(|shift| {
        let encoded = BASE64_STANDARD_NO_PAD.encode(["\0".repeat(shift).as_str(), secret].concat());
        encoded[(shift * 8).div_ceil(6)..encoded.len() - 2].to_owned()
    }));
    forms.push(BASE64_STANDARD.encode(secret));
    // Each line alone, and escaped twice, as in JSON within JSON.
    forms.extend(
        secret
            .lines()
            .filter(|line| line.len() > 10)
            .map(str::to_owned),
    );
    forms.push(
        serde_json::to_string(&json)
            .expect("JSON")
            .trim_matches('"')
            .to_owned(),
    );
    forms
}

fn utf16(c: char) -> String {
    c.encode_utf16(&mut [0; 2])
        .iter()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect()
}

/// Fails if the bytes contain any form of any secret. `origin` names the bytes in the message.
pub fn clean(origin: &str, bytes: &[u8], secrets: &[&str]) {
    for secret in secrets {
        for form in forms(secret) {
            let found = bytes
                .windows(form.len())
                .position(|window| window == form.as_bytes());
            if let Some(at) = found {
                let around =
                    &bytes[at.saturating_sub(100)..(at + form.len() + 20).min(bytes.len())];
                panic!(
                    "{origin} holds {form:?}: …{}…",
                    String::from_utf8_lossy(around)
                );
            }
        }
    }
}

pub async fn clean_everywhere(app: &App, secrets: &[&str]) {
    for path in [
        "/events?limit=1000",
        "/mcp/servers",
        "/mcp/tools",
        "/metrics",
        "/mcp/servers/fixture",
        "/connections",
    ] {
        let request = app
            .http
            .get(format!("{}{path}", app.url))
            .bearer_auth(TOKEN);
        let text = request
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("a text");
        assert!(text.len() > 50, "{path}: {text}");
        clean(path, text.as_bytes(), secrets);
    }
    clean("the log", app.log().as_bytes(), secrets);
    // A setup with one process.
    if app.services.is_none() {
        files(&app.data(), &mut |path| {
            clean(
                &path.display().to_string(),
                &fs::read(path).expect("a file"),
                secrets,
            )
        });
    }
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        clean("a command line", &line, secrets);
    }
}

fn files(dir: &Path, look: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => files(&path, look),
            path => look(&path),
        }
    }
}

pub async fn post(app: &App, path: &str, body: &Value) -> (u16, String) {
    let request = app
        .http
        .post(format!("{}{path}", app.url))
        .bearer_auth(TOKEN)
        .json(body);
    let response = request.send().await.expect("an answer");
    (
        response.status().as_u16(),
        response.text().await.expect("a text"),
    )
}

pub async fn start() -> App {
    start_with(&[]).await
}

async fn start_with(more: &[(&str, &str)]) -> App {
    let variables = [
        ("RUST_LOG", "trace"),
        ("SECRETS_KEY", KEY),
        ("ADMIN_TOKEN", TOKEN),
    ];
    let app = App::start_with(&[&variables[..], more].concat());
    let args = ["-u", &crate::harness::fixture("server.py")];
    let (status, text) = post(
        &app,
        "/mcp/servers",
        &json!({ "name": "fixture", "command": crate::harness::python(), "args": args }),
    )
    .await;
    assert_eq!(status, 200, "{text}");
    app
}

fn secret_of(n: usize) -> Value {
    json!({ "username": format!("user-{n}"), "serverName": "fixture", "secretName": "token", "secretValue": SECRETS[n] })
}

/// A secret that a server prints reaches the user in the result only.
#[tokio::test]
async fn secrets_in_the_output_of_a_server_are_masked() {
    let app = start().await;
    for (n, secret) in SECRETS.iter().enumerate() {
        assert_eq!(post(&app, "/secrets/set", &secret_of(n)).await.0, 200);
        // A value at the end of a cut text is not shown in part.
        for how in [
            "stderr",
            "error",
            "go error",
            "no error",
            "no result",
            "message",
            "rubbish",
            "list",
            "crash",
        ] {
            let args = json!({ "how": how, "before": if how == "message" { "m".repeat(4060) } else { String::new() } });
            let body = json!({ "username": format!("user-{n}"), "serverName": "fixture", "methodName": "leak", "args": args });
            let (status, text) = post(&app, "/mcp/tool/call", &body).await;
            match how {
                "stderr" | "message" | "rubbish" | "list" => {
                    let answer: Value = serde_json::from_str(&text).expect("JSON");
                    assert_eq!(
                        (status, &answer["data"]["content"]),
                        (200, &json!(secret)),
                        "{how}: {text}"
                    );
                }
                _ => {
                    assert_eq!(status, 502, "{how}: {text}");
                    clean(how, text.as_bytes(), &SECRETS);
                    let answer: Value = serde_json::from_str(&text).expect("JSON");
                    clean(
                        how,
                        answer["error"].as_str().expect("a sentence").as_bytes(),
                        &SECRETS,
                    );
                    assert_eq!(
                        how.ends_with("error") && how != "no error",
                        answer["mcpError"].is_object(),
                        "{how}: {text}"
                    );
                }
            }
        }
    }
    let request = || {
        app.http
            .get(format!("{}/mcp/servers/fixture", app.url))
            .bearer_auth(TOKEN)
    };
    let logs = crate::harness::answer(request()).await.ok()["server"]["logs"].to_string();
    let prefix = format!("{}plant", "m".repeat(8));
    assert!(
        !logs.contains(&prefix),
        "a secret was cut and shown in part"
    );
    for kept in [
        "the secret is ***",
        "Traceback: ***",
        "the new tool list",
        r#""source":"stdout""#,
        "could not be",
    ] {
        let kept = kept
            .replace("Traceback: ***", "Traceback: the secret is ***")
            .replace("could not be", "exited with code 1");
        assert!(logs.contains(&kept), "{kept}: {logs}");
    }
    clean_everywhere(&app, &[&SECRETS[..], &[KEY, TOKEN]].concat()).await;
}

/// An MCP client gets a secret in the result of its own call only, and no progress, error or list shows it.
#[tokio::test]
async fn secrets_in_answers_of_the_mcp_endpoints_are_masked() {
    let app = start().await;
    for (n, secret) in SECRETS.iter().enumerate() {
        assert_eq!(post(&app, "/secrets/set", &secret_of(n)).await.0, 200);
        let client = McpClient::new(&app, "/mcp")
            .token(TOKEN)
            .user(&format!("user-{n}"));
        for how in [
            "stderr",
            "error",
            "go error",
            "no error",
            "no result",
            "crash",
        ] {
            let call = json!({ "name": "fixture__leak", "arguments": { "how": how } });
            let answer = client.modern("tools/call", call).await;
            assert_eq!(answer.status, 200, "{how}: {}", answer.body);
            if how == "stderr" {
                assert_eq!(answer.body["result"]["content"][0]["text"], *secret);
            } else {
                clean(how, answer.body.to_string().as_bytes(), &SECRETS);
            }
        }
        let progress = json!({
            "name": "fixture__progress", "_meta": { "progressToken": 1 },
            "arguments": { "steps": 1, "ms": 1, "message": secret },
        });
        let mut messages = Messages::open(client.modern_request("tools/call", progress)).await;
        let notice = messages.notification("notifications/progress").await;
        clean("progress", notice.to_string().as_bytes(), &SECRETS);
        let list = client.modern("tools/list", json!({})).await;
        clean("the list", list.body.to_string().as_bytes(), &SECRETS);
        let wrong = json!({ "name": secret, "arguments": { "x": secret } });
        let answer = client.call_with_name("fixture__nothing", wrong).await;
        clean("a wrong call", answer.body.to_string().as_bytes(), &SECRETS);
        let answer = client
            .modern(&format!("tools/{n}-unknown"), json!({ "x": secret }))
            .await;
        clean(
            "an unknown method",
            answer.body.to_string().as_bytes(),
            &SECRETS,
        );
    }
    clean_everywhere(&app, &[&SECRETS[..], &[KEY, TOKEN]].concat()).await;
}

/// The values in the query of a URL reach the server only.
#[tokio::test]
async fn a_secret_in_the_query_of_a_url_is_sealed() {
    let app = start().await;
    let script = Script::start(|seen| {
        let query = seen.query.clone().unwrap_or_default();
        let is_call = seen.about() == "tools/call";
        is_call.then(|| (StatusCode::BAD_GATEWAY, format!("no: {query}")).into_response())
    })
    .await;
    let mut url = url::Url::parse(&script.url).expect("a URL");
    for (n, secret) in SECRETS.iter().enumerate() {
        url.query_pairs_mut()
            .append_pair(&format!("key{n}"), secret);
    }
    let server =
        json!({ "name": "remote", "transportType": "streamable_http", "url": url.as_str() });
    let (status, text) = post(&app, "/mcp/servers", &server).await;
    assert_eq!(status, 200, "{text}");
    clean("the new server", text.as_bytes(), &SECRETS);
    assert_eq!(script.seen()[0].query.as_deref(), url.query());
    let call = json!({ "serverName": "remote", "methodName": "echo", "args": {} });
    let (status, text) = post(&app, "/mcp/tool/call", &call).await;
    assert_eq!(status, 502, "{text}");
    clean("the failed call", text.as_bytes(), &SECRETS);
    let bad =
        json!({ "name": "bad", "transportType": "streamable_http", "url": format!("{url}#x") });
    let (status, text) = post(&app, "/mcp/servers", &bad).await;
    assert_eq!(status, 400, "{text}");
    clean("the refusal", text.as_bytes(), &SECRETS);
    clean_everywhere(&app, &[&SECRETS[..], &[KEY, TOKEN]].concat()).await;
}

/// No reply repeats a secret from a wrong field of a request.
#[tokio::test]
async fn a_value_in_a_wrong_field_is_not_repeated() {
    let app = start().await;
    for secret in SECRETS {
        let set = json!({ "username": "ana", "serverName": "fixture", "secretName": "token", "secretValue": secret });
        let call = json!({ "serverName": "fixture", "methodName": "echo", "args": {} });
        let server = json!({ "name": "new", "command": "true" });
        let wrong = [json!(secret), json!([secret]), json!({ secret: secret })];
        for (path, good) in [
            ("/secrets/set", set),
            ("/secrets/delete", json!({})),
            ("/mcp/tool/call", call),
            ("/mcp/servers", server),
        ] {
            // A valid server name is repeated, because the reply says which server does not exist.
            let fields = [
                "serverName",
                "secretValue",
                "args",
                "timeoutMs",
                "raw",
                "enabled",
                "replicas",
                "env",
                "toolTimeout",
            ];
            for (field, value) in fields
                .iter()
                .flat_map(|field| wrong.iter().map(move |value| (field, value)))
            {
                let named =
                    *field == "serverName" && value.as_str().is_some_and(|text| text == SECRETS[0]);
                let mut body = good.clone();
                body[*field] = value.clone();
                let (status, text) = post(&app, path, &body).await;
                if status != 200 && !named && !text.contains("unknown field") {
                    clean(&format!("{path} {field}"), text.as_bytes(), &SECRETS);
                }
            }
        }
        let request = app
            .http
            .post(format!("{}/secrets/set", app.url))
            .bearer_auth(TOKEN);
        let broken = format!(
            "{{\"secretValue\":{},",
            serde_json::to_string(secret).expect("JSON")
        );
        let broken = request
            .header("content-type", "application/json")
            .body(broken)
            .send()
            .await
            .expect("an answer");
        clean(
            "bad JSON",
            broken.text().await.expect("a text").as_bytes(),
            &SECRETS,
        );
        let refused = app
            .http
            .get(format!("{}/mcp/servers", app.url))
            .bearer_auth(hex::encode(secret));
        clean(
            "401",
            refused
                .send()
                .await
                .expect("an answer")
                .text()
                .await
                .expect("a text")
                .as_bytes(),
            &[secret, TOKEN],
        );
    }
    if app.services.is_none() {
        let read = fs::read(app.data().join("mcp-api.sqlite")).expect("the store");
        clean("the store", &read, &[KEY, TOKEN]);
    }
    clean(
        "the log",
        app.log().as_bytes(),
        &[&SECRETS[1..], &[KEY, TOKEN]].concat(),
    );
}

/// The secret of the client, the code, the verifier and the ID token of a sign-in reach the issuer and the program only.
#[tokio::test]
async fn the_values_of_a_sign_in_are_shown_nowhere() {
    const CODE: &str = "code-of-a-sign-in-5be07c12";
    let issuer = Issuer::start();
    let app = start_with(&[
        ("PUBLIC_URL", PUBLIC_URL),
        ("OIDC_ISSUER", &issuer.url),
        ("OIDC_CLIENT_ID", "pages"),
        ("OIDC_CLIENT_SECRET", SECRETS[0]),
    ])
    .await;
    for (user, status) in [("ana", 302), ("mcp-api", 403)] {
        let mut client = PageClient::new();
        let begun = Begun::at(&app, &mut client, "/signin").await;
        begun.answer_with(&issuer, user, json!({})).await;
        let state = begun.parameter("state");
        let query = [("code", CODE), ("state", state.as_str())];
        let ended = callback(&app, &mut client, &query).await;
        assert_eq!(ended.status, status, "{}", ended.text);
        let requests = issuer.token_requests().await;
        let request = requests.last().expect("a token request");
        assert_eq!(request["form"]["code"], CODE);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let verifier = text(&request["form"]["code_verifier"]);
        let id_token = text(&request["content"]["id_token"]);
        let signed = id_token.rsplit_once('.').expect("a signature");
        let secrets = [CODE, SECRETS[0], &verifier, signed.0, signed.1, KEY, TOKEN];
        for page in [&begun.page, &ended] {
            clean("a page", page.text.as_bytes(), &secrets);
            let headers = format!("{:?}", page.headers);
            clean("the headers of a page", headers.as_bytes(), &secrets);
        }
        clean(
            "the URL at the issuer",
            begun.url.as_str().as_bytes(),
            &secrets,
        );
        let cookies = format!("{:?}", client.cookies);
        clean("the cookies", cookies.as_bytes(), &secrets);
        clean("the log", app.log().as_bytes(), &[state.as_str()]);
        clean_everywhere(&app, &secrets).await;
    }
}

/// The search finds a secret within base64.
#[test]
#[should_panic(expected = "holds")]
fn the_search_finds_base64_within_a_text() {
    let text = BASE64_STANDARD.encode(format!("user:{}", SECRETS[0]));
    clean("a text", text.as_bytes(), &SECRETS);
}
