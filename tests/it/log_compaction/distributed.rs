//! A compaction over MongoDB, while two facades and two workers run under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use super::{
    ALL, OLD, archives, begin, compact_with_client, events_after, fill, is_truncated, servers,
};
use crate::harness::{App, answer};
use crate::process::Services;
use mcp_api::adapters::store_mongo::{MongoOptions, MongoStore};

async fn filled_services() -> Services {
    let services = Services::start();
    let options = MongoOptions {
        url: services.mongo_url.clone(),
        database: "mcp".into(),
        secrets: "secrets".into(),
    };
    let store = MongoStore::connect(options).await.expect("a store");
    fill(&store, OLD, ALL).await;
    services
}

/// Sets secrets and calls a tool without a pause until `stop` is set. Returns the number of requests.
fn load(app: &App, user: usize, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u64> {
    let http = app.http.clone();
    let urls: Vec<_> = app
        .processes
        .iter()
        .map(|process| process.url.clone())
        .collect();
    let urls = [urls[0].clone(), urls[urls.len() - 1].clone()];
    tokio::spawn(async move {
        let mut requests = 0;
        while !stop.load(Ordering::Relaxed) {
            let url = &urls[requests as usize % 2];
            let secret = json!({
                "username": format!("u{user}"), "serverName": "fixture",
                "secretName": "token", "secretValue": requests.to_string(),
            });
            let set = http.post(format!("{url}/secrets/set")).json(&secret);
            answer(set).await.ok();
            let call = json!({
                "username": format!("u{user}"), "serverName": "fixture",
                "methodName": "arguments", "args": {},
            });
            let called = http.post(format!("{url}/mcp/tool/call")).json(&call);
            let called = answer(called).await.ok();
            let expected = format!("\\\"token\\\": \\\"{requests}\\\"");
            assert!(
                called.to_string().contains(&expected),
                "{called} lacks {expected}"
            );
            requests += 1;
        }
        requests
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn facades_and_workers_run_during_a_compaction() {
    let services = tokio::task::spawn_blocking(|| {
        tokio::runtime::Handle::current().block_on(filled_services())
    });
    let services = services.await.expect("services");
    let dir = TempDir::new().expect("a folder");
    let mut app = App::start_in(dir, Some(services), 2, &[]);
    app.add("api");
    app.until("/readyz", |body| body["success"] == true).await;
    app.register_fixture("fixture").await.ok();
    let state = servers(&app, Some(ALL)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..4).map(|user| load(&app, user, stop.clone())).collect();

    // Both facades ask at the same time, and one compaction runs.
    let first = begin(&app).await;
    let facade = app.processes.last().map(|process| process.url.clone());
    let own = std::mem::replace(&mut app.url, facade.expect("a facade"));
    let second = begin(&app).await;
    let path = format!("/jobs/{first}?username=mcp-api&wait=10s");
    let ended = app
        .until(&path, |body| body["job"]["answer"].is_object())
        .await;
    assert_eq!(ended["job"]["state"], "succeeded", "{ended}");
    assert_eq!(ended["job"]["answer"]["body"]["oldest"], OLD + 1, "{ended}");
    compact_with_client(&app);
    stop.store(true, Ordering::Relaxed);
    for load in join_all(loads).await {
        assert!(load.expect("no request failed") > 0);
    }
    println!("first {first}, second {second}");

    is_truncated(&app, OLD + 1).await;
    app.url = own;
    is_truncated(&app, OLD + 1).await;
    assert!(
        servers(&app, Some(ALL)).await == state,
        "the state has changed"
    );
    let events = events_after(&app, &format!("{OLD}.1")).await;
    assert!(events.len() as u64 > ALL - OLD);
    assert_eq!(archives(&app.data()).len(), 1);

    // Every process starts again at the beginning of the shortened log.
    app.kill_and_restart();
    app.until("/readyz", |body| body["success"] == true).await;
    is_truncated(&app, OLD + 1).await;
    assert!(
        servers(&app, Some(ALL)).await == state,
        "the state has changed"
    );
}
