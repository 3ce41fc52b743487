//! The fields of servers behind a URL: the program checks them, seals credentials, and accepts its own replies.

use serde_json::json;

use super::register;
use super::script::Script;
use crate::harness::App;

#[tokio::test]
async fn credentials_are_sealed_sent_and_never_shown() {
    let script = Script::start(|_| None).await;
    let mut app = App::start();
    let with_user = script.url.replace("http://", "http://ana:open%20sesame@");
    let headers = json!({
        "Accept-Language": "de",
        "X-Custom": "the-custom-1",
        "x-api-key": "the-key-1",
        "Cookie": "a=the-cookie-1"
    });
    let server = register(&app, "script", &with_user, json!({ "headers": headers }))
        .await
        .ok()["server"]
        .take();
    assert_eq!(server["status"], "connected", "{server}");
    assert_eq!(server["url"], script.url.replace("http://", "http://***@"));
    assert_eq!(
        server["headers"],
        json!({ "Accept-Language": "de", "X-Custom": "***", "x-api-key": "***", "Cookie": "***" })
    );
    let sent = |times: usize| {
        let seen = script.seen().split_off(times);
        assert!(!seen.is_empty());
        let values_of = |name: &str| {
            seen.iter()
                .map(|seen| seen.header(name).unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        [
            "authorization",
            "x-api-key",
            "cookie",
            "x-custom",
            "accept-language",
        ]
        .map(|name| {
            let values = values_of(name);
            assert!(
                values.iter().all(|value| *value == values[0]),
                "{name}: {values:?}"
            );
            values[0].clone()
        })
    };
    // base64 of `ana:open sesame`
    assert_eq!(
        sent(0),
        [
            "Basic YW5hOm9wZW4gc2VzYW1l",
            "the-key-1",
            "a=the-cookie-1",
            "the-custom-1",
            "de"
        ]
    );

    let (before, events) = (script.seen().len(), app.happened().await.len());
    app.put("/mcp/servers/script", server.clone()).await.ok();
    assert_eq!(
        app.happened().await.len(),
        events,
        "what was read and put back changed something"
    );
    let mut changed = server;
    changed["headers"]["x-api-key"] = json!("the-key-2");
    changed["url"] = json!(format!("{}?v=2", changed["url"].as_str().expect("a URL")));
    let changed = app.put("/mcp/servers/script", changed).await.ok()["server"].take();
    assert_eq!(changed["status"], "connected", "{changed}");
    assert_eq!(
        sent(before),
        [
            "Basic YW5hOm9wZW4gc2VzYW1l",
            "the-key-2",
            "a=the-cookie-1",
            "the-custom-1",
            "de"
        ]
    );
    app.put(
        "/mcp/servers/script",
        json!({ "headers": { "Authorization": "***" } }),
    )
    .await
    .fails(400, "invalid_request");

    app.kill_and_restart();
    app.until("/mcp/servers/script", |body| {
        body["server"]["status"] == "connected"
    })
    .await;
    let events = app.get("/events?limit=1000").await.body.to_string();
    let listed = app.get("/mcp/servers").await.body.to_string();
    let files = std::fs::read_dir(app.data())
        .into_iter()
        .flatten()
        .flatten();
    let files: String = files
        .map(|file| {
            String::from_utf8_lossy(&std::fs::read(file.path()).expect("a file")).into_owned()
        })
        .collect();
    for secret in ["the-key", "the-cookie", "the-custom", "sesame", "YW5hOm9"] {
        for (place, text) in [
            ("the answers", &listed),
            ("the events", &events),
            ("the log", &app.log()),
            ("the folder", &files),
        ] {
            assert!(!text.contains(secret), "{secret} stands in {place}");
        }
    }
}

#[tokio::test]
async fn another_origin_gets_no_stored_credential() {
    let first = Script::start(|_| None).await;
    let second = Script::start(|_| None).await;
    let app = App::start();
    let with_user = first.url.replace("http://", "http://ana:sesame@");
    let headers = json!({ "X-Auth-Token": "the-token-1" });
    register(&app, "script", &with_user, json!({ "headers": headers }))
        .await
        .ok();
    let hidden = second.url.replace("http://", "http://***@");
    for update in [
        json!({ "url": hidden }),
        json!({ "url": second.url }),
        json!({ "url": second.url, "headers": { "x-auth-token": "***" } }),
    ] {
        let error = app
            .put("/mcp/servers/script", update)
            .await
            .fails(400, "invalid_request");
        assert!(error.contains("headers.X-Auth-Token"), "{error}");
    }
    assert!(second.seen().is_empty(), "the second server got a request");
    let headers = json!({ "X-Auth-Token": "the-token-2" });
    let update = json!({ "url": second.url, "headers": headers });
    let server = app.put("/mcp/servers/script", update).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    assert_eq!(server["headers"], json!({ "X-Auth-Token": "***" }));
    for request in second.seen() {
        assert_eq!(request.header("x-auth-token"), Some("the-token-2"));
        assert_eq!(request.header("authorization"), None);
    }
}

#[tokio::test]
async fn fields_of_the_other_transport_are_named() {
    let app = App::start();
    let refused = async |fields: serde_json::Value| {
        app.post("/mcp/servers", fields)
            .await
            .fails(400, "invalid_request")
    };
    let error =
        refused(json!({ "name": "a", "command": "x", "url": "http://h", "sessionId": "s" })).await;
    assert!(error.contains("url, sessionId"), "{error}");
    let error = refused(
        json!({ "name": "a", "transportType": "streamable_http", "url": "http://h", "args": [], "replicas": "each" }),
    )
    .await;
    assert!(error.contains("args, replicas"), "{error}");
    for (field, value) in [
        ("url", json!("h/mcp")),
        ("url", json!("http://u:hunter2@h/#x")),
        ("headers", json!({ "a b": "c" })),
        ("headers", json!({ "Host": "c" })),
        ("headers", json!({ "x": "a", "X": "b" })),
        ("headers", json!({ "Authorization": "hunter2\nx" })),
        ("headers", json!({ "Authorization": "***" })),
        ("sessionId", json!("a b")),
        ("reconnectionOptions", json!({ "maxRetries": -1 })),
        (
            "reconnectionOptions",
            json!({ "reconnectionDelayGrowFactor": 0.5 }),
        ),
    ] {
        let mut fields = json!({ "name": "a", "transportType": "streamable_http", "url": "http://127.0.0.1:9/" });
        fields[field] = value;
        let error = refused(fields).await;
        assert!(
            error.contains(field) && !error.contains("hunter2"),
            "{error}"
        );
    }
    let error = refused(json!({ "name": "a", "transportType": "streamable_http" })).await;
    assert!(error.contains("url is missing"), "{error}");

    register(
        &app,
        "remote",
        "http://127.0.0.1:9/",
        json!({ "enabled": false }),
    )
    .await
    .ok();
    let error = app
        .put("/mcp/servers/remote", json!({ "command": "x" }))
        .await
        .fails(400, "invalid_request");
    assert!(error.contains("command"), "{error}");
    let options = json!({ "reconnectionOptions": { "maxRetries": 5 } });
    let server = app.put("/mcp/servers/remote", options).await.ok()["server"].take();
    assert_eq!(server["reconnectionOptions"]["maxRetries"], 5);
    assert_eq!(
        server["reconnectionOptions"]["initialReconnectionDelay"],
        1000
    );
    let error = app
        .put("/mcp/servers/remote", json!({ "transportType": "stdio" }))
        .await
        .fails(400, "invalid_request");
    assert!(error.contains("transportType"), "{error}");
}
