//! Real packages that read their key from the environment: each user's calls carry the key of that user.

use axum::Json;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::start;
use crate::harness::App;
use crate::remote::script::{Script, Seen};

const USERS: [&str; 2] = ["ana", "ben"];

#[tokio::test]
async fn each_call_to_a_real_npm_server_has_the_key_of_its_caller() {
    let search =
        json!({ "results": [{ "title": "found", "url": "https://h/", "snippet": "text" }] });
    let vendor = vendor(search).await;
    let app = start();
    let body = json!({
        "name": "@perplexity-ai/mcp-server", "version": "1.2.1", "serverName": "search",
        "env": { "PERPLEXITY_BASE_URL": origin(&vendor) },
        "credentials": [{ "name": "PERPLEXITY_API_KEY", "in": "env", "required": true }],
    });
    install_and_set_keys(&app, "search", "PERPLEXITY_API_KEY", body).await;
    call_at_once(
        &app,
        &vendor,
        "search",
        "perplexity_search",
        |call| json!({ "query": call }),
    )
    .await;
    for seen in vendor.seen() {
        let call = seen.body["query"].as_str().expect("a query");
        assert_eq!(key_of(&seen), format!("Bearer {}", key_for(user_of(call))));
    }
    assert_values_stay_apart(&app).await;
}

#[tokio::test]
async fn each_call_to_a_real_python_server_has_the_key_of_its_caller() {
    let vendor = vendor(json!({ "files": ["note.md"] })).await;
    let (_, port) = origin(&vendor).rsplit_once(':').expect("a port");
    let app = start();
    let body = json!({
        "name": "mcp-obsidian", "version": "0.2.3", "serverName": "notes", "runtime": "python",
        "env": {
            "OBSIDIAN_PROTOCOL": "http", "OBSIDIAN_HOST": "127.0.0.1", "OBSIDIAN_PORT": port,
        },
        "credentials": [{ "name": "KEY", "in": "env", "as": "OBSIDIAN_API_KEY", "required": true }],
    });
    install_and_set_keys(&app, "notes", "KEY", body).await;
    let tool = "obsidian_list_files_in_dir";
    call_at_once(
        &app,
        &vendor,
        "notes",
        tool,
        |call| json!({ "dirpath": call }),
    )
    .await;
    for seen in vendor.seen() {
        let call = seen
            .path
            .trim_start_matches("/vault/")
            .trim_end_matches('/');
        assert_eq!(key_of(&seen), format!("Bearer {}", key_for(user_of(call))));
    }
    assert_values_stay_apart(&app).await;
}

/// Stands in for the vendor of a server: replies to each request, and records it.
async fn vendor(reply: Value) -> Script {
    Script::start(move |_| Some(Json(reply.clone()).into_response())).await
}

/// Returns `http://<host>:<port>`.
fn origin(vendor: &Script) -> &str {
    vendor.url.strip_suffix("/mcp").expect("a path")
}

fn key_of(seen: &Seen) -> &str {
    seen.header("authorization").unwrap_or_default()
}

fn key_for(user: &str) -> String {
    format!("s3cret-of-{user}")
}

/// Returns the user in the name of a call, `<user>-<number>`.
fn user_of(call: &str) -> &str {
    let (user, _) = call.split_once('-').expect("a call");
    user
}

/// Installs a package that cannot start without the key of a user, and sets the keys of both users.
async fn install_and_set_keys(app: &App, server: &str, key: &str, body: Value) {
    let installed = app.install(body).await.ok();
    let shown = &installed["server"];
    assert_eq!(shown["status"], "disconnected", "{installed}");
    assert_eq!(shown["needsCredentials"], json!([key]), "{installed}");
    for user in USERS {
        app.set_secret(user, server, key, &key_for(user)).await;
    }
}

/// Sends 24 calls of two users, all at once, so that a mix-up of users is visible. A third user has no key.
async fn call_at_once(
    app: &App,
    vendor: &Script,
    server: &str,
    tool: &str,
    args: impl Fn(&str) -> Value,
) {
    let without_key = app.call("cem", server, tool, args("cem-0")).await;
    without_key.fails(401, "credential_required");
    assert!(vendor.seen().is_empty(), "nothing starts without a key");
    let users = USERS.iter().cycle().take(24).enumerate();
    let calls = users.map(|(number, user)| {
        let call = format!("{user}-{number}");
        app.call(user, server, tool, args(&call))
    });
    for answer in futures::future::join_all(calls).await {
        let answer = answer.ok();
        assert_eq!(answer["data"]["isError"], false, "{answer}");
    }
    assert_eq!(vendor.seen().len(), 24);
}

/// Asserts that a process has the key of one user at most, that no command line has a key, and that neither the log nor
/// an event nor the server has a key.
async fn assert_values_stay_apart(app: &App) {
    let mut with_key: Vec<&str> = Vec::new();
    for (pid, line) in crate::processes::left_of(app.dir.path()) {
        assert!(!line.contains("s3cret"), "{line}");
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let users = USERS
            .iter()
            .filter(|user| environment.contains(&key_for(user)));
        let users: Vec<&str> = users.copied().collect();
        assert!(users.len() <= 1, "{line} has the keys of {users:?}");
        with_key.extend(users);
    }
    with_key.sort_unstable();
    assert_eq!(with_key, USERS, "one process for each user");
    let shown = app.get("/mcp/servers").await.ok().to_string();
    let events = app.get("/events?limit=1000").await.ok().to_string();
    for text in [app.log(), shown, events] {
        assert!(!text.contains("s3cret"), "a key is in {text}");
    }
}
