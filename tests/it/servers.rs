//! `/mcp/servers`: registered, read, changed, enabled, disabled and deleted.

use serde_json::{Value, json};

use crate::harness::{App, fixture, python};
use crate::processes::is_alive;
use crate::wait::wait_until;

#[tokio::test]
async fn a_registered_server_has_its_live_status() {
    let app = App::start();
    let server = app
        .register(
            "fixture",
            json!({ "env": { "A": "1" }, "secretNames": ["token"] }),
        )
        .await
        .ok();
    let server = &server["server"];
    assert_eq!(server["status"], "connected");
    assert_eq!(server["enabled"], true);
    assert_eq!(server["transportType"], "stdio");
    assert_eq!(server["env"], json!({ "A": "1" }));
    assert_eq!(server["secretNames"], json!(["token"]));
    assert_eq!(
        (&server["startupTimeout"], &server["toolTimeout"]),
        (&json!(60000), &json!(60000))
    );
    assert_eq!(
        (&server["replicas"], &server["resetTimeoutOnProgress"]),
        (&json!("one"), &json!(false))
    );
    assert!(server.get("error").is_none(), "{server}");

    let one = app.server("fixture").await;
    assert_eq!(
        (&one["status"], &one["toolsList"]),
        (&server["status"], &server["toolsList"])
    );
    assert!(
        one["logs"]
            .as_array()
            .expect("logs")
            .iter()
            .any(|line| line["source"] == "transport"),
        "{one}"
    );
    let all = app.get("/mcp/servers").await.ok();
    assert_eq!(all["servers"].as_array().map(Vec::len), Some(1));
    assert_eq!(all["servers"][0]["name"], "fixture");
    assert_eq!(all["servers"][0]["status"], "connected");

    app.register_fixture("fixture")
        .await
        .fails(409, "server_already_exists");
    for path in [
        "/mcp/servers/other",
        "/mcp/servers/no%20name",
        "/mcp/servers/%ff",
    ] {
        app.get(path).await.fails(404, "server_not_found");
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_stays_registered_with_the_reason() {
    let app = App::start();
    let crash = json!({ "env": { "FIXTURE_START": "crash" } });
    let silent = json!({ "env": { "FIXTURE_START": "silent" }, "startupTimeout": 400 });
    let absent = json!({ "command": "there-is-no-such-program" });
    let (crash, silent, absent) = tokio::join!(
        app.register("crash", crash),
        app.register("silent", silent),
        app.register("absent", absent)
    );
    let cases = [
        (
            "crash",
            crash,
            "it exited with code 1",
            "Traceback: no such module",
        ),
        (
            "silent",
            silent,
            "it was not ready within 400 ms (startupTimeout)",
            "",
        ),
        (
            "absent",
            absent,
            "there is no such program",
            "there-is-no-such-program",
        ),
    ];
    for (name, answer, reason, printed) in cases {
        let server = &answer.ok()["server"];
        assert_eq!(
            (&server["status"], &server["enabled"]),
            (&json!("error"), &json!(true)),
            "{name}"
        );
        assert!(
            server["error"].as_str().expect("a reason").contains(reason),
            "{server}"
        );
        assert!(
            server["details"]
                .as_str()
                .unwrap_or_default()
                .contains(printed),
            "{server}"
        );
        // The supervisor retries, and the status is `error` again between two attempts.
        let shown = app
            .until(&format!("/mcp/servers/{name}"), |body| {
                body["server"]["status"] == "error"
            })
            .await;
        let logs = shown["server"]["logs"].to_string();
        assert!(logs.contains(reason) && logs.contains(printed), "{logs}");

        let answer = app.call("default", name, "echo", json!({})).await;
        let details = answer.body["details"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(details.contains(printed), "{details}");
        assert!(answer.fails(502, "upstream_error").contains(reason));
    }
}

#[tokio::test]
async fn an_invalid_field_is_named() {
    let app = App::start();
    app.register("fixture", json!({ "enabled": false }))
        .await
        .ok();
    for (more, said) in [
        (json!({ "comand": "x" }), "comand"),
        (json!({ "args": "x" }), "args: must be"),
        (json!({ "args": [1] }), "args[0]: must be"),
        (json!({ "env": { "A": 1 } }), "env.A: must be"),
        (json!({ "env": { "A=B": "1" } }), "env"),
        (json!({ "secretNames": [""] }), "secretNames[0]"),
        (json!({ "toolTimeout": 0 }), "toolTimeout"),
        (json!({ "startupTimeout": "60" }), "startupTimeout: must be"),
        (json!({ "replicas": "two" }), "replicas: must be"),
        (json!({ "enabled": "yes" }), "enabled: must be"),
        (
            json!({ "transportType": "carrier_pigeon" }),
            "transportType",
        ),
        (
            json!({ "url": "http://localhost", "headers": {} }),
            "url, headers",
        ),
        (
            json!({ "sessionId": "x", "reconnectionOptions": {} }),
            "sessionId, reconnectionOptions",
        ),
        (json!({ "command": "" }), "command"),
        (json!({ "command": "a\0b" }), "command"),
    ] {
        let error = app
            .register("new", more.clone())
            .await
            .fails(400, "invalid_request");
        assert!(error.contains(said), "{more}: {error}");
        let error = app
            .put("/mcp/servers/fixture", more.clone())
            .await
            .fails(400, "invalid_request");
        assert!(error.contains(said), "{more}: {error}");
    }
    for name in ["", "a b", ".a", "a/b", &"a".repeat(65)] {
        let error = app
            .register(name, json!({}))
            .await
            .fails(400, "invalid_request");
        assert!(error.starts_with("name: "), "{error}");
    }
    let error = app
        .post("/mcp/servers", json!({ "name": "new" }))
        .await
        .fails(400, "invalid_request");
    assert!(error.contains("command"), "{error}");
    let error = app
        .put("/mcp/servers/fixture", json!({ "name": "other" }))
        .await
        .fails(400, "invalid_request");
    assert!(error.contains("name"), "{error}");
    assert_eq!(app.happened().await, ["server.registered server/fixture"]);
}

#[tokio::test]
async fn a_server_that_is_read_and_sent_back_does_not_change() {
    let app = App::start();
    app.register("fixture", json!({ "env": { "A": "1" } }))
        .await
        .ok();
    app.register(
        "set",
        json!({ "startupTimeout": 60000, "toolTimeout": 1234, "replicas": "each" }),
    )
    .await
    .ok();
    let before = app.happened().await;
    for name in ["fixture", "set"] {
        let (pid, shown) = (app.pid_of(name).await, app.server(name).await);
        let answer = app
            .put(&format!("/mcp/servers/{name}"), shown.clone())
            .await
            .ok();
        assert_eq!(answer["server"]["status"], "connected");
        if name == "fixture" {
            // The server `set` has a process in each worker.
            assert_eq!(app.pid_of(name).await, pid, "nothing was restarted");
        }
    }
    assert_eq!(app.happened().await, before);
}

#[tokio::test]
async fn a_field_replaces_the_whole_value_and_null_resets() {
    let app = App::start();
    let first = json!({ "env": { "A": "1", "B": "2" }, "secretNames": ["x", "y"], "toolTimeout": 1000, "startupTimeout": 20000 });
    app.register("fixture", first).await.ok();
    let pid = app.pid_of("fixture").await;
    let change = json!({ "env": { "B": "3" }, "secretNames": ["z"], "toolTimeout": null, "startupTimeout": null });
    let changed = app.put("/mcp/servers/fixture", change).await.ok();
    let server = &changed["server"];
    assert_eq!(
        (&server["env"], &server["secretNames"]),
        (&json!({ "B": "3" }), &json!(["z"]))
    );
    assert_eq!(
        (&server["toolTimeout"], &server["startupTimeout"]),
        (&json!(60000), &json!(60000))
    );
    assert_eq!(server["status"], "connected");
    assert_ne!(
        app.pid_of("fixture").await,
        pid,
        "a changed server restarts"
    );
    assert!(!is_alive(pid));
    let environment: Value =
        serde_json::from_str(&app.text("fixture", "environment", json!({})).await).expect("JSON");
    assert_eq!(
        (&environment["A"], &environment["B"]),
        (&Value::Null, &json!("3"))
    );
    let happened = app.happened().await;
    let last = happened[happened.len() - 2..].iter().map(String::as_str);
    assert_eq!(
        last.collect::<Vec<_>>(),
        [
            "server.updated server/fixture",
            // Another environment may let the program speak another revision.
            "server.protocol_detected server/fixture"
        ]
    );
    app.put("/mcp/servers/other", json!({}))
        .await
        .fails(404, "server_not_found");
}

#[tokio::test]
async fn a_deleted_server_leaves_no_secret_for_a_new_server_with_its_name() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "message", "of the first")
        .await;
    let pid = app.pid_of("fixture").await;
    app.delete("/mcp/servers/fixture").await.ok();
    assert!(!is_alive(pid), "the process has ended before the answer");
    app.get("/mcp/servers/fixture")
        .await
        .fails(404, "server_not_found");
    app.call("ana", "fixture", "echo", json!({}))
        .await
        .fails(404, "server_not_found");
    app.delete("/mcp/servers/fixture")
        .await
        .fails(404, "server_not_found");
    assert_eq!(app.get("/mcp/tools").await.ok()["tools"], json!([]));

    app.register_fixture("fixture").await.ok();
    let answer = app
        .call("ana", "fixture", "echo", json!({ "message": "own" }))
        .await
        .ok();
    assert_eq!(answer["data"]["content"], "own");
    let gone = json!({ "username": "ana", "serverName": "fixture", "secretName": "message" });
    app.post("/secrets/delete", gone)
        .await
        .fails(404, "secret_not_found");
}

#[tokio::test]
async fn disable_stops_a_server_and_enable_starts_or_restarts_it() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    let pid = app.pid_of("fixture").await;
    let answer = app
        .put("/mcp/servers/fixture/disable", json!({}))
        .await
        .ok();
    assert_eq!(
        (&answer["server"]["status"], &answer["server"]["enabled"]),
        (&json!("disconnected"), &json!(false))
    );
    assert!(!is_alive(pid), "the process has ended before the answer");
    let error = app
        .call("default", "fixture", "echo", json!({}))
        .await
        .fails(409, "server_disabled");
    assert!(error.contains("/mcp/servers/fixture/enable"), "{error}");
    assert_eq!(app.get("/mcp/tools").await.ok()["tools"], json!([]));
    app.put("/mcp/servers/fixture/disable", json!({}))
        .await
        .ok();

    let answer = app.put("/mcp/servers/fixture/enable", json!({})).await.ok();
    assert_eq!(
        (&answer["server"]["status"], &answer["server"]["enabled"]),
        (&json!("connected"), &json!(true))
    );
    let pid = app.pid_of("fixture").await;
    app.put("/mcp/servers/fixture/enable", json!({})).await.ok();
    assert_ne!(
        app.pid_of("fixture").await,
        pid,
        "enable restarts an enabled server"
    );
    assert!(!is_alive(pid));

    app.put("/mcp/servers/fixture", json!({ "enabled": false }))
        .await
        .ok();
    assert_eq!(app.server("fixture").await["status"], "disconnected");
    let wanted = [
        "registered",
        "protocol_detected",
        "tools_discovered",
        "described",
        "disabled",
        "enabled",
        "enabled",
        "disabled",
    ];
    assert_eq!(
        app.happened().await,
        wanted.map(|what| format!("server.{what} server/fixture"))
    );
    for verb in ["enable", "disable"] {
        app.put(&format!("/mcp/servers/other/{verb}"), json!({}))
            .await
            .fails(404, "server_not_found");
    }
}

#[tokio::test]
async fn every_page_of_the_tool_list_is_read_and_changes_appear() {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    let names = |body: &Value| -> Vec<String> {
        let tools = body["tools"][0]["fixture"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        tools
            .iter()
            .filter_map(|tool| tool["name"].as_str().map(str::to_owned))
            .collect()
    };
    let first = names(&app.get("/mcp/tools").await.ok());
    assert!(
        first.len() > 20 && first.contains(&"echo".into()),
        "three pages and more: {first:?}"
    );
    app.text("fixture", "add_tool", json!({ "name": "newcomer" }))
        .await;
    let body = app
        .until("/mcp/tools", |body| {
            names(body).contains(&"newcomer".into())
        })
        .await;
    assert_eq!(names(&body).len(), first.len() + 1);
    let shown = app.server("fixture").await;
    assert_eq!(
        shown["toolsList"].as_array().map(Vec::len),
        Some(first.len() + 1)
    );
    let found = app
        .happened()
        .await
        .iter()
        .filter(|event| event.starts_with("server.tools_discovered"))
        .count();
    assert_eq!(found, 2);
}

#[tokio::test]
async fn calls_wait_for_a_server_that_is_connecting() {
    let app = App::start();
    let slow = json!({ "env": { "FIXTURE_START": "slow", "FIXTURE_DELAY": "1" } });
    let waits = async {
        app.until("/mcp/servers", |body| {
            body["servers"][0]["status"] == "connecting"
        })
        .await;
        app.call("default", "slow", "echo", json!({ "message": "waited" }))
            .await
            .ok()
    };
    let (registered, called) = tokio::join!(app.register("slow", slow), waits);
    assert_eq!(registered.ok()["server"]["status"], "connected");
    assert_eq!(called["data"]["content"], "waited");
    // A new configuration ends a start that hangs.
    let pid = app.pid_of("slow").await;
    let stuck = json!({ "env": { "FIXTURE_START": "silent" } });
    let (_, ()) = tokio::join!(app.put("/mcp/servers/slow", stuck), async {
        app.until("/mcp/servers/slow", |body| {
            body["server"]["env"]["FIXTURE_START"] == "silent"
        })
        .await;
        app.put("/mcp/servers/slow", json!({ "env": {} }))
            .await
            .ok();
    });
    wait_until("the first process ended", async || !is_alive(pid)).await;
    app.pid_of("slow").await;
}

#[tokio::test]
async fn lists_of_servers_and_of_their_tools_have_pages() {
    let app = App::start();
    let command = python();
    let names: Vec<_> = (0..5).map(|number| format!("server-{number}")).collect();
    for name in &names {
        let args = json!([fixture("server.py")]);
        let server = json!({ "name": name, "command": command, "args": args });
        app.post("/mcp/servers", server).await.ok();
    }
    let listed = |answer: &Value, key: &str| -> Vec<String> {
        let name = |entry: &Value| match key {
            "tools" => entry
                .as_object()
                .and_then(|tools| tools.keys().next().cloned()),
            _ => entry["name"].as_str().map(str::to_owned),
        };
        let entries = answer[key].as_array().expect("a list").iter();
        entries.map(|entry| name(entry).expect("a name")).collect()
    };
    for (path, key) in [("/mcp/servers", "servers"), ("/mcp/tools", "tools")] {
        let whole = app.get(path).await.ok();
        assert_eq!(listed(&whole, key), names);
        assert!(whole["next"].is_null());
        let mut found = vec![];
        let mut query = "limit=2".to_owned();
        let mut sizes = vec![];
        loop {
            let page = app.get(&format!("{path}?{query}")).await.ok();
            let names = listed(&page, key);
            sizes.push(names.len());
            found.extend(names);
            let Some(next) = page["next"].as_str() else {
                break;
            };
            query = format!("limit=2&after={next}");
        }
        assert_eq!((found, sizes), (names.clone(), vec![2, 2, 1]), "{path}");
        let last = app.get(&format!("{path}?limit=5")).await.ok();
        assert!(last["next"].is_null(), "{path}: all servers fit");
        // A server that was deleted is still a place in the order.
        let after = app.get(&format!("{path}?after=server-2x")).await.ok();
        assert_eq!(listed(&after, key), names[3..]);
        for (wrong, sentence) in [
            ("limit=0", "limit must be 1 to 1000"),
            ("limit=1001", "limit must be 1 to 1000"),
            ("limit=two", "limit"),
            ("after=a/b", "after"),
            ("page=2", "page"),
        ] {
            let refused = app.get(&format!("{path}?{wrong}")).await;
            let found = refused.fails(400, "invalid_request");
            assert!(found.contains(sentence), "{path}?{wrong}: {found}");
        }
    }
    let events = app.get("/events?limit=1000").await.ok();
    let next = events["next"].as_str().expect("an id");
    let (position, _) = next.split_once('.').expect("a position");
    let past = format!("/mcp/servers?at={position}&limit=2");
    let past = app.get(&past).await.ok();
    assert_eq!(listed(&past, "servers"), names[..2]);
    assert_eq!(past["next"], "server-1");
}
