//! A compaction keeps what requests may still need: idempotency keys, answers of jobs, secrets.

use reqwest::Method;
use serde_json::{Value, json};

use super::{DAY_MS, archives, compact_with_client};
use crate::harness::{Answer, App, answer};

/// Makes all entries of a stopped program 100 days older.
fn make_older(app: &App) {
    let file = app.data().join("mcp-api.sqlite");
    let store = rusqlite::Connection::open(file).expect("a store");
    let age = (100 * DAY_MS) as i64;
    store
        .execute("UPDATE log SET at = at - ?1", [age])
        .expect("updated");
}

async fn with_key(app: &App, path: &str, key: &str, prefer: &str, body: &Value) -> Answer {
    let request = app
        .http
        .request(Method::POST, format!("{}{path}", app.url))
        .header("Idempotency-Key", key)
        .header("Prefer", prefer)
        .json(body);
    answer(request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_answers_and_secrets_survive_a_compaction() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "token", "only-for-ana")
        .await;
    let call =
        json!({ "serverName": "fixture", "methodName": "echo", "args": { "message": "hello" } });
    let accepted = with_key(&app, "/mcp/tool/call", "job-key", "respond-async", &call).await;
    let job = accepted.body["jobId"].as_str().expect("an id").to_owned();
    let path = format!("/jobs/{job}?wait=10s");
    app.until(&path, |body| body["job"]["answer"].is_object())
        .await;
    let server = json!({ "name": "keyed", "command": "true", "enabled": false });
    let first = with_key(&app, "/mcp/servers", "server-key", "", &server)
        .await
        .ok();
    app.register("later", json!({ "enabled": false }))
        .await
        .ok();
    let events = app.happened().await;
    let keyed = events
        .iter()
        .position(|event| event == "server.registered server/keyed");
    let keyed = app.get("/events?limit=1000").await.ok()["events"][keyed.expect("an event")]["id"]
        .as_str()
        .and_then(|id| id.split_once('.')?.0.parse::<u64>().ok())
        .expect("a position");
    app.terminate();
    make_older(&app);
    app.restart();

    compact_with_client(&app);
    assert_eq!(archives(&app.data()).len(), 1);
    // The commit of the key stays, with all later entries.
    let refused = app.get("/events?after=0").await;
    assert_eq!(refused.body["oldest"], keyed);

    for restarts in [false, true] {
        if restarts {
            app.kill_and_restart();
        }
        let again = with_key(&app, "/mcp/servers", "server-key", "", &server)
            .await
            .ok();
        assert_eq!(again["server"]["name"], first["server"]["name"]);
        let other = json!({ "name": "other", "command": "true", "enabled": false });
        with_key(&app, "/mcp/servers", "server-key", "", &other)
            .await
            .fails(409, "conflict");
        let repeated = with_key(&app, "/mcp/tool/call", "job-key", "respond-async", &call).await;
        assert_eq!(repeated.body["jobId"], job);
        let ended = app.get(&path).await.ok();
        assert_eq!(
            ended["job"]["answer"]["body"]["data"]["content"], "hello",
            "{ended}"
        );
        let args = app
            .call("ana", "fixture", "arguments", json!({}))
            .await
            .ok();
        assert!(args.to_string().contains("only-for-ana"), "{args}");
    }
}
