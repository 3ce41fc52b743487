//! The query of a server's URL: the program seals its values, sends them and never shows them.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use uuid::Uuid;

use super::register;
use super::script::{Script, result_of};
use crate::harness::App;
use mcp_api::adapters::store_mongo::{MongoOptions, MongoStore};
use mcp_api::adapters::store_sqlite::SqliteStore;
use mcp_api::core::event::{Actor, Commit, Entry, StoredEvent};
use mcp_api::core::ids::{CommandId, Position};
use mcp_api::ports::event_log::EventLog;

/// Returns the queries of the requests after the first `seen` ones.
fn queries(script: &Script, seen: usize) -> Vec<String> {
    let requests = script.seen().split_off(seen);
    assert!(!requests.is_empty());
    let queries = requests.into_iter().map(|request| request.query);
    queries.map(Option::unwrap_or_default).collect()
}

/// Checks that all requests after the first `seen` ones have this query.
fn all_have(script: &Script, seen: usize, query: &str) {
    for found in queries(script, seen) {
        assert_eq!(found, query);
    }
}

/// Fails if a place shows one of the values.
async fn shows_none(app: &App, values: &[&str]) {
    let files = std::fs::read_dir(app.data())
        .into_iter()
        .flatten()
        .flatten();
    let files: String = files
        .map(|file| std::fs::read(file.path()).expect("a file"))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect();
    let server = app.get("/mcp/servers/script").await.body.to_string();
    let events = app.get("/events?limit=1000").await.body.to_string();
    for value in values {
        for (place, text) in [
            ("the server", &server),
            ("the events", &events),
            ("the log", &app.log()),
            ("the folder", &files),
        ] {
            assert!(!text.contains(value), "{value} stands in {place}");
        }
    }
}

#[tokio::test]
async fn values_of_the_query_are_sealed_sent_and_never_shown() {
    // The server prints its query in an error, as careless servers do.
    let script = Script::start(|seen| {
        let query = seen.query.clone().unwrap_or_default();
        let is_call = seen.about() == "tools/call";
        is_call.then(|| (StatusCode::BAD_REQUEST, format!("bad: {query}")).into_response())
    })
    .await;
    let mut app = App::start_with(&[("RUST_LOG", "trace")]);
    let query = "v=2&api_key=plant%2Done%2041&config=plant-two-42&empty=&plant-three-43";
    let url = format!("{}?{query}", script.url);
    let server = register(&app, "script", &url, json!({})).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    let shown = format!("{}?v=2&api_key=***&config=***&empty=&***", script.url);
    assert_eq!(server["url"], shown);
    all_have(&script, 0, query);
    let failed = app.call("default", "script", "echo", json!({})).await;
    assert_eq!(failed.status, 502, "{}", failed.body);
    let values = [
        "plant%2Done%2041",
        "plant-one 41",
        "plant-two-42",
        "plant-three-43",
        "plant-four-44",
    ];
    for value in values {
        assert!(!failed.body.to_string().contains(value), "{}", failed.body);
    }

    let (seen, events) = (script.seen().len(), app.happened().await.len());
    app.put("/mcp/servers/script", server.clone()).await.ok();
    assert_eq!(app.happened().await.len(), events, "nothing changed");
    let changed = shown.replace("config=***", "config=plant-four-44&config=***");
    let changed = changed.replace("&***", "");
    app.put("/mcp/servers/script", json!({ "url": changed }))
        .await
        .ok();
    let expected = "v=2&api_key=plant%2Done%2041&config=plant-four-44&config=plant-two-42&empty=";
    let replaced = queries(&script, seen);
    assert_eq!(replaced.last().map(String::as_str), Some(expected));

    app.kill_and_restart();
    app.until("/mcp/servers/script", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    assert_eq!(
        queries(&script, seen).last().map(String::as_str),
        Some(expected)
    );
    shows_none(&app, &values).await;
}

#[tokio::test]
async fn a_hidden_value_needs_a_stored_value_of_the_same_origin() {
    let first = Script::start(|_| None).await;
    let second = Script::start(|_| None).await;
    let app = App::start();
    let error = register(&app, "script", &format!("{}?key=***", first.url), json!({}))
        .await
        .fails(400, "invalid_request");
    assert!(error.contains("replace ***"), "{error}");
    let url = format!("{}?key=the-key-1", first.url);
    register(&app, "script", &url, json!({})).await.ok();
    for (url, reason) in [
        (format!("{}?other=***", first.url), "other"),
        (format!("{}?key=***", second.url), "origin"),
    ] {
        let refused = app.put("/mcp/servers/script", json!({ "url": url })).await;
        let error = refused.fails(400, "invalid_request");
        assert!(error.contains(reason), "{error}");
    }
    assert!(second.seen().is_empty(), "the second server got a request");
    let url = format!("{}?key=the-key-2", second.url);
    app.put("/mcp/servers/script", json!({ "url": url }))
        .await
        .ok();
    all_have(&second, 0, "key=the-key-2");
}

/// A redirect gets no value, because the server names its target.
#[tokio::test]
async fn a_redirect_gets_no_value_that_it_does_not_name() {
    let script = Script::start(|seen| match seen.path.as_str() {
        "/mcp" if seen.about() == "ping" => Some(result_of(seen, json!({}))),
        "/mcp" => Some(
            (
                StatusCode::TEMPORARY_REDIRECT,
                [("location", "/other?key=***")],
            )
                .into_response(),
        ),
        _ => None,
    })
    .await;
    let app = App::start();
    let url = format!("{}?key=the-key-1", script.url);
    register(&app, "script", &url, json!({})).await.ok();
    let seen = script.seen();
    let followed: Vec<_> = seen.iter().filter(|seen| seen.path == "/other").collect();
    assert!(!followed.is_empty());
    for request in followed {
        assert_eq!(request.query.as_deref(), Some("key=***"));
    }
}

/// Appends the registration of an earlier version, which stored the query in plain text.
async fn append_plain_registration(app: &App, url: &str) {
    let log: Box<dyn EventLog> = match &app.services {
        None => {
            let file = app.data().join("mcp-api.sqlite");
            Box::new(SqliteStore::open(&file).expect("a store"))
        }
        Some(services) => {
            let database = services.mongo_url.rsplit_once('/').expect("a database").1;
            let options = MongoOptions {
                url: services.mongo_url.clone(),
                database: database.split('?').next().expect("a name").to_owned(),
                secrets: "secrets".into(),
            };
            Box::new(MongoStore::connect(options).await.expect("a store"))
        }
    };
    let head = log.head().await.expect("a head");
    let config = json!({
        "transportType": "streamable_http", "url": url, "headers": {},
        "reconnectionOptions": { "maxRetries": 2 }, "secretNames": [], "resetTimeoutOnProgress": false,
        "replicas": "one",
    });
    let data =
        json!({ "server": Uuid::now_v7(), "name": "script", "config": config, "enabled": true });
    let event = StoredEvent {
        type_name: "server.registered".into(),
        v: 1,
        subject: "server/script".into(),
        data: serde_json::value::to_raw_value(&data).expect("JSON"),
    };
    let commit = Commit {
        command_id: CommandId(Uuid::now_v7()),
        actor: Actor::default(),
        events: vec![event],
    };
    let entry = Entry {
        position: Position(head.0 + 1),
        at: 1,
        commits: vec![commit],
    };
    log.append(&entry, &[]).await.expect("appended");
}

#[tokio::test]
async fn a_plain_query_of_an_earlier_version_works_and_is_hidden() {
    let script = Script::start(|_| None).await;
    let mut app = App::start();
    app.terminate();
    append_plain_registration(&app, &format!("{}?v=1&api_key=plant-old-45", script.url)).await;
    app.restart();
    let found = app
        .until("/mcp/servers/script", |body| {
            body["server"]["status"] == "connected"
        })
        .await;
    all_have(&script, 0, "v=1&api_key=plant-old-45");
    let shown = format!("{}?v=1&api_key=***", script.url);
    assert_eq!(found["server"]["url"], shown);
    let events = app.get("/events?limit=1000").await.body.to_string();
    assert!(!events.contains("plant-old-45"), "{events}");
    assert!(!app.log().contains("plant-old-45"));

    // The stored value stays, until the user sends it again. Then the program seals it.
    let seen = script.seen().len();
    let url = shown.replace("v=1", "v=2");
    app.put("/mcp/servers/script", json!({ "url": url }))
        .await
        .ok();
    let last = |queries: Vec<String>| queries.last().cloned();
    let expected = "v=2&api_key=plant-old-45".to_owned();
    assert_eq!(last(queries(&script, seen)), Some(expected));
    let seen = script.seen().len();
    let url = shown.replace("***", "plant-new-46");
    let server: Value = app
        .put("/mcp/servers/script", json!({ "url": url }))
        .await
        .ok();
    assert_eq!(server["server"]["url"], shown);
    let expected = "v=1&api_key=plant-new-46".to_owned();
    assert_eq!(last(queries(&script, seen)), Some(expected));
    let events = app.get("/events?limit=1000").await.body.to_string();
    assert!(!events.contains("plant-new-46"), "{events}");
}
