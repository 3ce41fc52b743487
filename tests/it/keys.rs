//! Another key: `mcp-api rotate-keys` while calls go on, interrupted and resumed, in one process and in many.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use mcp_api::core::names::ValueId;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{App, answer, refused};
use crate::process::{binary, owned};
use crate::processes::signal;
use crate::samples::value_id;

const OLD: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// More than the millisecond that the order of ids goes by.
const A_TICK: Duration = Duration::from_millis(2);
const NEW: &str = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeffe0e1e2e3e4e5e6e7e8e9eaebecedeeef";

/// What the tool sees as `token` when this user calls it.
async fn seen(app: &App, user: &str) -> Value {
    let answer = app.call(user, "fixture", "arguments", json!({})).await.ok();
    let args: Value = serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON");
    args["token"].clone()
}

async fn set(app: &App, users: std::ops::Range<usize>) {
    for some in users.collect::<Vec<_>>().chunks(50) {
        let set =
            some.iter().map(async |n| app.set_secret(&format!("u{n}"), "fixture", "token", &format!("s{n}")).await);
        join_all(set).await;
    }
}

/// Every one of these users still has the own secret.
async fn all_seen(app: &App, users: std::ops::Range<usize>) {
    for n in users {
        assert_eq!(seen(app, &format!("u{n}")).await, format!("s{n}"));
    }
}

/// An id after those of all values that are there and before those to come: ids of one millisecond have no order.
async fn between() -> ValueId {
    sleep(A_TICK).await;
    let middle = value_id();
    sleep(A_TICK).await;
    middle
}

async fn rotate(app: &App, query: &str) -> Value {
    app.send(Method::POST, &format!("/keys/rotate{query}"), None).await.ok()
}

async fn keys(app: &App) -> (u64, u64, bool) {
    let keys = app.get("/keys").await.ok();
    assert_eq!(keys["unreadable"], 0, "{keys}");
    (keys["values"].as_u64().expect("values"), keys["earlier"].as_u64().expect("earlier"), keys["alone"] == true)
}

fn run(app: &App) -> Output {
    Command::new(binary()).args(["rotate-keys", "--url", &app.url]).current_dir(app.dir.path()).output().expect("run")
}

/// Calls without a pause until told to stop; every one must see the secret.
fn caller(app: &App, user: &'static str, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<usize> {
    let (http, url) = (app.http.clone(), format!("{}/mcp/tool/call", app.url));
    tokio::spawn(async move {
        let mut calls = 0;
        while !stop.load(Ordering::Relaxed) {
            let call = json!({ "username": user, "serverName": "fixture", "methodName": "arguments", "args": {} });
            let answer = answer(http.post(&url).json(&call)).await.ok();
            assert!(answer["data"]["content"].as_str().expect("a text").contains(&user.replace('u', "s")));
            calls += 1;
        }
        calls
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_new_key_alone_is_enough_afterwards() {
    let mut app = App::embedded_with(&[("SECRETS_KEY", OLD)]);
    app.register_fixture("fixture").await.ok();
    set(&app, 0..120).await;
    let middle = between().await;
    set(&app, 120..200).await;
    assert_eq!(keys(&app).await, (200, 0, true));
    app.terminate();
    assert!(refused(app.dir.path(), &[("SECRETS_KEY", NEW)]).contains("SECRETS_KEYS_OLD"));

    app.restart_with(&[("SECRETS_KEY", NEW), ("SECRETS_KEYS_OLD", OLD)]);
    assert_eq!(keys(&app).await, (200, 200, false));
    // A part of it, and then the process is killed: what was not seen is still under the old key.
    let half = rotate(&app, &format!("?after={}", middle.0)).await;
    assert_eq!((&half["seen"], &half["rewrapped"], &half["finished"]), (&json!(80), &json!(80), &json!(false)));
    app.kill_and_restart();
    assert_eq!(keys(&app).await, (200, 120, false));
    all_seen(&app, 100..140).await;

    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = ["u3", "u150"].into_iter().map(|user| caller(&app, user, stop.clone())).collect();
    // Two at once, and changes beside them.
    let (first, second, ()) = std::thread::scope(|scope| {
        let runs = [scope.spawn(|| run(&app)), scope.spawn(|| run(&app))];
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(set(&app, 200..240)));
        let [first, second] = runs.map(|run| run.join().expect("a run"));
        (first, second, ())
    });
    for Output { status, stdout, stderr } in [first, second] {
        let (said, wrong) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && said.ends_with("SECRETS_KEYS_OLD can be dropped.\n"), "{said}{wrong}");
        assert!(!said.contains(OLD) && !said.contains(NEW));
    }
    stop.store(true, Ordering::Relaxed);
    for caller in join_all(callers).await {
        assert!(caller.expect("every call saw its secret") > 0);
    }
    assert_eq!(keys(&app).await, (240, 0, true));
    assert_eq!(rotate(&app, "").await["finished"], true);

    app.terminate();
    app.restart_with(&[("SECRETS_KEY", NEW)]);
    all_seen(&app, 0..240).await;
    app.terminate();
    assert!(refused(app.dir.path(), &[("SECRETS_KEY", OLD)]).contains("SECRETS_KEY is not the key"));
    let log = app.log();
    assert!(!log.contains(OLD) && !log.contains(NEW));
    app.restart();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_be_killed_anywhere() {
    let mut app = App::embedded_with(&[("SECRETS_KEY", OLD)]);
    app.register_fixture("fixture").await.ok();
    set(&app, 0..200).await;
    app.kill();
    app.restart_with(&[("SECRETS_KEY", NEW), ("SECRETS_KEYS_OLD", OLD)]);
    for after in [0, 1, 3, 7, 15] {
        let part = app.http.post(format!("{}/keys/rotate", app.url));
        let part = tokio::spawn(async move { part.send().await.map(drop) });
        // Not to wait for anything: to be somewhere else each time.
        sleep(Duration::from_millis(after)).await;
        app.kill_and_restart();
        let _ = part.await.expect("an end");
        let (values, earlier, alone) = keys(&app).await;
        assert!(values == 200 && (earlier == 0 || !alone), "{earlier} of {values} are left, and none is missed");
    }
    assert_eq!(rotate(&app, "").await["finished"], true);
    app.kill();
    app.restart_with(&[("SECRETS_KEY", NEW)]);
    all_seen(&app, 0..200).await;
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let app = App::embedded();
    for query in ["?after=x", "?before=1"] {
        app.send(Method::POST, &format!("/keys/rotate{query}"), None).await.fails(400, "invalid_request");
    }
    assert_eq!(rotate(&app, "").await["finished"], true, "nothing is sealed, and nothing is left to do");
    let nowhere = Command::new(binary()).args(["rotate-keys", "--url", "https://127.0.0.1"]).output().expect("run");
    assert!(!nowhere.status.success());
}

/// Keys are rolled out process by process, and nothing that an old one still seals is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_change_their_key_one_by_one() {
    let (old, new) =
        ([("SECRETS_KEY", OLD), ("SECRETS_KEYS_OLD", NEW)], [("SECRETS_KEY", NEW), ("SECRETS_KEYS_OLD", OLD)]);
    let mut app = App::distributed(2, &old);
    app.until("/readyz", |body| body["success"] == true).await;
    app.register_fixture("fixture").await.ok();
    set(&app, 0..60).await;
    let swap = |app: &mut App, n: usize, with: &[(&str, &str)]| {
        let process = &mut app.processes[n];
        signal(process.pid(), "TERM");
        process.wait();
        process.env.retain(|(name, _)| !name.starts_with("SECRETS_KEY"));
        process.env.extend(owned(with));
        let dir = app.dir.path().to_owned();
        app.processes[n].restart(&dir);
    };
    swap(&mut app, 1, &new);
    // Whichever worker is asked: to the one the other seals with another key.
    let part = rotate(&app, "").await;
    assert_eq!((&part["finished"], part["waitsFor"].as_array().map(Vec::len)), (&json!(false), Some(1)), "{part}");
    swap(&mut app, 2, &new);
    let Output { status, stdout, .. } = run(&app);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stdout));
    // The facade still seals with the old key; workers put nothing under it.
    set(&app, 60..80).await;
    assert_eq!(keys(&app).await, (80, 0, true));
    swap(&mut app, 0, &[("SECRETS_KEY", NEW)]);
    app.url = app.processes[0].url.clone();
    for n in [1, 2] {
        swap(&mut app, n, &[("SECRETS_KEY", NEW)]);
    }
    app.until("/readyz", |body| body["success"] == true).await;
    all_seen(&app, 0..80).await;
}
