//! Failed installations: the error names the cause, the details show the output, and no files stay.

use serde_json::json;

use super::{MEMORY, start, start_with};

#[tokio::test]
async fn invalid_requests_are_refused_with_their_field() {
    let app = start();
    let good = json!({ "name": MEMORY, "serverName": "m" });
    for (field, value, says) in [
        ("name", json!("-g"), "name"),
        ("name", json!("../x"), "name"),
        ("name", json!("https://h/x.tgz"), "name"),
        ("version", json!("--registry=http://h"), "version"),
        ("version", json!("file:/etc"), "version"),
        ("runtime", json!("perl"), "runtime"),
        ("pythonModule", json!("m"), "pythonModule"),
        ("serverName", json!("a/b"), "serverName"),
        ("serverName", json!("python"), "PYTHON_VENV_DIR"),
        ("nonsense", json!(1), "nonsense"),
        ("startupTimeout", json!(0), "startupTimeout"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let said = app.install(body).await.fails(400, "invalid_request");
        assert!(said.contains(says), "{field}: {said}");
    }
    let python = json!({ "name": "mcp-server-time", "serverName": "t", "runtime": "python", "pythonModule": "mcp_server_time" });
    for (field, value, says) in [
        ("name", json!("mcp[cli]"), "pipDependencies"),
        ("pythonModule", json!("-c"), "pythonModule"),
        ("pipDependencies", json!(["-r x"]), "pipDependencies"),
        (
            "pipDependencies",
            json!(["x @ https://h/x"]),
            "pipDependencies",
        ),
        ("pipIndexUrl", json!("-x"), "pipIndexUrl"),
        ("pipExtraIndexUrl", json!("file:///x"), "pipExtraIndexUrl"),
        ("transportType", json!("streamable_http"), "transportType"),
    ] {
        let mut body = python.clone();
        body[field] = value;
        let said = app.install(body).await.fails(400, "invalid_request");
        assert!(said.contains(says), "{field}: {said}");
    }
    app.register_fixture("m").await.ok();
    app.install(good).await.fails(409, "server_already_exists");
}

#[tokio::test]
async fn a_failed_install_script_is_named_and_no_registry_is_blamed() {
    // Every install script of npm fails with this shell.
    let app = start_with(&[("npm_config_script_shell", "/bin/false")]);
    let body = json!({ "name": "es5-ext", "version": "0.10.64", "serverName": "m" });
    let failed = app.install(body).await;
    let details = failed.body["details"].as_str().unwrap_or_default();
    assert!(details.contains("npm error command"), "{}", failed.body);
    let reason = failed.fails(502, "upstream_error");
    assert!(
        reason.contains("an install script of es5-ext failed: node -e"),
        "{reason}"
    );
    // The build of this package always fails.
    let body = json!({ "name": "sklearn", "version": "0.0.post12", "serverName": "m", "runtime": "python",
        "pythonModule": "m" });
    let failed = app.install(body).await;
    let reason = failed.fails(502, "upstream_error");
    assert!(reason.contains("of sklearn failed"), "{reason}");
    assert!(!reason.contains("registry"), "{reason}");
    app.until_no_package_is_left().await;
}

#[tokio::test]
async fn missing_packages_versions_and_modules_are_named() {
    let app = start();
    let unknown = app
        .install(
            json!({ "name": "@modelcontextprotocol/server-nope-not-there", "serverName": "m" }),
        )
        .await;
    assert!(
        unknown.body["details"]
            .as_str()
            .is_some_and(|text| text.contains("E404")),
        "{}",
        unknown.body
    );
    assert!(
        unknown
            .fails(404, "package_not_found")
            .contains("npm has no package")
    );
    let said = app
        .install(json!({ "name": MEMORY, "version": "9.9.9", "serverName": "m" }))
        .await;
    assert!(
        said.fails(400, "invalid_request")
            .contains("no version 9.9.9")
    );
    let python = |name: &str, version: &str| json!({ "name": name, "version": version, "serverName": "m", "runtime": "python", "pythonModule": "m" });
    let said = app
        .install(python("mcp-server-nope-not-there", "latest"))
        .await
        .fails(404, "package_not_found");
    assert!(said.contains("mcp-server-nope-not-there"), "{said}");
    let said = app
        .install(python("mcp-server-time", "9.9"))
        .await
        .fails(400, "invalid_request");
    assert!(said.contains("no version 9.9"), "{said}");
    // A wrong module: it is installed, and does not start.
    let said = app.install(python("mcp-server-time", "2026.10.19")).await;
    assert!(
        said.body["details"]
            .as_str()
            .is_some_and(|text| text.contains("No module named m")),
        "{}",
        said.body
    );
    said.fails(502, "upstream_error");
    assert!(
        app.get("/mcp/servers").await.ok()["servers"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
    app.until_no_package_is_left().await;
}

#[tokio::test]
async fn a_server_behind_a_url_needs_no_package_of_a_registry() {
    let app = start();
    let body = json!({ "name": "@modelcontextprotocol/server-nope-not-there", "version": "1.0.0", "serverName": "m",
        "transportType": "streamable_http", "url": "http://127.0.0.1:9/mcp", "command": "ignored", "enabled": true });
    let installed = app.install(body).await.ok();
    assert_eq!(
        (
            &installed["package"]["version"],
            &installed["server"]["status"]
        ),
        (&json!("1.0.0"), &json!("error"))
    );
    assert!(
        installed["package"]["installPath"].is_null() && installed["server"]["command"].is_null(),
        "{installed}"
    );
}

/// An unreachable registry, a missing Python, and credentials that must not be shown.
#[tokio::test]
async fn causes_on_this_machine_are_named() {
    let nowhere = [
        ("npm_config_registry", "http://127.0.0.1:9"),
        ("npm_config_fetch_retries", "0"),
        ("PYTHON_BIN", "no-such-python"),
    ];
    let app = start_with(&nowhere);
    let said = app
        .install(json!({ "name": MEMORY, "serverName": "m" }))
        .await
        .fails(502, "upstream_error");
    assert!(said.contains("cannot reach its registry"), "{said}");
    let python = json!({ "name": "mcp-server-time", "serverName": "t", "runtime": "python", "pythonModule": "mcp_server_time" });
    let said = app
        .install(python.clone())
        .await
        .fails(502, "upstream_error");
    assert!(
        said.contains("no-such-python was not found") && said.contains("PYTHON_BIN"),
        "{said}"
    );
    drop(app);

    let app = start();
    let mut secret = python;
    secret["pipIndexUrl"] = json!("http://ana:hush-hush-7@127.0.0.1:9/simple");
    let failed = app.install(secret.clone()).await;
    assert!(
        !failed.body.to_string().contains("hush-hush-7"),
        "{}",
        failed.body
    );
    assert!(
        failed
            .fails(502, "upstream_error")
            .contains("cannot reach its registry")
    );
    secret["enabled"] = json!(false);
    assert!(!app.log().contains("hush-hush-7"));
    let events = app.get("/events?limit=1000").await.body.to_string();
    assert!(!events.contains("hush-hush-7"), "{events}");
    app.until_no_package_is_left().await;
}
