//! Starts of the program on the data of an earlier process.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{App, fixture};
use crate::processes::{is_alive, parent_of};
use crate::wait::wait_until;

#[tokio::test]
async fn servers_and_their_tools_are_restored() {
    let mut app = App::embedded();
    let script = app.dir.path().join("server.py");
    fs::copy(fixture("server.py"), &script).expect("copied");
    app.register(
        "fixture",
        json!({ "args": ["-u", script], "toolTimeout": 5000 }),
    )
    .await
    .ok();
    app.register("off", json!({ "enabled": false })).await.ok();
    let (tools, mut shown) = (
        app.get("/mcp/tools").await.ok(),
        app.server("fixture").await,
    );

    // From here on the server never answers, so the list shows the recorded tools.
    fs::write(&script, "import sys\nsys.stdin.read()\n").expect("written");
    app.kill_and_restart();
    assert_eq!(
        app.get("/mcp/tools").await.ok()["tools"],
        tools["tools"],
        "listed while nothing is connected"
    );
    let cold = app.server("fixture").await;
    assert_eq!(
        (&cold["status"], &cold["toolsList"]),
        (&json!("connecting"), &shown["toolsList"])
    );
    assert_eq!(app.server("off").await["status"], "disconnected");

    fs::copy(fixture("server.py"), &script).expect("copied");
    app.kill_and_restart();
    app.until("/mcp/servers/fixture", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    let mut back = app.server("fixture").await;
    (shown["logs"], back["logs"]) = (Value::Null, Value::Null);
    assert_eq!(back, shown);
    assert_eq!(
        app.text("fixture", "echo", json!({ "message": "back" }))
            .await,
        "back"
    );
}

#[tokio::test]
async fn a_broken_and_a_hanging_server_delay_no_other_server() {
    let mut app = App::embedded();
    let hanging = json!({ "env": { "FIXTURE_START": "silent" }, "enabled": false });
    app.register("hanging", hanging).await.ok();
    app.register("broken", json!({ "command": "there-is-no-such-program" }))
        .await
        .ok();
    app.register_fixture("good").await.ok();
    // Each client disconnects before the server is enabled. On a busy machine, a client may even leave before its request
    // is sent, so clients come until a request has arrived.
    wait_until("a client that left has enabled the server", async || {
        let enable = app
            .http
            .put(format!("{}/mcp/servers/hanging/enable", app.url))
            .send();
        let _ = tokio::time::timeout(Duration::from_millis(5), enable).await;
        app.server("hanging").await["enabled"] == true
    })
    .await;

    app.kill();
    let began = Instant::now();
    app.restart();
    let open = began.elapsed();
    assert_eq!(
        app.text("good", "echo", json!({ "message": "here" })).await,
        "here"
    );
    let answered = began.elapsed();
    assert!(
        open < Duration::from_secs(25) && answered < Duration::from_secs(50),
        "{open:?} {answered:?}"
    );
    assert_eq!(app.server("hanging").await["status"], "connecting");
    app.until("/mcp/servers/broken", |body| {
        body["server"]["status"] == "error"
    })
    .await;
    // A call to the hanging server fails within the time limit of the call.
    let body =
        json!({ "serverName": "hanging", "methodName": "echo", "args": {}, "timeoutMs": 200 });
    let error = app.post("/mcp/tool/call", body).await.fails(504, "timeout");
    assert!(
        error.contains("hanging") && error.contains("200 ms"),
        "{error}"
    );
}

#[tokio::test]
async fn a_start_may_take_longer_than_a_lease() {
    let app = App::start_with(&[("LEASE_TTL", "1s")]);
    let slow = json!({ "env": { "FIXTURE_START": "slow", "FIXTURE_DELAY": "3" } });
    let server = app.register("slow", slow).await.ok();
    assert_eq!(server["server"]["status"], "connected", "{server}");
}

#[tokio::test]
async fn a_kill_right_after_an_answer_loses_nothing() {
    let mut app = App::start();
    for round in 0..5 {
        let name = format!("server-{round}");
        app.register(&name, json!({ "enabled": false })).await.ok();
        app.kill_and_restart();
        assert_eq!(app.server(&name).await["enabled"], false);
    }
    app.delete("/mcp/servers/server-0").await.ok();
    app.kill_and_restart();
    app.get("/mcp/servers/server-0")
        .await
        .fails(404, "server_not_found");
}

#[tokio::test]
async fn the_children_of_a_killed_program_end_before_the_next_process_starts_them() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let guard = parent_of(pid);
    assert_eq!(parent_of(guard), app.pid());
    app.kill_and_restart();
    wait_until("the old server and its guard ended", async || {
        !is_alive(pid) && !is_alive(guard)
    })
    .await;
    assert_ne!(app.pid_of("fixture").await, pid);
}

#[tokio::test]
async fn calls_to_a_broken_server_fail_at_once_while_it_restarts() {
    let app = App::start();
    let silent = json!({ "env": { "FIXTURE_START": "silent" }, "startupTimeout": 8000 });
    let answer = app.register("silent", silent).await.ok();
    assert_eq!(answer["server"]["status"], "error");
    // Several starts and the pauses between them fall into this time.
    let began = Instant::now();
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(12) {
        let asked = Instant::now();
        app.call("ana", "silent", "echo", json!({}))
            .await
            .fails(502, "upstream_error");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "a call waited for a broken server"
        );
        calls += 1;
    }
    assert!(calls > 3, "{calls} calls");
    // An explicit enable starts the server once more and returns the result of this start.
    let asked = Instant::now();
    let answer = app.put("/mcp/servers/silent/enable", json!({})).await.ok();
    assert_eq!(answer["server"]["status"], "error");
    assert!(
        asked.elapsed() >= Duration::from_secs(8),
        "the answer came before the try had ended"
    );
}
