//! The number of processes of users is bounded, and unused processes end.

use serde_json::json;

use super::{pid_for, register, until_ended};
use crate::harness::App;
use crate::processes::{idle, is_alive, under_way};
use crate::wait::wait_until;

async fn app_with_users(env: &[(&str, &str)], users: &[&str]) -> App {
    let app = App::start_with(env);
    register(
        &app,
        json!([{ "name": "KEY", "in": "env", "required": true }]),
    )
    .await;
    for user in users {
        app.set_secret(user, "fixture", "KEY", &format!("key-of-{user}"))
            .await;
    }
    app
}

#[tokio::test]
async fn the_process_that_was_idle_for_longest_makes_room() {
    let app = app_with_users(&[("MAX_USER_PROCESSES", "2")], &["ana", "ben", "eve"]).await;
    let ana = pid_for(&app, "ana").await;
    let ben = pid_for(&app, "ben").await;
    assert_eq!(pid_for(&app, "ana").await, ana);
    pid_for(&app, "eve").await;
    until_ended(ben).await;
    assert!(is_alive(ana));
}

#[tokio::test]
async fn a_call_is_refused_while_all_processes_are_busy() {
    let app = app_with_users(&[("MAX_USER_PROCESSES", "1")], &["ana", "ben"]).await;
    let pid = pid_for(&app, "ana").await;
    idle(pid).await;
    let slow = app.call("ana", "fixture", "sleep", json!({ "ms": 3000 }));
    let (slow, ()) = tokio::join!(slow, async {
        under_way(pid, 1).await;
        let answer = app.call("ben", "fixture", "echo", json!({})).await;
        assert_eq!(answer.headers["retry-after"], "1");
        let sentence = answer.fails(503, "unavailable");
        assert!(sentence.contains("MAX_USER_PROCESSES"), "{sentence}");
    });
    slow.ok();
    pid_for(&app, "ben").await;
    until_ended(pid).await;
}

#[tokio::test]
async fn an_unused_process_ends() {
    let app = app_with_users(&[("USER_PROCESS_IDLE", "1s")], &["ana"]).await;
    let pid = pid_for(&app, "ana").await;
    until_ended(pid).await;
    pid_for(&app, "ana").await;
}

#[tokio::test]
async fn a_call_waits_for_the_process_of_a_server_that_is_being_deleted() {
    let app = App::start_with(&[("MAX_USER_PROCESSES", "1")]);
    let diary = app.dir.path().join("diary");
    for name in ["fixture", "other"] {
        let server = json!({
            "credentials": [{ "name": "KEY", "in": "env", "required": true }],
            "env": { "FIXTURE_STOP": "never", "FIXTURE_DIARY": diary },
        });
        app.register(name, server).await.ok();
        app.set_secret("ana", name, "KEY", "key-of-ana").await;
    }
    pid_for(&app, "ana").await;
    let (deleted, called) = tokio::join!(app.delete("/mcp/servers/fixture"), async {
        wait_until("the process has to end", async || diary.exists()).await;
        app.call("ana", "other", "echo", json!({ "message": "hi" }))
            .await
    });
    deleted.ok();
    called.ok();
}
