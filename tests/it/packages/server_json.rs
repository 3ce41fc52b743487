//! The `server.json` of the MCP registry: in the request, and in a package.

use serde_json::{Value, json};

use super::registry::{Registry, keyless, needs_key};
use crate::harness::App;
use crate::processes::{is_alive, left_of};
use crate::wait::wait_until;

/// Returns a `server.json` with one secret variable.
fn server_json(package: &str, variable: &str) -> Value {
    let variable = json!({
        "name": variable, "description": "The key of the CRM", "isRequired": true, "isSecret": true,
    });
    json!({
        "$schema": "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json",
        "name": "io.github.acme/crm", "description": "A CRM", "version": "1.0.0",
        "packages": [{
            "registryType": "npm", "identifier": package, "version": "1.0.0",
            "transport": { "type": "stdio" },
            "environmentVariables": [variable, { "name": "REGION", "default": "eu" }],
        }],
    })
}

fn declared() -> Value {
    json!([{
        "name": "API_KEY", "in": "env", "required": true, "owner": "user", "description": "The key of the CRM",
    }])
}

/// Calls the server and returns the version, the process and the key.
async fn state_for(app: &App, user: &str, server: &str) -> Value {
    let answer = app.call(user, server, "state", json!({})).await.ok();
    let text = answer["data"]["content"].as_str().expect("a text");
    serde_json::from_str(text).expect("JSON")
}

/// Returns the running servers of packages, without installers.
fn servers(app: &App) -> Vec<(u32, String)> {
    let processes = left_of(app.dir.path()).into_iter();
    let is_server = |line: &str| line.contains("acme-crm") && !line.starts_with("mcp-api");
    processes.filter(|(_, line)| is_server(line)).collect()
}

async fn assert_installed(app: &App, body: Value) {
    let server = body["serverName"].clone();
    let installed = app.install(body).await.ok();
    let shown = &installed["server"];
    assert_eq!(shown["credentials"], declared(), "{installed}");
    assert_eq!(shown["needsCredentials"], json!(["API_KEY"]), "{server}");
    assert_eq!(shown["status"], "disconnected", "{server}");
    assert!(servers(app).is_empty(), "nothing starts without a user");
}

async fn set_keys(app: &App, server: &str) {
    for user in ["ana", "ben"] {
        let key = format!("key-of-{user}");
        app.set_secret(user, server, "API_KEY", &key).await;
    }
}

#[tokio::test]
async fn the_server_json_of_the_request_declares_the_credentials() {
    let without_file =
        json!({ "name": "acme-crm", "version": "1.0.0", "needsKey": true, "serverJson": null });
    let registry = Registry::start(&[without_file]).await;
    let app = registry.app();
    let body = json!({
        "name": "acme-crm", "serverName": "crm", "serverJson": server_json("acme-crm", "API_KEY"),
    });
    assert_installed(&app, body).await;
    set_keys(&app, "crm").await;
    for user in ["ana", "ben"] {
        let state = state_for(&app, user, "crm").await;
        assert_eq!(state["key"], format!("key-of-{user}"));
    }
}

#[tokio::test]
async fn an_upgrade_replaces_the_processes_of_all_users() {
    let manifest = server_json("acme-crm", "API_KEY");
    let versions = ["1.0.0", "1.1.0"].map(|version| needs_key("acme-crm", version, &manifest));
    let registry = Registry::start(&versions).await;
    let app = registry.app();
    let body = json!({ "name": "acme-crm", "version": "1.0.0", "serverName": "crm" });
    assert_installed(&app, body).await;
    set_keys(&app, "crm").await;
    let mut earlier = Vec::new();
    for user in ["ana", "ben"] {
        let state = state_for(&app, user, "crm").await;
        assert_eq!(state["version"], "1.0.0");
        earlier.push(state["pid"].as_u64().expect("a pid") as u32);
    }
    let upgraded = app.upgrade("crm", None).await.ok();
    assert_eq!(upgraded["package"]["version"], "1.1.0", "{upgraded}");
    assert_eq!(upgraded["server"]["credentials"], declared(), "{upgraded}");
    for user in ["ana", "ben"] {
        let state = state_for(&app, user, "crm").await;
        assert_eq!(state["version"], "1.1.0");
        assert_eq!(state["key"], format!("key-of-{user}"));
    }
    wait_until(
        "the processes of the earlier version have ended",
        async || earlier.iter().all(|pid| !is_alive(*pid)),
    )
    .await;
    assert_eq!(servers(&app).len(), 2);
}

#[tokio::test]
async fn a_python_package_may_have_a_server_json_too() {
    let manifest = server_json("acme-crm", "API_KEY");
    let registry = Registry::start(&[needs_key("acme-crm", "1.0.0", &manifest)]).await;
    let app = registry.app();
    let body = json!({ "name": "acme-crm", "serverName": "crm", "runtime": "python" });
    assert_installed(&app, body).await;
    set_keys(&app, "crm").await;
    for user in ["ana", "ben"] {
        let state = state_for(&app, user, "crm").await;
        assert_eq!(state["key"], format!("key-of-{user}"));
    }
}

#[tokio::test]
async fn a_server_json_that_cannot_be_used_is_ignored_and_logged() {
    let loader = server_json("acme-loader", "NODE_OPTIONS").to_string();
    let registry = Registry::start(&[
        keyless("acme-broken", Some(r#"{"packages": "s3cret"}"#)),
        keyless("acme-loader", Some(&loader)),
        keyless("acme-none", None),
    ])
    .await;
    let app = registry.app();
    for name in ["acme-broken", "acme-loader", "acme-none"] {
        let body = json!({ "name": name, "serverName": name });
        let installed = app.install(body).await.ok();
        let server = &installed["server"];
        assert_eq!(server["status"], "connected", "{installed}");
        assert!(server.get("credentials").is_none(), "{installed}");
    }
    let log = app.log();
    let ignored = |name: &str| {
        let mut lines = log.lines();
        lines.any(|line| line.contains("ignoring the server.json") && line.contains(name))
    };
    assert!(ignored("acme-broken") && ignored("acme-loader"), "{log}");
    assert!(!ignored("acme-none"), "{log}");
    assert!(!log.contains("s3cret"), "the file is in the log");
}

#[tokio::test]
async fn a_server_json_excludes_the_other_ways_to_name_credentials() {
    let registry = Registry::start(&[keyless("acme-crm", None)]).await;
    let app = registry.app();
    let manifest = server_json("acme-crm", "API_KEY");
    let credential = json!([{ "name": "API_KEY", "in": "env" }]);
    for (field, value) in [
        ("credentials", credential),
        ("credentials", json!([])),
        ("secretNames", json!(["API_KEY"])),
    ] {
        let mut body = json!({ "name": "acme-crm", "serverName": "crm", "serverJson": manifest });
        body[field] = value;
        let sentence = app.install(body).await.fails(400, "invalid_request");
        assert!(sentence.contains("serverJson excludes"), "{sentence}");
    }
    let loader = server_json("acme-crm", "NODE_OPTIONS");
    for (value, part) in [
        (json!([]), "object"),
        (json!({ "packages": 1 }), "line 1"),
        (loader, "NODE_OPTIONS"),
    ] {
        let body = json!({ "name": "acme-crm", "serverName": "crm", "serverJson": value });
        let sentence = app.install(body).await.fails(400, "invalid_request");
        assert!(sentence.contains(part), "{sentence}");
    }
    // Named credentials win over the file of the package.
    let body = json!({ "name": "acme-crm", "serverName": "crm", "secretNames": ["OWN"] });
    let installed = app.install(body).await.ok();
    assert_eq!(installed["server"]["secretNames"], json!(["OWN"]));
}
