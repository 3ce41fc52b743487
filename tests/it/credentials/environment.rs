//! Credentials in the environment: one process for each user.

use serde_json::{Value, json};

use super::{delete_secret, pid_for, register, text_of, until_ended, variable};
use crate::harness::App;
use crate::processes::{is_alive, left_of, under_way};
use crate::wait::wait_until;

fn required() -> Value {
    json!([{ "name": "KEY", "in": "env", "as": "API_KEY", "required": true }])
}

#[tokio::test]
async fn each_user_has_a_process_with_the_own_value() {
    let app = App::start();
    let server = register(&app, required()).await;
    assert_eq!(server["status"], "disconnected");
    assert_eq!(server["needsCredentials"], json!(["KEY"]));
    app.set_secret("ana", "fixture", "KEY", "key-of-ana").await;
    app.set_secret("ben", "fixture", "KEY", "key-of-ben").await;
    assert_eq!(variable(&app, "ana", "API_KEY").await, "key-of-ana");
    assert_eq!(variable(&app, "ben", "API_KEY").await, "key-of-ben");
    assert_eq!(variable(&app, "ana", "KEY").await, Value::Null);
    let (of_ana, of_ben) = (pid_for(&app, "ana").await, pid_for(&app, "ben").await);
    assert!(of_ana != of_ben);
    assert_eq!(pid_for(&app, "ana").await, of_ana, "the process stays");
}

#[tokio::test]
async fn a_call_without_a_required_value_starts_nothing() {
    let app = App::start();
    register(&app, required()).await;
    app.set_secret("ana", "fixture", "KEY", "key-of-ana").await;
    let answer = app.call("ben", "fixture", "echo", json!({})).await;
    assert_eq!(answer.body["missing"], json!(["KEY"]));
    let sentence = answer.fails(401, "credential_required");
    assert!(
        sentence.contains("KEY") && sentence.contains("ben"),
        "{sentence}"
    );
    let started = left_of(app.dir.path());
    let started: Vec<_> = started
        .iter()
        .filter(|(_, line)| line.contains("server.py"))
        .collect();
    assert!(started.is_empty(), "{started:?}");
}

#[tokio::test]
async fn the_first_call_of_a_user_lists_the_tools_for_all() {
    let app = App::start();
    register(&app, required()).await;
    assert_eq!(app.server("fixture").await["toolsList"], json!([]));
    app.set_secret("ana", "fixture", "KEY", "key-of-ana").await;
    pid_for(&app, "ana").await;
    wait_until("the tools are listed", async || {
        let tools = app.server("fixture").await["toolsList"].take();
        tools.as_array().is_some_and(|tools| !tools.is_empty())
    })
    .await;
    assert_eq!(app.server("fixture").await["status"], "disconnected");
}

#[tokio::test]
async fn an_optional_value_does_not_keep_the_tools_from_being_listed() {
    let app = App::start();
    let credentials = json!([
        { "name": "KEY", "in": "env" }, { "name": "ORG", "in": "env", "owner": "shared" },
    ]);
    let server = register(&app, credentials).await;
    assert!(server["needsCredentials"].is_null(), "{server}");
    let tools = server["toolsList"].as_array();
    assert!(tools.is_some_and(|tools| !tools.is_empty()), "{server}");
    wait_until("the process that listed the tools has ended", async || {
        !left_of(app.dir.path())
            .iter()
            .any(|(_, line)| line.contains("server.py"))
    })
    .await;
    assert_eq!(variable(&app, "ana", "KEY").await, Value::Null);
    app.set_secret("ana", "fixture", "KEY", "key-of-ana").await;
    assert_eq!(variable(&app, "ana", "KEY").await, "key-of-ana");
}

#[tokio::test]
async fn a_new_value_replaces_the_process_and_a_deleted_value_ends_it() {
    let app = App::start();
    register(&app, required()).await;
    app.set_secret("ana", "fixture", "KEY", "first").await;
    let first = pid_for(&app, "ana").await;
    app.set_secret("ana", "fixture", "KEY", "second").await;
    assert_eq!(variable(&app, "ana", "API_KEY").await, "second");
    until_ended(first).await;
    let second = pid_for(&app, "ana").await;
    // No call follows, and the process ends all the same.
    delete_secret(&app, "ana", "KEY").await;
    until_ended(second).await;
    let answer = app.call("ana", "fixture", "echo", json!({})).await;
    answer.fails(401, "credential_required");
}

#[tokio::test]
async fn a_running_call_outlives_the_value_of_its_process() {
    let app = App::start();
    register(&app, required()).await;
    app.set_secret("ana", "fixture", "KEY", "first").await;
    let pid = pid_for(&app, "ana").await;
    crate::processes::idle(pid).await;
    let slow = app.call("ana", "fixture", "sleep", json!({ "ms": 2500 }));
    let (slow, ()) = tokio::join!(slow, async {
        under_way(pid, 1).await;
        app.set_secret("ana", "fixture", "KEY", "second").await;
        assert_eq!(variable(&app, "ana", "API_KEY").await, "second");
        assert!(is_alive(pid), "the call still runs");
    });
    assert_eq!(text_of(slow), "slept 2500");
    until_ended(pid).await;
}

#[tokio::test]
async fn a_shared_value_is_in_the_process_of_every_user() {
    let app = App::start();
    let credentials = json!([
        { "name": "ORG", "in": "env", "owner": "shared", "required": true }, { "name": "KEY", "in": "env" },
    ]);
    let server = register(&app, credentials).await;
    assert_eq!(server["needsCredentials"], json!(["ORG"]));
    let answer = app.call("ana", "fixture", "echo", json!({})).await;
    assert!(answer.body.get("connectUrl").is_none(), "{}", answer.body);
    assert!(
        answer
            .fails(401, "credential_required")
            .contains("administrator")
    );
    let shared = json!({ "serverName": "fixture", "secretName": "ORG", "secretValue": "acme", "shared": true });
    app.post("/secrets/set", shared).await.ok();
    app.set_secret("ben", "fixture", "KEY", "key-of-ben").await;
    for user in ["ana", "ben"] {
        assert_eq!(variable(&app, user, "ORG").await, "acme");
    }
    assert_eq!(variable(&app, "ana", "KEY").await, Value::Null);
    assert_eq!(variable(&app, "ben", "KEY").await, "key-of-ben");
}

#[tokio::test]
async fn only_shared_values_need_no_process_for_each_user() {
    let app = App::start();
    let credentials = json!([{ "name": "ORG", "in": "env", "owner": "shared", "required": true }]);
    register(&app, credentials).await;
    let set = async |value: &str| {
        let body = json!({ "serverName": "fixture", "secretName": "ORG", "secretValue": value, "shared": true });
        app.post("/secrets/set", body).await.ok();
    };
    set("acme").await;
    let pid = pid_for(&app, "ana").await;
    assert_eq!(pid_for(&app, "ben").await, pid);
    assert_eq!(variable(&app, "ana", "ORG").await, "acme");
    assert_eq!(app.server("fixture").await["status"], "connected");
    set("other").await;
    wait_until("the new value is in the process", async || {
        variable(&app, "ana", "ORG").await == "other"
    })
    .await;
    until_ended(pid).await;
}

#[tokio::test]
async fn a_value_in_the_lines_of_a_process_is_masked() {
    let app = App::start();
    register(&app, required()).await;
    app.set_secret("ana", "fixture", "KEY", "s3cret-of-ana")
        .await;
    let line = json!({ "text": "my key is s3cret-of-ana" });
    text_of(app.call("ana", "fixture", "stderr", line).await);
    wait_until("the line is there", async || {
        app.server("fixture").await["logs"]
            .to_string()
            .contains("my key is ***")
    })
    .await;
    let server = app.server("fixture").await.to_string();
    assert!(!server.contains("s3cret"), "{server}");
}

#[tokio::test]
async fn a_process_that_does_not_start_tells_its_user_why() {
    let app = App::start();
    let body = json!({
        "name": "fixture", "command": "sh",
        "args": ["-c", "echo \"the key $KEY is no good\" >&2; exit 3"],
        "credentials": [{ "name": "KEY", "in": "env", "required": true }],
    });
    app.post("/mcp/servers", body).await.ok();
    app.set_secret("ana", "fixture", "KEY", "s3cret-of-ana")
        .await;
    let answer = app.call("ana", "fixture", "echo", json!({})).await;
    assert_eq!(answer.body["details"], "the key *** is no good");
    assert!(answer.fails(502, "upstream_error").contains("code 3"));
}

#[tokio::test]
async fn a_crashed_process_starts_again_for_its_user() {
    let app = App::start();
    register(&app, required()).await;
    app.set_secret("ana", "fixture", "KEY", "key-of-ana").await;
    app.set_secret("ben", "fixture", "KEY", "key-of-ben").await;
    let (of_ana, of_ben) = (pid_for(&app, "ana").await, pid_for(&app, "ben").await);
    crate::processes::signal(of_ana, "KILL");
    until_ended(of_ana).await;
    wait_until("the process of ana is another one", async || {
        let answer = app.call("ana", "fixture", "pid", json!({})).await;
        answer.body["success"] == true && text_of(answer) != of_ana.to_string()
    })
    .await;
    assert_eq!(pid_for(&app, "ben").await, of_ben);
}
