//! The value of one user has no effect on other users, and tells them nothing.

use serde_json::{Value, json};

use super::{pid_for, register, text_of, variable};
use crate::harness::{App, fixture, python};
use crate::remote::script::{Script, Seen, result_of};
use crate::wait::wait_until;

/// Calls a tool that repeats a text in its error, and returns the message that the user sees.
async fn repeated(app: &App, user: &str, server: &str, text: &str) -> String {
    let args = json!({ "code": -32000, "message": text });
    let answer = app.call(user, server, "rpc_error", args).await;
    answer.body["mcpError"]["message"]
        .as_str()
        .expect("a message")
        .to_owned()
}

#[tokio::test]
async fn a_user_cannot_guess_the_value_of_another_user() {
    let app = App::start();
    register(
        &app,
        json!([{ "name": "PIN", "in": "env" }, { "name": "ACCOUNT" }]),
    )
    .await;
    for (user, pin, account) in [
        ("ana", "7391", "acme-finance"),
        ("eve", "5555", "a-long-value-of-eve"),
    ] {
        app.set_secret(user, "fixture", "PIN", pin).await;
        app.set_secret(user, "fixture", "ACCOUNT", account).await;
    }
    pid_for(&app, "ana").await;
    let guesses = "5550 5555 7390 7391 acme-sales acme-finance a-long-value-of-eve";
    let expected = "5550 *** 7390 7391 acme-sales acme-finance ***";
    assert_eq!(repeated(&app, "eve", "fixture", guesses).await, expected);
    let expected = "5550 5555 7390 *** acme-sales *** ***";
    assert_eq!(
        repeated(&app, "ana", "fixture", guesses).await,
        expected,
        "a long value of another user stays masked"
    );
}

#[tokio::test]
async fn a_value_that_equals_a_part_of_the_tools_hides_them_for_its_user_only() {
    let app = App::start();
    register(
        &app,
        json!([{ "name": "KEY", "in": "env", "required": true }]),
    )
    .await;
    app.set_secret("eve", "fixture", "KEY", "inputSchema").await;
    app.set_secret("ana", "fixture", "KEY", "key-of-ana").await;
    pid_for(&app, "eve").await;
    assert_eq!(app.server("fixture").await["toolsList"], json!([]));
    pid_for(&app, "ana").await;
    wait_until("the tools are listed", async || {
        let tools = app.server("fixture").await["toolsList"].take();
        tools.as_array().is_some_and(|tools| !tools.is_empty())
    })
    .await;
}

#[tokio::test]
async fn the_list_of_one_user_does_not_replace_the_list_for_all() {
    let app = App::start();
    let script = Script::start(|seen: &Seen| {
        let name = if seen.header("x-key").is_some() {
            "secret_tool"
        } else {
            "public_tool"
        };
        let tool = json!({ "name": name, "inputSchema": { "type": "object" } });
        (seen.about() == "tools/list").then(|| result_of(seen, json!({ "tools": [tool] })))
    })
    .await;
    let body = json!({
        "name": "fixture", "transportType": "streamable_http", "url": script.url,
        "credentials": [{ "name": "x-key", "in": "header" }],
    });
    app.post("/mcp/servers", body).await.ok();
    app.set_secret("ana", "fixture", "x-key", "of-ana").await;
    text_of(app.call("ana", "fixture", "secret_tool", json!({})).await);
    let server = app.server("fixture").await;
    assert_eq!(server["toolsList"][0]["name"], "public_tool");
}

/// Registers a server that takes two seconds to start.
async fn register_slow(app: &App) {
    let start = format!("sleep 2; exec {} -u {}", python(), fixture("server.py"));
    let body = json!({
        "name": "fixture", "command": "sh", "args": ["-c", start],
        "credentials": [{ "name": "KEY", "in": "env", "required": true }],
    });
    app.post("/mcp/servers", body).await.ok();
    app.set_secret("ana", "fixture", "KEY", "first").await;
}

#[tokio::test]
async fn a_start_goes_on_when_its_call_gives_up() {
    let app = App::start();
    register_slow(&app).await;
    let call = json!({
        "username": "ana", "serverName": "fixture", "methodName": "pid", "args": {}, "timeoutMs": 700,
    });
    wait_until("a short call finds the started process", async || {
        let answer = app.post("/mcp/tool/call", call.clone()).await;
        answer.status == 200
    })
    .await;
    let logs = app.server("fixture").await["logs"].to_string();
    assert!(!logs.contains("could not be connected"), "{logs}");
}

#[tokio::test]
async fn a_value_that_changes_during_the_start_is_not_used() {
    let app = App::start();
    register_slow(&app).await;
    let calling = app.call("ana", "fixture", "environment", json!({}));
    let (answer, ()) = tokio::join!(calling, async {
        wait_until("the process starts", async || {
            let left = crate::processes::left_of(app.dir.path());
            left.iter().any(|(_, line)| line.contains("sleep 2"))
        })
        .await;
        app.set_secret("ana", "fixture", "KEY", "second").await;
    });
    let environment: Value = serde_json::from_str(&text_of(answer)).expect("JSON");
    assert_eq!(environment["KEY"], "second");
}

#[tokio::test]
async fn a_server_that_is_disabled_during_a_start_leaves_no_process() {
    let app = App::start();
    register_slow(&app).await;
    let calling = app.call("ana", "fixture", "pid", json!({}));
    let (answer, ()) = tokio::join!(calling, async {
        wait_until("the process starts", async || {
            let left = crate::processes::left_of(app.dir.path());
            left.iter().any(|(_, line)| line.contains("sleep 2"))
        })
        .await;
        app.put("/mcp/servers/fixture/disable", json!({}))
            .await
            .ok();
    });
    answer.fails(409, "server_disabled");
    wait_until("no process is left", async || {
        let left = crate::processes::left_of(app.dir.path());
        !left
            .iter()
            .any(|(_, line)| line.contains("server.py") || line.contains("sleep 2"))
    })
    .await;
}

#[tokio::test]
async fn an_idle_process_makes_room_while_another_one_ends_slowly() {
    let app = App::start_with(&[("MAX_USER_PROCESSES", "2")]);
    register(
        &app,
        json!([{ "name": "KEY", "in": "env", "required": true }]),
    )
    .await;
    for user in ["ana", "ben", "eve"] {
        app.set_secret(user, "fixture", "KEY", &format!("key-of-{user}"))
            .await;
    }
    let of_ana = pid_for(&app, "ana").await;
    pid_for(&app, "ben").await;
    crate::processes::idle(of_ana).await;
    let slow = app.call("ana", "fixture", "sleep", json!({ "ms": 20_000 }));
    let (slow, ()) = tokio::join!(slow, async {
        crate::processes::under_way(of_ana, 1).await;
        app.set_secret("ana", "fixture", "KEY", "another-key").await;
        assert_eq!(variable(&app, "eve", "KEY").await, "key-of-eve");
        assert!(
            crate::processes::is_alive(of_ana),
            "the slow call still runs"
        );
    });
    slow.ok();
}
