//! Tests that this program reads the data of an earlier program, answers as that program did, and continues with the
//! data. `fixtures/old_data/README.md` says how the data were made, and which values the tests do not compare.

mod answers;
mod environment;

use std::fs;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, App, answer};
use crate::process::{Services, command};
use crate::remote::script::Script;
use crate::wait::wait_for;

use answers::{check_answers, check_events, masked};
use environment::{Surroundings, load_dump, unpack};

const SECRETS_KEY: &str = "the passphrase of the old data";

/// 2100-01-01, the expiry of answers and keys in the data. Jobs that end in this test expire earlier.
const FAR: u64 = 4_102_444_800_000;

const ZOE: &str = "zoë@example.com";

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it/fixtures/old_data")
        .join(name)
}

fn saved(name: &str) -> Vec<Value> {
    let file = File::open(fixture("expected").join(name)).expect("a fixture");
    serde_json::from_reader(BufReader::new(file)).expect("JSON")
}

/// Returns the arguments that the tool received.
async fn arguments(app: &App, user: &str, server: &str) -> Value {
    let answer = app.call(user, server, "arguments", json!({})).await.ok();
    serde_json::from_str(answer["data"]["content"].as_str().expect("a text")).expect("JSON")
}

/// Checks that the program opens the sealed values: secrets, Google tokens, headers and access tokens.
async fn check_sealed_values(app: &App, script: &Script) {
    let ana = json!({ "token": "the secret of ana", "second": "another secret of ana" });
    assert_eq!(arguments(app, "ana", "notes").await, ana);
    assert_eq!(
        arguments(app, ZOE, "notes").await,
        json!({ "token": "the secret of zoë" })
    );
    assert_eq!(arguments(app, "ben", "notes").await, json!({}));
    let google = json!({ "userCredentials": { "access_token": "google-access-of-code-of-zoe" } });
    assert_eq!(arguments(app, ZOE, "calendar").await, google);
    let keys = app.get("/keys").await.ok();
    assert_eq!(
        (&keys["unreadable"], &keys["earlier"]),
        (&json!(0), &json!(0)),
        "{keys}"
    );

    for (user, token) in [
        ("default", "Bearer access-of-all"),
        ("ana", "Bearer refreshed-of-ana"),
    ] {
        app.call(user, "remote", "echo", json!({})).await.ok();
        let call = script
            .seen()
            .into_iter()
            .rfind(|seen| seen.about() == "tools/call")
            .expect("a call");
        let sent = ["authorization", "x-api-key", "x-team"]
            .map(|name| call.header(name).map(str::to_owned));
        assert_eq!(
            sent,
            [token, "the sealed header", "blue"].map(|value| Some(value.to_owned()))
        );
    }
    app.call(ZOE, "remote", "echo", json!({}))
        .await
        .fails(401, "reauth_required");
}

/// Checks that the program resumed the stored session of the server behind a URL.
async fn check_session(script: &Script) {
    let answers = saved("answers.json");
    let remote = answers
        .iter()
        .find(|answer| answer["path"] == "/mcp/servers/remote")
        .expect("a server");
    let session = remote["body"]["server"]["sessionId"]
        .as_str()
        .expect("a session");
    // A worker starts the server only after it has heard the other workers.
    let first = wait_for("the server gets a request for its tools", async || {
        let mut seen = script.seen().into_iter();
        seen.find(|seen| seen.about() == "tools/list")
    })
    .await;
    assert_eq!(first.header("mcp-session-id"), Some(session), "{first:?}");
    assert_eq!(script.times("initialize"), 0);
}

/// Checks that repeated requests with an `Idempotency-Key` get their stored answers and change nothing.
async fn repeat_requests(app: &App) {
    let before = count_executions(app).await;
    for repeat in saved("repeats.json") {
        let send = async |body: &str| -> Answer {
            let text = |field: &str| repeat[field].as_str().expect("a text");
            let method: Method = text("method").parse().expect("a method");
            let mut request = app
                .http
                .request(method, format!("{}{}", app.url, text("path")));
            for (name, value) in repeat["headers"].as_object().expect("headers") {
                request = request.header(name, value.as_str().expect("a text"));
            }
            answer(request.body(body.to_owned())).await
        };
        let body = repeat["body"].as_str().expect("a text");
        let again = send(body).await;
        assert_eq!(json!(again.status), repeat["status"], "{}", again.body);
        assert_eq!(
            masked(again.body),
            masked(repeat["answer"].clone()),
            "{repeat}"
        );
        send(&format!("{body} ")).await.fails(409, "conflict");
    }
    assert_eq!(
        count_executions(app).await,
        before,
        "a repeat has changed something"
    );
}

/// Returns how many servers and secrets were stored, and how many jobs user `ana` has.
async fn count_executions(app: &App) -> (usize, usize) {
    let events = app.happened().await;
    let changes = events
        .iter()
        .filter(|line| line.starts_with("server.registered") || line.starts_with("secret.set"));
    let jobs = app.get("/jobs?username=ana").await.ok();
    (
        changes.count(),
        jobs["jobs"].as_array().expect("jobs").len(),
    )
}

/// Changes and removes stored data.
async fn change_data(app: &App) {
    app.set_secret("ana", "notes", "token", "a new value").await;
    app.set_secret(ZOE, "notes", "third", "another value").await;
    let gone = json!({ "username": "ana", "serverName": "notes", "secretName": "second" });
    app.post("/secrets/delete", gone).await.ok();
    app.register_fixture("fresh").await.ok();
    assert_eq!(
        app.text("fresh", "echo", json!({ "message": "hi" })).await,
        "hi"
    );
    app.put("/mcp/servers/notes", json!({ "toolTimeout": 20_000 }))
        .await
        .ok();
    app.delete("/mcp/servers/off").await.ok();
    app.put("/mcp/servers/each/disable", json!({})).await.ok();
    app.delete("/packages/packed").await.ok();
    let listed = app.get("/dead").await.ok();
    let id = listed["letters"][0]["letter"].as_str().expect("an id");
    let dead_letter = format!("/dead/{id}");
    // The program opens the dead letter and still cannot parse the message.
    app.post(&format!("{dead_letter}/retry"), json!({}))
        .await
        .fails(400, "invalid_request");
    app.delete(&dead_letter).await.ok();
    check_changes(app).await;
}

/// Checks the changes of [`change_data`].
async fn check_changes(app: &App) {
    app.until("/readyz", |body| body["success"] == true).await;
    app.until("/mcp/servers/notes", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    assert_eq!(
        arguments(app, "ana", "notes").await,
        json!({ "token": "a new value" })
    );
    let zoe = json!({ "token": "the secret of zoë", "third": "another value" });
    assert_eq!(arguments(app, ZOE, "notes").await, zoe);
    assert_eq!(app.get("/dead").await.ok()["letters"], json!([]));
    assert_eq!(app.get("/packages").await.ok()["packages"], json!([]));
    assert_eq!(app.server("notes").await["toolTimeout"], 20_000);
    app.get("/mcp/servers/off")
        .await
        .fails(404, "server_not_found");
    app.until("/mcp/servers/fresh", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    check_events(app).await;
}

async fn check_program(app: &App, script: &Script) {
    app.until("/readyz", |body| body["success"] == true).await;
    check_answers(app).await;
    check_events(app).await;
    check_session(script).await;
    check_sealed_values(app, script).await;
    repeat_requests(app).await;
    change_data(app).await;
}

#[tokio::test]
async fn a_data_folder_of_an_earlier_program_stays_usable() {
    let surroundings = Surroundings::start().await;
    let mut app = App::start_in(unpack(), None, 0, &surroundings.env());
    check_program(&app, &surroundings.script).await;
    app.terminate();
    app.restart();
    check_changes(&app).await;

    let folder = app.dir.path().to_owned();
    let run = |args: &[&str]| {
        let output = command(&folder, &surroundings.env)
            .args(args)
            .output()
            .expect("run");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    run(&["backup", "copy"]);
    app.terminate();
    for ending in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(app.data().join(format!("mcp-api.sqlite{ending}")));
    }
    let said = run(&["restore", "copy"]);
    assert!(!said.contains("does not open"), "{said}");
    app.restart();
    check_changes(&app).await;
}

#[tokio::test]
async fn a_database_of_an_earlier_program_stays_usable() {
    let surroundings = Surroundings::start().await;
    let dir = unpack();
    let services = Services::start();
    load_dump(&dir.path().join("mongo"), &services.mongo_url).await;
    let mut app = App::start_in(dir, Some(services), 1, &surroundings.env());
    check_program(&app, &surroundings.script).await;
    app.terminate();
    app.restart();
    check_changes(&app).await;
}
