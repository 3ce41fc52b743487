//! The event `server.described`: a server describes itself when a connection opens, and a change is recorded once.

use serde_json::{Value, json};

use crate::harness::App;
use crate::remote::{Kind, Real, connected};

/// Returns the data of all descriptions that the log records.
async fn descriptions(app: &App) -> Vec<Value> {
    let events = app.get("/events?limit=1000").await.ok();
    let events = events["events"].as_array().expect("events").iter();
    events
        .filter(|event| event["type"] == "server.described")
        .map(|event| event["data"].clone())
        .collect()
}

fn with_instructions(text: &str) -> Value {
    json!({ "env": { "FIXTURE_INSTRUCTIONS": text } })
}

#[tokio::test]
async fn a_description_is_recorded_once_and_again_after_a_change() {
    let mut app = App::start();
    app.register("fixture", with_instructions("Read first"))
        .await
        .ok();
    let recorded = descriptions(&app).await;
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    let mut expected = json!({
        "name": "fixture",
        "capabilities": { "tools": { "listChanged": true } },
        "serverInfo": { "name": "fixture", "version": "1" },
        "instructions": "Read first",
        "protocolVersion": "2025-11-25",
    });
    for hidden in ["server", "digest"] {
        expected[hidden] = recorded[0][hidden].clone();
    }
    assert_eq!(recorded[0], expected);
    app.kill_and_restart();
    app.text("fixture", "echo", json!({ "message": "again" }))
        .await;
    assert_eq!(
        descriptions(&app).await.len(),
        1,
        "a restart changes nothing"
    );
    app.put("/mcp/servers/fixture", with_instructions("Write last"))
        .await
        .ok();
    let recorded = descriptions(&app).await;
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert_eq!(recorded[1]["instructions"], "Write last");
}

#[tokio::test]
async fn a_server_behind_a_url_describes_itself_in_every_protocol() {
    let mut app = App::start();
    let kinds = [
        (Kind::Python, "2026-07-28"),
        (Kind::Everything("streamableHttp", "/mcp"), "2025-11-25"),
        (Kind::Everything("sse", "/sse"), "2025-11-25"),
    ];
    let mut servers = Vec::new();
    for (number, (kind, version)) in kinds.into_iter().enumerate() {
        let server = Real::start(kind).await;
        connected(&app, &format!("s{number}"), &server.url()).await;
        servers.push(server);
        let recorded = descriptions(&app).await;
        assert_eq!(recorded.len(), number + 1, "{recorded:?}");
        let last = &recorded[number];
        assert_eq!(last["protocolVersion"], version, "{last}");
        assert!(last["serverInfo"]["name"].is_string(), "{last}");
        assert!(last["capabilities"]["tools"].is_object(), "{last}");
    }
    app.kill_and_restart();
    for number in 0..servers.len() {
        let called = app
            .call(
                "ana",
                &format!("s{number}"),
                "echo",
                json!({ "message": "again" }),
            )
            .await;
        called.ok();
    }
    let recorded = descriptions(&app).await;
    assert_eq!(
        recorded.len(),
        servers.len(),
        "a restart changes nothing: {recorded:?}"
    );
}
