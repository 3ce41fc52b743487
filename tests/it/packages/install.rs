//! Installation from npm: the answer, the files on the disk, and their removal.

use std::fs;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{MEMORY, MEMORY_NEW, MEMORY_OLD, start, start_with};
use crate::harness::answer;
use crate::wait::{wait_at_most, wait_until};

#[tokio::test]
async fn a_package_is_installed_shown_and_removed() {
    let app = start();
    let installed = app.install_memory("memory", MEMORY_NEW).await.ok();
    let (package, server) = (&installed["package"], &installed["server"]);
    assert_eq!(
        (&package["name"], &package["version"]),
        (&json!(MEMORY), &json!(MEMORY_NEW))
    );
    assert_eq!(
        (&package["mcpServerId"], &package["status"]),
        (&json!("memory"), &json!("installed"))
    );
    assert_eq!(
        (&server["status"], &server["enabled"]),
        (&json!("connected"), &json!(true)),
        "{server}"
    );
    assert!(
        server["toolsList"]
            .as_array()
            .is_some_and(|tools| tools.len() > 3),
        "{server}"
    );
    let path = package["installPath"].as_str().expect("a path");
    assert_eq!(path, app.packages().join("memory").to_str().expect("UTF-8"));
    let command = server["command"].as_str().expect("a command");
    assert!(
        command.starts_with(path) && fs::metadata(command).is_ok(),
        "{command}"
    );

    // The second of that version reuses what was built.
    let began = Instant::now();
    let again = app.install_memory("again", MEMORY_NEW).await.ok();
    eprintln!("the second installation took {:?}", began.elapsed());
    assert_eq!(again["package"]["version"], MEMORY_NEW);
    let versions: Vec<_> = app
        .versions()
        .into_iter()
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert_eq!(versions.len(), 1, "{versions:?}");

    // Every way to read it.
    assert_eq!(
        app.get("/packages").await.ok()["packages"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    assert_eq!(
        app.get("/packages/by-id/memory").await.ok()["package"]["version"],
        MEMORY_NEW
    );
    let named = app
        .get("/packages/by-name/@modelcontextprotocol%2Fserver-memory")
        .await
        .ok();
    assert_eq!(
        (
            named["packages"].as_array().map(Vec::len),
            &named["package"]["name"]
        ),
        (Some(2), &json!(MEMORY))
    );
    app.get("/packages/by-id/nobody")
        .await
        .fails(404, "package_not_found");
    app.get("/packages/by-name/nobody")
        .await
        .fails(404, "package_not_found");
    app.get("/packages?chekUpdates=true")
        .await
        .fails(400, "invalid_request");

    // What GET gave is put back and changes nothing.
    let mut shown = app.server("memory").await;
    let before = app.happened().await.len();
    shown = app.put("/mcp/servers/memory", shown).await.ok()["server"].take();
    assert_eq!(
        (app.happened().await.len(), &shown["command"]),
        (before, &json!(command))
    );

    // One enabled, for both.
    let disabled = app.put("/packages/memory/disable", json!({})).await.ok();
    assert_eq!(
        (
            &disabled["package"]["enabled"],
            &disabled["server"]["enabled"]
        ),
        (&json!(false), &json!(false))
    );
    app.put("/mcp/servers/memory/enable", json!({})).await.ok();
    assert_eq!(
        app.get("/packages/by-id/memory").await.ok()["package"]["enabled"],
        true
    );

    // Its files stay while another uses them, and go with the last.
    app.delete("/packages/memory").await.ok();
    app.get("/mcp/servers/memory")
        .await
        .fails(404, "server_not_found");
    app.text("again", "read_graph", json!({})).await;
    assert!(app.versions().len() >= 2);
    app.delete("/mcp/servers/again").await.ok();
    app.until_no_package_is_left().await;
    assert!(fs::read_link(app.packages().join("memory")).is_err());
    app.get("/packages/by-id/again")
        .await
        .fails(404, "package_not_found");
}

#[tokio::test]
async fn an_asynchronous_installation_shows_its_progress() {
    let app = start();
    let body =
        json!({ "name": "@modelcontextprotocol/server-everything", "serverName": "everything" });
    let request = app
        .http
        .post(format!("{}/packages/install", app.url))
        .header("prefer", "respond-async")
        .json(&body);
    let accepted = answer(request).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let job = accepted.body["jobId"].as_str().expect("an id").to_owned();
    let done = app
        .slowly(Method::GET, &format!("/jobs/{job}?wait=240s"), None)
        .await
        .ok();
    assert_eq!(
        (&done["job"]["state"], &done["job"]["answer"]["status"]),
        (&json!("succeeded"), &json!(200)),
        "{done}"
    );
    let body = &done["job"]["answer"]["body"];
    assert_eq!(body["server"]["status"], "connected", "{body}");
    let events = app.get("/events?limit=1000").await.ok();
    let phases: Vec<_> = events["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter_map(|event| event["data"]["progress"]["phase"].as_str())
        .collect();
    assert!(phases.contains(&"installing"), "{phases:?}");
    assert_eq!(
        app.text("everything", "echo", json!({ "message": "hi" }))
            .await,
        "Echo: hi"
    );
}

#[tokio::test]
async fn packages_of_install_on_start_are_installed_once() {
    let package = format!("{MEMORY}@{MEMORY_OLD}|memory");
    let mut app = start_with(&[("INSTALL_ON_START", &package)]);
    let wanted = |body: &Value| body["server"]["status"] == "connected";
    let installed = wait_at_most(Duration::from_secs(300), async || {
        wanted(&app.get("/mcp/servers/memory").await.body).then_some(())
    });
    assert!(installed.await.is_some(), "the package was not installed");
    app.terminate();
    app.restart();
    app.until("/mcp/servers/memory", wanted).await;
    let happened = app.happened().await;
    assert_eq!(
        happened
            .iter()
            .filter(|line| line.starts_with("package.installed"))
            .count(),
        1,
        "{happened:?}"
    );
}

#[tokio::test]
async fn an_installation_survives_a_killed_process() {
    let mut app = start();
    let body = json!({ "name": MEMORY, "version": MEMORY_NEW, "serverName": "memory" });
    let request = app
        .http
        .post(format!("{}/packages/install", app.url))
        .header("prefer", "respond-async")
        .json(&body);
    let accepted = answer(request).await;
    // A build has begun: its folder is there, and has no mark.
    let folder = app.packages().join(".versions");
    wait_until("a build has begun", async || {
        let versions = app.versions();
        let mut locks = versions
            .iter()
            .map(|name| folder.join(name).join("package-lock.json"));
        locks.any(|lock| lock.exists())
    })
    .await;
    app.kill_and_restart();
    let job = accepted.body["jobId"].as_str().expect("an id");
    let done = app
        .slowly(Method::GET, &format!("/jobs/{job}?wait=240s"), None)
        .await
        .ok();
    assert_eq!(
        (&done["job"]["state"], &done["job"]["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{done}"
    );
    app.text("memory", "read_graph", json!({})).await;
    app.delete("/packages/memory").await.ok();
    app.until_no_package_is_left().await;
}

#[tokio::test]
async fn optional_packages_that_the_registry_does_not_offer_are_left_out() {
    let app = start();
    let body = json!({ "name": "kubernetes-mcp-server", "version": "0.0.67", "serverName": "kubernetes", "enabled": false });
    let installed = app.install(body).await.ok();
    assert_eq!(installed["package"]["version"], "0.0.67", "{installed}");
    let path = installed["package"]["installPath"]
        .as_str()
        .expect("a path");
    let command = format!("{path}/node_modules/.bin/kubernetes-mcp-server");
    assert_eq!(installed["server"]["command"], command.as_str());
    let version = std::process::Command::new(&command)
        .arg("--version")
        .output();
    let version = version.expect("the program runs");
    assert!(version.status.success(), "{version:?}");
}
