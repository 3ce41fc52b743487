//! Installation from PyPI: modules, console scripts and additional requirements.

use reqwest::Method;
use serde_json::json;

use super::start;

#[tokio::test]
async fn a_module_is_installed_and_upgraded() {
    let app = start();
    let body = json!({ "name": "mcp_server_time", "version": "2026.10.10", "serverName": "time", "runtime": "python",
        "pythonModule": "mcp_server_time", "pythonArgs": ["--local-timezone", "Europe/Vienna"] });
    let installed = app.install(body).await.ok();
    let package = &installed["package"];
    assert_eq!(
        (&package["name"], &package["version"]),
        (&json!("mcp-server-time"), &json!("2026.10.10"))
    );
    assert_eq!(package["venvPath"], package["installPath"]);
    assert_eq!(installed["server"]["args"][2], "mcp_server_time");
    let said = app
        .text(
            "time",
            "get_current_time",
            json!({ "timezone": "Europe/Vienna" }),
        )
        .await;
    assert!(said.contains("Europe/Vienna"), "{said}");

    let checked = app
        .slowly(Method::GET, "/packages?checkUpdates=true", None)
        .await
        .ok();
    assert_eq!(checked["packages"][0]["updateAvailable"], true, "{checked}");
    let upgraded = app
        .upgrade("time", Some(json!({ "version": "2026.10.19" })))
        .await
        .ok();
    assert_eq!(upgraded["package"]["version"], "2026.10.19");
    app.text(
        "time",
        "get_current_time",
        json!({ "timezone": "Europe/Vienna" }),
    )
    .await;
    app.delete("/packages/time").await.ok();
    app.until_no_package_is_left().await;
}

#[tokio::test]
async fn a_console_script_may_need_another_version_of_a_dependency() {
    let app = start();
    let database = app.dir.path().join("a.db");
    let body = json!({ "name": "mcp-server-sqlite", "serverName": "sqlite", "runtime": "python",
        "command": "mcp-server-sqlite", "args": ["--db-path", database] });
    let failed = app.install(body.clone()).await;
    assert!(
        failed.body["details"]
            .as_str()
            .is_some_and(|text| text.contains("Traceback")),
        "{}",
        failed.body
    );
    failed.fails(502, "upstream_error");
    app.get("/mcp/servers/sqlite")
        .await
        .fails(404, "server_not_found");
    app.until_no_package_is_left().await;

    let mut with = body;
    with["pipDependencies"] = json!(["mcp<2"]);
    let installed = app.install(with).await.ok();
    assert_eq!(
        (
            &installed["server"]["status"],
            &installed["package"]["pipDependencies"]
        ),
        (&json!("connected"), &json!(["mcp<2"]))
    );
    let said = app.text("sqlite", "list_tables", json!({})).await;
    assert!(said.contains('['), "{said}");
}

#[tokio::test]
async fn the_git_server_is_installed() {
    let app = start();
    let body = json!({ "name": "mcp-server-git", "serverName": "git", "runtime": "python", "pythonModule": "mcp_server_git" });
    let installed = app.install(body).await.ok();
    assert_eq!(installed["server"]["status"], "connected", "{installed}");
}

#[tokio::test]
async fn without_a_module_the_console_script_is_started() {
    let app = start();
    let body = json!({ "name": "mcp_server_time", "version": "2026.10.10", "serverName": "time", "runtime": "python",
        "pythonArgs": ["--local-timezone", "Europe/Vienna"] });
    let installed = app.install(body).await.ok();
    let command = installed["server"]["command"].as_str().expect("a command");
    assert!(command.ends_with("/bin/mcp-server-time"), "{command}");
    assert_eq!(installed["server"]["status"], "connected", "{installed}");
    let upgraded = app
        .upgrade("time", Some(json!({ "version": "2026.10.19" })))
        .await
        .ok();
    assert_eq!(upgraded["server"]["status"], "connected", "{upgraded}");
    // Several scripts, and none of them has the name of the package.
    let body = json!({ "name": "pip-tools", "serverName": "several", "runtime": "python", "enabled": false });
    let failed = app.install(body).await;
    let reason = failed.fails(400, "invalid_request");
    assert!(
        reason.contains("command: pip-compile, pip-sync"),
        "{reason}"
    );
}
