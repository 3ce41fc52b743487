//! Many users of one server: each gets their own value, and only active users have processes.

use std::time::Instant;

use futures::StreamExt;
use serde_json::json;

use super::{register, text_of, variable};
use crate::harness::App;
use crate::processes::left_of;
use crate::wait::wait_until;

const USERS: usize = 200;

fn user(number: usize) -> String {
    format!("user-{number}")
}

async fn set_keys(app: &App, server: &str) {
    let sets = (0..USERS).map(async |number| {
        let user = user(number);
        app.set_secret(&user, server, "KEY", &format!("s3cret-{number}-s3cret"))
            .await;
    });
    futures::stream::iter(sets)
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_users_of_one_program_get_their_own_values() {
    let app = App::start_with(&[("MAX_USER_PROCESSES", "12"), ("USER_PROCESS_IDLE", "3s")]);
    register(
        &app,
        json!([{ "name": "KEY", "in": "env", "required": true }]),
    )
    .await;
    set_keys(&app, "fixture").await;
    let calls = (0..USERS).map(async |number| {
        let value = variable(&app, &user(number), "KEY").await;
        assert_eq!(value, format!("s3cret-{number}-s3cret"));
    });
    futures::stream::iter(calls)
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await;
    for (pid, line) in left_of(app.dir.path()) {
        assert!(!line.contains("s3cret"), "{line}");
        assert_one_value(pid);
    }
    // Five users stay active, and all other processes end.
    wait_until("five processes are left", async || {
        for number in 0..5 {
            variable(&app, &user(number), "KEY").await;
        }
        servers(&app) == 5
    })
    .await;
    let log = app.log();
    assert!(!log.contains("s3cret"), "a value is in the log");
    let events = app.get("/events?limit=1000").await.ok().to_string();
    assert!(!events.contains("s3cret"), "a value is in an event");
}

/// Returns the number of processes of the fixture server.
fn servers(app: &App) -> usize {
    let processes = left_of(app.dir.path()).into_iter();
    processes
        .filter(|(_, line)| line.contains("server.py") && !line.starts_with("mcp-api"))
        .count()
}

/// Asserts that a process has the value of one user at most, and its guard and the program none.
fn assert_one_value(pid: u32) {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return;
    };
    let environment = String::from_utf8_lossy(&environment).into_owned();
    let values = environment.matches("KEY=s3cret").count();
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_server = command.contains("server.py") && !command.starts_with("mcp-api");
    assert!(values <= usize::from(is_server), "{command}: {values}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_users_of_one_url_keep_their_connections_warm() {
    let app = App::start();
    let script = crate::remote::script::Script::start(|_| None).await;
    let body = json!({
        "name": "remote", "transportType": "streamable_http", "url": script.url,
        "credentials": [{ "name": "KEY", "in": "header", "required": true }],
    });
    app.post("/mcp/servers", body).await.ok();
    set_keys(&app, "remote").await;
    let call = async |number: usize| {
        let began = Instant::now();
        text_of(app.call(&user(number), "remote", "echo", json!({})).await);
        began.elapsed()
    };
    for number in 0..USERS {
        call(number).await;
    }
    assert_eq!(script.times("initialize"), USERS);
    for number in 0..USERS {
        call(number).await;
    }
    assert_eq!(script.times("initialize"), USERS, "the connections stay");
}
