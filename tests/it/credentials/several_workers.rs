//! Processes of users over several workers: one owner for each server, another owner after a death, and a drain.

use std::collections::HashSet;

use serde_json::json;

use super::{pid_for, register, until_ended, variable};
use crate::cluster::worker_of;
use crate::harness::App;
use crate::wait::wait_for;

const USERS: [&str; 3] = ["ana", "ben", "eve"];

async fn three_workers() -> App {
    let app = App::distributed(3, &[]);
    register(
        &app,
        json!([{ "name": "KEY", "in": "env", "required": true }]),
    )
    .await;
    for user in USERS {
        app.set_secret(user, "fixture", "KEY", &format!("key-of-{user}"))
            .await;
    }
    app
}

#[tokio::test]
async fn the_users_of_a_killed_worker_are_served_by_another_one() {
    let mut app = three_workers().await;
    let mut pids = Vec::new();
    let mut workers = HashSet::new();
    for user in USERS {
        let pid = pid_for(&app, user).await;
        workers.insert(worker_of(&app, pid));
        pids.push(pid);
    }
    assert_eq!(
        workers.len(),
        1,
        "the lease of the server covers all its users"
    );
    let owner = workers.into_iter().next().expect("an owner");
    app.processes[owner].kill();
    for pid in pids {
        until_ended(pid).await;
    }
    for user in USERS {
        let answer = wait_for("another worker serves the user", async || {
            let answer = app.call(user, "fixture", "pid", json!({})).await;
            (answer.body["success"] == true).then_some(answer)
        })
        .await;
        answer.ok();
        assert_eq!(variable(&app, user, "KEY").await, format!("key-of-{user}"));
    }
    let pid = pid_for(&app, "ana").await;
    assert!(worker_of(&app, pid) != owner);
}

#[tokio::test]
async fn a_worker_that_drains_hands_its_users_over_without_a_failed_call() {
    let mut app = three_workers().await;
    let pid = pid_for(&app, "ana").await;
    let owner = worker_of(&app, pid);
    let draining = app.processes[owner].pid();
    crate::processes::signal(draining, "TERM");
    until_ended(pid).await;
    assert_eq!(variable(&app, "ana", "KEY").await, "key-of-ana");
    let moved = pid_for(&app, "ana").await;
    assert!(worker_of(&app, moved) != owner);
    let status = app.processes[owner].wait();
    assert!(status.success(), "{status}");
}
