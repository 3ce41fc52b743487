//! `GET /events`: the log as pages, and as a stream that resumes without a gap or a repeat.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{App, PATIENCE};

/// Makes this many events, one after the other.
async fn make(app: &App, events: usize) {
    for _ in 0..events / 2 {
        app.put("/mcp/servers/fixture/enable", json!({})).await.ok();
        app.put("/mcp/servers/fixture/disable", json!({}))
            .await
            .ok();
    }
}

/// Starts the program with a server that has no program: enabling it fails at once and appends an event.
async fn app() -> App {
    let app = App::start();
    app.register(
        "fixture",
        json!({ "command": "/nowhere", "enabled": false }),
    )
    .await
    .ok();
    app
}

async fn page(app: &App, query: &str) -> (Vec<Value>, String) {
    let mut body = app.get(&format!("/events{query}")).await.ok();
    let events = body["events"]
        .as_array_mut()
        .map(std::mem::take)
        .expect("events");
    (events, body["next"].as_str().expect("next").to_owned())
}

fn ids(events: &[Value]) -> Vec<(u64, u64)> {
    let id = |event: &Value| {
        let (position, index) = event["id"].as_str()?.split_once('.')?;
        Some((position.parse().ok()?, index.parse().ok()?))
    };
    events
        .iter()
        .map(|event| id(event).expect("<position>.<index>"))
        .collect()
}

#[tokio::test]
async fn pages_have_every_event_once_and_in_order() {
    let app = app().await;
    // Changes of one batch share a position and differ by their index.
    join_all((0..20).map(|n| app.register_off(n))).await;
    make(&app, 10).await;
    let (all, end) = page(&app, "?limit=1000").await;
    assert_eq!(all.len(), 31);
    let all_ids = ids(&all);
    assert!(all_ids.is_sorted_by(|a, b| a < b), "{all_ids:?}");
    assert_eq!(all_ids[0], (1, 0));
    assert_eq!(end, all[30]["id"]);

    for limit in [1, 2, 7] {
        let (mut paged, mut after) = (Vec::new(), String::new());
        loop {
            let query = if after.is_empty() {
                String::new()
            } else {
                format!("&after={after}")
            };
            let (events, next) = page(&app, &format!("?limit={limit}{query}")).await;
            if events.is_empty() {
                assert_eq!(next, end, "an empty page stays where it is");
                break;
            }
            assert!(events.len() <= limit);
            paged.extend(events);
            assert!(paged.len() <= all.len(), "events come again: {paged:?}");
            after = next;
        }
        assert_eq!(paged, all);
    }
    let first = &all[0];
    assert_eq!(
        (&first["type"], &first["v"]),
        (&json!("server.registered"), &json!(1))
    );
    assert_eq!(
        (&first["subject"], &first["actor"]),
        (&json!("server/fixture"), &json!({ "kind": "local" }))
    );
    assert!(
        first["at"]
            .as_u64()
            .is_some_and(|at| at > 1_600_000_000_000)
            && first["commandId"].is_string()
    );
    assert_eq!(
        page(&app, "").await.0.len(),
        31,
        "100 where no limit is given"
    );
}

#[tokio::test]
async fn events_show_neither_names_nor_values_of_secrets() {
    let app = app().await;
    app.set_secret("ana", "fixture", "name-of-it", "value-of-it")
        .await;
    app.set_secret("ana", "fixture", "name-of-it", "other-value-of-it")
        .await;
    let body = json!({ "username": "ana", "serverName": "fixture", "secretName": "name-of-it" });
    app.post("/secrets/delete", body).await.ok();
    let (events, _) = page(&app, "").await;
    let types: Vec<_> = events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect();
    assert_eq!(
        types,
        [
            "server.registered",
            "secret.set",
            "secret.set",
            "secret.deleted"
        ]
    );
    assert_eq!(events[1]["data"]["user"], "ana");
    let mut listener = Listener::open(&app, None).await;
    for event in events {
        let received = listener.next().await.expect("received").1;
        assert_eq!(received, event);
        assert!(!received.to_string().contains("-of-it"), "{received}");
    }
}

#[tokio::test]
async fn a_stream_resumes_after_a_restart_without_gap_or_repeat() {
    let mut app = app().await;
    make(&app, 10).await;
    let mut listener = Listener::open(&app, None).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(listener.next().await.expect("an event").1);
    }
    drop(listener);
    app.kill_and_restart();
    make(&app, 4).await;
    let last = seen[5]["id"].as_str().expect("an id").to_owned();
    let mut listener = Listener::open(&app, Some(&last)).await;
    let (happening, ()) = tokio::join!(
        async {
            while seen.len() < 19 {
                seen.push(listener.next().await.expect("an event").1);
            }
            seen
        },
        make(&app, 4),
    );
    assert_eq!(happening, page(&app, "?limit=1000").await.0);
    let wrong = app
        .http
        .get(format!("{}/events", app.url))
        .header("accept", "text/event-stream");
    let wrong = crate::harness::answer(wrong.header("last-event-id", "yesterday")).await;
    assert!(
        wrong
            .fails(400, "invalid_request")
            .contains("Last-Event-ID")
    );
}

#[tokio::test]
async fn many_listeners_receive_the_same_events_and_end_with_the_program() {
    let mut app = app().await;
    let mut listeners = join_all((0..50).map(|_| Listener::open(&app, None))).await;
    // A client that never reads delays no other client.
    let _deaf = Listener::open(&app, None).await;
    make(&app, 10).await;
    let wanted = page(&app, "").await.0;
    for listener in &mut listeners {
        for event in &wanted {
            assert_eq!(&listener.next().await.expect("an event").1, event);
        }
    }
    let began = std::time::Instant::now();
    assert!(app.terminate().success());
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "listeners held up the end: {:?}",
        began.elapsed()
    );
    for listener in &mut listeners {
        assert!(listener.next().await.is_none(), "the stream has ended");
    }
}

/// A client that follows the log.
struct Listener {
    response: reqwest::Response,
    text: String,
}

impl Listener {
    async fn open(app: &App, last: Option<&str>) -> Self {
        let mut request = app
            .http
            .get(format!("{}/events", app.url))
            .header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// Returns the next event and its name, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = event.lines();
                    lines.find_map(|line| {
                        Some(
                            line.strip_prefix(name)?
                                .strip_prefix(':')?
                                .trim_start()
                                .to_owned(),
                        )
                    })
                };
                let (id, name, data) = (field("id"), field("event"), field("data"));
                self.text = rest.to_owned();
                // A keep-alive comment has no data.
                let Some(data) = data else { continue };
                let data: Value = serde_json::from_str(&data).expect("JSON");
                assert_eq!(
                    (id.as_deref(), name.as_deref()),
                    (data["id"].as_str(), data["type"].as_str())
                );
                return Some((name?, data));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk())
                .await
                .expect("a word in time");
            self.text
                .push_str(std::str::from_utf8(&chunk.ok()??).expect("UTF-8"));
        }
    }
}

impl App {
    async fn register_off(&self, n: usize) {
        self.register(&format!("off-{n}"), json!({ "enabled": false }))
            .await
            .ok();
    }
}

#[tokio::test]
async fn no_event_names_a_secret() {
    let app = App::start();
    app.register(
        "fixture",
        json!({ "enabled": false, "secretNames": ["name-one"] }),
    )
    .await
    .ok();
    app.put(
        "/mcp/servers/fixture",
        json!({ "secretNames": ["name-one", "name-two"] }),
    )
    .await
    .ok();
    app.set_secret("ana", "fixture", "name-one", "value").await;
    let (events, _) = page(&app, "").await;
    let text = serde_json::to_string(&events).expect("JSON");
    assert!(
        events.len() == 3 && text.contains("\"ana\"") && !text.contains("name-"),
        "{text}"
    );
}

#[tokio::test]
async fn a_position_past_the_end_of_the_log_is_refused() {
    let app = app().await;
    app.get("/events?after=1.0").await.ok();
    assert!(
        app.get("/events?after=99.0")
            .await
            .fails(400, "invalid_request")
            .contains("past the end")
    );
}

#[tokio::test]
async fn a_page_can_have_one_subject_only() {
    let app = app().await;
    join_all((0..30).map(|n| app.register_off(n))).await;
    make(&app, 4).await;
    let (all, _) = page(&app, "?limit=1000").await;
    let with_subject = |name: &str| {
        all.iter()
            .filter(|event| event["subject"] == name)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        page(&app, "?subject=server/fixture").await.0,
        with_subject("server/fixture")
    );
    assert_eq!(
        page(&app, "?subject=server/off-7").await.0,
        with_subject("server/off-7")
    );
    assert_eq!(
        page(&app, "?subject=server/nobody").await.0,
        [Value::Null; 0]
    );
    // The pages end at the end of the log.
    let (mut paged, mut after) = (Vec::new(), "0.0".to_owned());
    loop {
        let (events, next) = page(
            &app,
            &format!("?subject=server/fixture&limit=2&after={after}"),
        )
        .await;
        paged.extend(events);
        if next == after {
            break;
        }
        after = next;
    }
    assert_eq!(paged, with_subject("server/fixture"));
}

#[tokio::test]
async fn the_past_is_shown_at_a_position_and_at_a_time() {
    let mut app = App::start();
    let mut moments = vec![(0, vec![])];
    for n in 0..4 {
        let body = json!({ "command": "/nowhere", "args": [format!("{n}")], "enabled": false });
        app.register(&format!("s{n}"), body).await.ok();
        app.put("/mcp/servers/s0", json!({ "args": [format!("after {n}")] }))
            .await
            .ok();
        let now = app.get("/mcp/servers").await;
        let position: u64 = now.headers["log-position"]
            .to_str()
            .expect("a text")
            .parse()
            .expect("a number");
        moments.push((
            position,
            now.ok()["servers"].as_array().expect("servers").clone(),
        ));
    }
    app.delete("/mcp/servers/s1").await.ok();
    let known = |server: &Value| {
        let fields = server.as_object().expect("a server").iter();
        let fields =
            fields.filter(|(field, _)| !["status", "logs", "error"].contains(&field.as_str()));
        Value::Object(
            fields
                .map(|(field, value)| (field.clone(), value.clone()))
                .collect(),
        )
    };
    let (events, _) = page(&app, "?limit=1000").await;
    let at = |position: u64| {
        let event = events
            .iter()
            .find(|event| event["id"] == format!("{position}.0"))
            .expect("an event");
        humantime::format_rfc3339_millis(
            std::time::UNIX_EPOCH + Duration::from_millis(event["at"].as_u64().expect("ms")),
        )
    };
    // The order of the requests does not matter, and neither does a restart.
    for turn in 0..2 {
        for (position, servers) in moments.iter().rev().chain(&moments) {
            let mut shown = app.get(&format!("/mcp/servers?at={position}")).await.ok();
            assert_eq!(shown["position"], *position);
            assert_eq!(
                shown["servers"].take(),
                servers.iter().map(known).collect::<Value>()
            );
            if *position > 0 {
                let by_time = app
                    .get(&format!("/mcp/servers?at={}", at(*position)))
                    .await
                    .ok();
                let newest = by_time["position"].as_u64().expect("a position");
                // Another entry may have the same millisecond.
                assert!(newest >= *position && at(newest).to_string() == at(*position).to_string());
            }
        }
        if turn == 0 {
            app.kill_and_restart();
        }
    }
    assert_eq!(
        app.get("/mcp/servers?at=2001-01-01T00:00:00Z").await.ok()["position"],
        0
    );
    let until = moments[2].0;
    let (then, _) = page(&app, &format!("?subject=server/s0&at={until}")).await;
    let ids = ids(&then);
    assert!(
        ids.len() == 3 && ids.iter().all(|(position, _)| *position <= until),
        "{ids:?}"
    );
    let year = 365 * 86_400;
    let future =
        humantime::format_rfc3339(std::time::SystemTime::now() + Duration::from_secs(year));
    for path in ["/mcp/servers", "/events"] {
        for (at, wrong) in [
            ("1000", "past the end"),
            (&*future.to_string(), "in the future"),
            ("noon", "such as 12"),
        ] {
            assert!(
                app.get(&format!("{path}?at={at}"))
                    .await
                    .fails(400, "invalid_request")
                    .contains(wrong)
            );
        }
        app.get(&format!("{path}?When=1"))
            .await
            .fails(400, "invalid_request");
    }
}
