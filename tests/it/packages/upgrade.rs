//! Upgrades: during calls, of all packages at once, and interrupted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use super::{MEMORY_NEW, MEMORY_OLD, start};
use crate::harness::answer;
use crate::wait::wait_until;

#[tokio::test]
async fn an_upgrade_under_load_loses_no_call() {
    let app = start();
    app.install_memory("memory", MEMORY_OLD).await.ok();
    let checked = app
        .slowly(
            Method::GET,
            "/packages/by-id/memory?checkUpdates=true",
            None,
        )
        .await
        .ok();
    assert_eq!(checked["package"]["updateAvailable"], true, "{checked}");
    let updates = app
        .slowly(Method::GET, "/packages/updates?name=memory", None)
        .await
        .ok();
    assert_eq!(
        updates["updates"][0]["currentVersion"], MEMORY_OLD,
        "{updates}"
    );

    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (stop, calls, http, url) = (
                stop.clone(),
                calls.clone(),
                app.http.clone(),
                app.url.clone(),
            );
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let body =
                        json!({ "serverName": "memory", "methodName": "read_graph", "args": {} });
                    answer(http.post(format!("{url}/mcp/tool/call")).json(&body))
                        .await
                        .ok();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let upgraded = app
        .upgrade("memory", Some(json!({ "version": MEMORY_NEW })))
        .await
        .ok();
    assert_eq!(upgraded["package"]["version"], MEMORY_NEW);
    assert!(
        upgraded["package"]["lastUpgraded"].is_string(),
        "{upgraded}"
    );
    assert_eq!(upgraded["server"]["status"], "connected", "{upgraded}");
    let before = calls.load(Ordering::Relaxed);
    while calls.load(Ordering::Relaxed) < before + 50 {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no call failed");
    }
    // Once nobody runs the old one, its files go.
    app.until_one_version().await;

    // Up to date: nothing to do, and nothing is done.
    let before = app
        .happened()
        .await
        .iter()
        .filter(|line| line.starts_with("package."))
        .count();
    app.upgrade("memory", None).await.ok();
    assert_eq!(
        app.happened()
            .await
            .iter()
            .filter(|line| line.starts_with("package."))
            .count(),
        before
    );
}

/// A call that was begun on the old version ends there, long after the new one has taken the others.
#[tokio::test]
async fn a_running_call_finishes_on_the_old_version() {
    let app = Arc::new(start());
    let name = "@modelcontextprotocol/server-everything";
    app.install(json!({ "name": name, "version": "2026.1.26", "serverName": "everything" }))
        .await
        .ok();
    // The new version is built once beforehand, so that the upgrade takes less time than the call.
    app.install(json!({ "name": name, "version": "2026.8.31", "serverName": "built" }))
        .await
        .ok();
    let long = tokio::spawn({
        let app = app.clone();
        let args = json!({ "duration": 50, "steps": 1 });
        async move {
            let tool = "trigger-long-running-operation";
            app.call("default", "everything", tool, args).await
        }
    });
    app.upgrade("everything", Some(json!({ "version": "2026.8.31" })))
        .await
        .ok();
    assert!(!long.is_finished(), "the call was to outlast the upgrade");
    let shown = app
        .text("everything", "echo", json!({ "message": "new" }))
        .await;
    assert_eq!((shown.as_str(), long.is_finished()), ("Echo: new", false));
    let said = long.await.expect("a task").ok();
    assert!(
        said["data"]["content"]
            .as_str()
            .is_some_and(|text| text.contains("completed")),
        "{said}"
    );
}

#[tokio::test]
async fn a_failed_upgrade_leaves_the_old_version_running() {
    let app = start();
    app.install_memory("memory", MEMORY_OLD).await.ok();
    let said = app
        .upgrade("memory", Some(json!({ "version": "9.9.9" })))
        .await;
    assert!(
        said.fails(400, "invalid_request")
            .contains("no version 9.9.9")
    );
    app.upgrade("nobody", None)
        .await
        .fails(404, "package_not_found");
    let server = app.server("memory").await;
    assert_eq!(server["status"], "connected", "{server}");
    app.text("memory", "read_graph", json!({})).await;
    app.until_one_version().await;

    // A broken-off one is done again by whoever comes after.
    let mut app = app;
    let request = app
        .http
        .put(format!("{}/packages/memory/upgrade", app.url))
        .header("prefer", "respond-async");
    let accepted = answer(request.json(&json!({ "version": MEMORY_NEW }))).await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    app.until("/jobs", |body| body["jobs"][0]["state"] == "running")
        .await;
    app.kill_and_restart();
    app.text("memory", "read_graph", json!({})).await;
    let job = accepted.body["jobId"].as_str().expect("an id");
    let done = app
        .slowly(Method::GET, &format!("/jobs/{job}?wait=240s"), None)
        .await
        .ok();
    assert_eq!(done["job"]["state"], "succeeded", "{done}");
    assert_eq!(
        app.get("/packages/by-id/memory").await.ok()["package"]["version"],
        MEMORY_NEW
    );
    app.until_one_version().await;
}

#[tokio::test]
async fn all_packages_are_upgraded_at_the_same_time() {
    let app = start();
    let github =
        json!({ "name": "@missionsquad/mcp-github", "version": "0.10.7", "serverName": "github" });
    let (github, memory) = tokio::join!(
        app.install(github),
        app.install_memory("memory", MEMORY_OLD)
    );
    github.ok();
    memory.ok();
    let all = app
        .slowly(Method::PUT, "/packages/upgrade-all", None)
        .await
        .ok();
    let results: Vec<_> = all["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|one| (one["serverName"].as_str(), &one["success"]))
        .collect();
    assert_eq!(
        results,
        [
            (Some("github"), &json!(true)),
            (Some("memory"), &json!(true))
        ],
        "{all}"
    );
    let version = async |name: &str| {
        app.get(&format!("/packages/by-id/{name}")).await.ok()["package"]["version"].take()
    };
    assert_eq!(version("github").await, "0.10.8");
    assert_ne!(version("memory").await, Value::from(MEMORY_OLD));
}

#[tokio::test]
async fn upgrade_all_runs_once_for_a_key_and_asynchronously_on_request() {
    let app = start();
    app.install_memory("first", MEMORY_OLD).await.ok();
    app.install_memory("second", MEMORY_OLD).await.ok();
    let all = async |key: &str, prefer: &str, body: Option<Value>| {
        let mut request = app
            .http
            .put(format!("{}/packages/upgrade-all", app.url))
            .header("Prefer", prefer);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(
            request
                .header("Idempotency-Key", key)
                .timeout(std::time::Duration::from_secs(300)),
        )
        .await
    };
    let upgrades = async || {
        let jobs = app.get("/jobs").await.ok()["jobs"].take();
        jobs.as_array()
            .expect("jobs")
            .iter()
            .filter(|job| job["command"] == "packages.upgrade")
            .count()
    };
    let (one, same) = tokio::join!(all("k1", "wait=300", None), all("k1", "wait=300", None));
    let done = |server: &str| json!({ "serverName": server, "success": true });
    assert_eq!(
        one.body,
        json!({ "success": true, "results": [done("first"), done("second")] })
    );
    assert_eq!(
        (same.status, &same.body, upgrades().await),
        (200, &one.body, 2)
    );
    let upgraded = app
        .happened()
        .await
        .into_iter()
        .filter(|line| line.starts_with("package.upgraded"))
        .count();
    assert_eq!(upgraded, 2);
    all("k1", "wait=300", Some(json!({})))
        .await
        .fails(409, "conflict");

    // What was installed and removed since changes nothing of what was answered.
    app.install_memory("third", MEMORY_OLD).await.ok();
    app.delete("/packages/first").await.ok();
    assert_eq!(
        (all("k1", "wait=300", None).await.body, upgrades().await),
        (one.body, 2)
    );

    let (later, again) = tokio::join!(
        all("k2", "respond-async", None),
        all("k2", "respond-async", None)
    );
    assert_eq!(
        (later.status, &again.body),
        (202, &later.body),
        "{}",
        later.body
    );
    assert_eq!(
        (&later.headers["preference-applied"], upgrades().await),
        (&"respond-async".parse().expect("a value"), 4)
    );
    let jobs = later.body["jobs"].as_array().expect("jobs");
    for (job, server) in jobs.iter().zip(["second", "third"]) {
        let id = job["jobId"].as_str().expect("an id");
        assert_eq!(
            job,
            &json!({ "serverName": server, "jobId": id, "location": format!("/jobs/{id}") })
        );
        let job = app
            .slowly(Method::GET, &format!("/jobs/{id}?wait=240s"), None)
            .await
            .ok()["job"]
            .take();
        assert_eq!(
            (&job["state"], &job["serverName"]),
            (&json!("succeeded"), &json!(server)),
            "{job}"
        );
    }
    assert_eq!(jobs.len(), 2);
    assert_ne!(
        app.get("/packages/by-id/third").await.ok()["package"]["version"],
        MEMORY_OLD
    );
    all("k3", "respond-async", Some(json!({ "user": "ana" })))
        .await
        .fails(400, "invalid_request");
}

impl crate::harness::App {
    async fn until_one_version(&self) {
        let folders = || {
            self.versions()
                .into_iter()
                .filter(|name| !name.ends_with(".lock"))
                .count()
        };
        wait_until("only one version is left", async || folders() == 1).await;
    }
}
