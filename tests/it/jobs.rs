//! `/jobs` and `Prefer: respond-async`: work that is answered later, whatever happens meanwhile.

use std::fs;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, App, answer};
use crate::wait::wait_until;

async fn fixture() -> App {
    let app = App::start();
    app.register_fixture("fixture").await.ok();
    app
}

impl App {
    /// A tool call that is to be answered later.
    async fn call_later(&self, user: &str, tool: &str, args: Value) -> Answer {
        self.send_later("/mcp/tool/call", &call(user, tool, args))
            .await
    }

    async fn send_later(&self, path: &str, body: &Value) -> Answer {
        let request = self
            .http
            .request(Method::POST, format!("{}{path}", self.url))
            .json(body);
        answer(request.header("Prefer", "respond-async")).await
    }

    /// The id of a tool call that was accepted.
    async fn job(&self, user: &str, tool: &str, args: Value) -> String {
        let accepted = self.call_later(user, tool, args).await;
        assert_eq!(
            (accepted.status, &accepted.body["success"]),
            (202, &json!(true)),
            "{}",
            accepted.body
        );
        accepted.body["jobId"].as_str().expect("an id").to_owned()
    }

    async fn look_at(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}")).await.ok()["job"].take()
    }

    /// The job once it has ended.
    async fn end_of(&self, id: &str) -> Value {
        self.get(&format!("/jobs/{id}?wait=60s")).await.ok()["job"].take()
    }

    async fn running(&self, id: &str) {
        self.until(&format!("/jobs/{id}"), |body| {
            body["job"]["state"] == "running"
        })
        .await;
    }

    fn notes(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("notes")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The arguments of a tool that writes a line, and then takes its time.
    fn noting(&self, line: &str, ms: u64) -> Value {
        json!({ "path": self.dir.path().join("notes"), "line": line, "ms": ms })
    }

    /// Waits until that many lines were written.
    async fn noted(&self, lines: usize) {
        wait_until("the tools have written their lines", async || {
            self.notes().len() >= lines
        })
        .await;
    }
}

fn call(user: &str, tool: &str, args: Value) -> Value {
    json!({ "username": user, "serverName": "fixture", "methodName": tool, "args": args })
}

#[tokio::test]
async fn a_job_brings_the_answer_that_the_request_would_have_had() {
    let app = fixture().await;
    app.set_secret("ana", "fixture", "message", "hers alone")
        .await;
    let accepted = app.call_later("ana", "echo", json!({})).await;
    let id = accepted.body["jobId"].as_str().expect("an id").to_owned();
    assert_eq!(accepted.status, 202);
    assert_eq!(accepted.headers["location"], format!("/jobs/{id}"));
    assert_eq!(accepted.headers["preference-applied"], "respond-async");

    let job = app
        .get(&format!("/jobs/{id}?username=ana&wait=30s"))
        .await
        .ok()["job"]
        .take();
    let at_once = app.call("ana", "fixture", "echo", json!({})).await;
    assert_eq!(
        (&job["state"], &job["attempts"]),
        (&json!("succeeded"), &json!(1)),
        "{job}"
    );
    assert_eq!(
        job["answer"],
        json!({ "status": at_once.status, "body": at_once.body })
    );
    assert_eq!(at_once.body["data"]["content"], "hers alone");
    assert_eq!(
        (&job["serverName"], &job["methodName"], &job["command"]),
        (&json!("fixture"), &json!("echo"), &json!("tools.call"))
    );

    for (tool, args) in [
        ("rpc_error", json!({ "code": -32602, "message": "no" })),
        ("rpc_error", json!({ "code": -1, "message": "no" })),
        ("crash", json!({})),
        (
            "result",
            json!({ "result": { "content": [], "isError": true } }),
        ),
    ] {
        let job = app
            .end_of(&app.job("default", tool, args.clone()).await)
            .await;
        let mut at_once = app.call("default", "fixture", tool, args).await;
        let mut later = job["answer"].clone();
        // Of two crashes each has lines of its own.
        at_once
            .body
            .as_object_mut()
            .expect("an object")
            .remove("details");
        later["body"]
            .as_object_mut()
            .expect("an object")
            .remove("details");
        assert_eq!(
            later,
            json!({ "status": at_once.status, "body": at_once.body }),
            "{tool}"
        );
        assert_eq!(
            job["state"],
            if at_once.status == 200 {
                "succeeded"
            } else {
                "failed"
            },
            "{job}"
        );
    }
}

#[tokio::test]
async fn a_job_is_its_users_alone() {
    let app = fixture().await;
    let id = app.job("ana", "echo", json!({ "message": "x" })).await;
    app.get(&format!("/jobs/{id}?username=ben"))
        .await
        .fails(404, "job_not_found");
    app.get(&format!("/jobs/{id}"))
        .await
        .fails(404, "job_not_found");
    app.delete(&format!("/jobs/{id}?username=ben"))
        .await
        .fails(404, "job_not_found");
    app.get("/jobs/nonsense").await.fails(404, "job_not_found");
    app.get(&format!("/jobs/{id}?username=ana")).await.ok();
    assert_eq!(app.get("/jobs").await.ok()["jobs"], json!([]));
}

#[tokio::test]
async fn an_invalid_request_creates_no_job() {
    let app = fixture().await;
    for (body, status, code) in [
        (
            json!({ "serverName": "nobody", "methodName": "echo", "args": {} }),
            404,
            "server_not_found",
        ),
        (
            json!({ "serverName": "fixture", "methodName": "echo", "args": [] }),
            400,
            "invalid_request",
        ),
        (
            json!({ "serverName": "fixture", "methodName": "echo" }),
            400,
            "invalid_request",
        ),
    ] {
        app.send_later("/mcp/tool/call", &body)
            .await
            .fails(status, code);
    }
    for (query, field) in [
        ("wait=soon", "wait"),
        ("wait=1h", "wait"),
        ("state=done", "state"),
    ] {
        let id = app.job("default", "echo", json!({})).await;
        let path = if field == "wait" {
            format!("/jobs/{id}?{query}")
        } else {
            format!("/jobs?{query}")
        };
        let sentence = app.get(&path).await.fails(400, "invalid_request");
        assert!(sentence.contains(field), "{sentence}");
    }
    app.get("/jobs?limit=0").await.fails(400, "invalid_request");
    app.get("/jobs?before=x")
        .await
        .fails(400, "invalid_request");
}

#[tokio::test]
async fn jobs_are_listed_newest_first_by_page_and_state() {
    let app = fixture().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let id = app
            .job("default", "echo", json!({ "message": n.to_string() }))
            .await;
        app.end_of(&id).await;
        ids.push(id);
    }
    let failed = app
        .job(
            "default",
            "rpc_error",
            json!({ "code": -1, "message": "no" }),
        )
        .await;
    app.end_of(&failed).await;
    ids.push(failed.clone());
    ids.reverse();
    let listed = |body: &Value| -> Vec<String> {
        let jobs = body["jobs"].as_array().expect("jobs").iter();
        jobs.map(|job| job["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let first = app.get("/jobs?limit=4").await.ok();
    assert_eq!(listed(&first), ids[..4]);
    let rest = app
        .get(&format!(
            "/jobs?limit=4&before={}",
            first["next"].as_str().expect("more")
        ))
        .await
        .ok();
    assert_eq!(
        (listed(&rest), &rest["next"]),
        (ids[4..].to_vec(), &Value::Null)
    );
    assert_eq!(
        listed(&app.get("/jobs?state=failed,unknown").await.ok()),
        [failed]
    );
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_for_sure_and_a_running_one_where_its_server_obeys() {
    let app = fixture().await;
    let running = app.job("default", "never", json!({})).await;
    app.running(&running).await;
    let told = app.delete(&format!("/jobs/{running}")).await.ok();
    assert!(
        told["job"]["cancelling"] == true || told["job"]["state"] == "cancelled",
        "{told}"
    );
    let job = app.end_of(&running).await;
    assert_eq!(
        (&job["state"], &job["answer"]["status"]),
        (&json!("cancelled"), &json!(409)),
        "{job}"
    );
    let cancelled = app.text("fixture", "cancellations", json!({})).await;
    assert_ne!(cancelled, "[]", "its server was told");
    app.delete(&format!("/jobs/{running}"))
        .await
        .fails(409, "conflict");

    // All places of the server are taken: the next one waits.
    let hanging: Vec<_> =
        futures::future::join_all((0..64).map(|_| app.job("default", "never", json!({})))).await;
    for id in &hanging {
        app.running(id).await;
    }
    let waiting = app
        .job("default", "note_slowly", app.noting("never", 0))
        .await;
    assert_eq!(app.look_at(&waiting).await["state"], "waiting");
    assert_eq!(
        app.delete(&format!("/jobs/{waiting}")).await.ok()["job"]["state"],
        "cancelled"
    );
    for id in &hanging {
        app.delete(&format!("/jobs/{id}")).await.ok();
        assert_eq!(app.end_of(id).await["state"], "cancelled");
    }
    assert_eq!(app.end_of(&waiting).await["state"], "cancelled");
    assert_eq!(app.notes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_kill_loses_no_job_and_repeats_none_that_must_not_be() {
    let mut app = fixture().await;
    let once = app
        .job("default", "note_slowly", app.noting("once", 60_000))
        .await;
    let again = app
        .job("default", "note_again", app.noting("again", 500))
        .await;
    app.noted(2).await;
    let ended = app
        .job("default", "echo", json!({ "message": "kept" }))
        .await;
    app.end_of(&ended).await;
    app.kill_and_restart();
    // What was accepted and not begun runs later; what may run twice does; of the other nobody knows.
    let (once, again) = (app.end_of(&once).await, app.end_of(&again).await);
    assert_eq!(
        (&once["state"], &once["answer"]["status"]),
        (&json!("unknown"), &json!(502)),
        "{once}"
    );
    assert_eq!(once["answer"]["body"]["mayHaveRun"], true, "{once}");
    assert_eq!(
        (&again["state"], &again["attempts"]),
        (&json!("succeeded"), &json!(2)),
        "{again}"
    );
    let mut notes = app.notes();
    notes.sort();
    assert_eq!(notes, ["again", "again", "once"]);
    assert_eq!(
        app.look_at(&ended).await["answer"]["body"]["data"]["content"],
        "kept"
    );
}

#[tokio::test]
async fn a_job_waits_for_a_server_that_cannot_begin() {
    let mut app = fixture().await;
    let hanging: Vec<_> =
        futures::future::join_all((0..64).map(|_| app.job("default", "never", json!({})))).await;
    for id in &hanging {
        app.running(id).await;
    }
    let waiting = app
        .job("default", "note_slowly", app.noting("later", 0))
        .await;
    app.kill_and_restart();
    assert_eq!(app.end_of(&waiting).await["state"], "succeeded");
    assert_eq!(app.notes(), ["later"]);
}

#[tokio::test]
async fn one_user_with_thousands_of_jobs_delays_no_other_user() {
    let app = fixture().await;
    let greedy = (0..300).map(|_| app.job("greedy", "sleep", json!({ "ms": 300 })));
    let greedy = futures::future::join_all(greedy).await;
    let modest = app
        .job("modest", "echo", json!({ "message": "soon" }))
        .await;
    let job = app
        .get(&format!("/jobs/{modest}?username=modest&wait=30s"))
        .await
        .ok()["job"]
        .take();
    assert_eq!(job["state"], "succeeded", "{job}");
    let waiting = app
        .get("/jobs?username=greedy&state=waiting&limit=1000")
        .await
        .ok();
    let waiting = waiting["jobs"].as_array().expect("jobs").len();
    assert!(
        waiting > 100,
        "the other's jobs were not waited for: only {waiting} of {} still wait",
        greedy.len()
    );
}

#[tokio::test]
async fn a_user_may_have_so_many_waiting_and_no_more() {
    let app = App::start_with(&[("MAX_WAITING_JOBS", "3")]);
    app.register_fixture("fixture").await.ok();
    let hanging: Vec<_> = futures::future::join_all((0..64).map(|n| {
        let app = &app;
        async move {
            app.job(&format!("user-{}", n % 32), "never", json!({}))
                .await
        }
    }))
    .await;
    assert_eq!(hanging.len(), 64);
    app.until("/metrics", |text| {
        text.as_str().expect("a text").contains("jobs_running 64")
    })
    .await;
    for _ in 0..3 {
        app.job("default", "echo", json!({})).await;
    }
    let refused = app.call_later("default", "echo", json!({})).await;
    assert!(
        refused.headers.contains_key("retry-after"),
        "{:?}",
        refused.headers
    );
    let sentence = refused.fails(429, "rate_limited");
    assert!(sentence.contains("MAX_WAITING_JOBS"), "{sentence}");
    app.job("somebody", "echo", json!({})).await;
}

#[tokio::test]
async fn an_answer_is_kept_for_its_time_and_then_gone() {
    let app = App::start_with(&[("JOB_RESULT_TTL", "1s")]);
    app.register_fixture("fixture").await.ok();
    let id = app.job("default", "echo", json!({ "message": "x" })).await;
    app.end_of(&id).await;
    app.until(&format!("/jobs/{id}"), |body| {
        body["code"] == "job_not_found"
    })
    .await;
    assert!(
        app.happened()
            .await
            .contains(&"job.expired jobs".to_owned())
    );
}

#[tokio::test]
async fn the_log_contains_jobs_without_their_arguments() {
    let app = fixture().await;
    let id = app
        .job("ana", "echo", json!({ "message": "not-for-the-log" }))
        .await;
    app.get(&format!("/jobs/{id}?username=ana&wait=30s"))
        .await
        .ok();
    let events = app.get("/events?limit=1000").await.ok();
    let of_job: Vec<_> = events["events"]
        .as_array()
        .expect("events")
        .iter()
        .filter(|event| event["subject"] == format!("job/{id}"))
        .collect();
    let types: Vec<_> = of_job
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect();
    assert_eq!(types, ["job.accepted", "job.started", "job.finished"]);
    assert_eq!(
        of_job[0]["data"],
        json!({ "job": id, "user": "ana", "command": "tools.call", "server": "fixture", "tool": "echo" })
    );
    assert!(!events.to_string().contains("not-for-the-log"));
}

impl App {
    async fn keyed(&self, key: &str, body: &Value) -> Answer {
        let request = self
            .http
            .post(format!("{}/mcp/tool/call", self.url))
            .json(body);
        answer(request.header("Idempotency-Key", key)).await
    }
}

#[tokio::test]
async fn a_call_under_a_key_is_made_once() {
    let mut app = fixture().await;
    let body = call("ana", "note_slowly", app.noting("one", 300));
    let both = tokio::join!(app.keyed("k1", &body), app.keyed("k1", &body));
    assert_eq!(
        (both.0.status, &both.0.body),
        (200, &both.1.body),
        "{}",
        both.1.body
    );
    app.kill_and_restart();
    assert_eq!(app.keyed("k1", &body).await.body, both.0.body);
    assert_eq!(app.notes(), ["one"]);

    let other = call("ana", "note_slowly", app.noting("two", 0));
    app.keyed("k1", &other).await.fails(409, "conflict");
    app.keyed("k2", &other).await.ok();
    // Another user's key is another key.
    app.keyed("k1", &call("ben", "note_slowly", app.noting("three", 0)))
        .await
        .ok();
    assert_eq!(app.notes(), ["one", "two", "three"]);
    for key in ["", "ä", &"x".repeat(256)] {
        let sentence = app.keyed(key, &body).await.fails(400, "invalid_request");
        assert!(sentence.contains("Idempotency-Key"), "{sentence}");
    }
    // A failed call has an answer too, and keeps it.
    let failing = call("ana", "rpc_error", json!({ "code": -1, "message": "no" }));
    let first = app.keyed("k3", &failing).await;
    assert_eq!(
        (first.status, app.keyed("k3", &failing).await.body),
        (502, first.body)
    );
}

#[tokio::test]
async fn a_key_outlives_the_time_that_answers_are_kept() {
    let app = App::start_with(&[("JOB_RESULT_TTL", "1s")]);
    app.register_fixture("fixture").await.ok();
    let body = call("ana", "note_slowly", app.noting("one", 0));
    let first = app.keyed("k1", &body).await;
    // One without a key that ended after it is forgotten before.
    let other = app.job("default", "echo", json!({ "message": "x" })).await;
    app.end_of(&other).await;
    app.until(&format!("/jobs/{other}"), |body| {
        body["code"] == "job_not_found"
    })
    .await;
    let again = app.keyed("k1", &body).await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(app.notes(), ["one"]);
    app.keyed("k1", &call("ana", "note_slowly", app.noting("two", 0)))
        .await
        .fails(409, "conflict");
}

#[tokio::test]
async fn a_change_under_a_key_is_made_once() {
    let mut app = fixture().await;
    let send = async |app: &App, method: Method, path: &str, key: &str, body: Option<Value>| {
        let mut request = app
            .http
            .request(method, format!("{}{path}", app.url))
            .header("Idempotency-Key", key);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    };
    let count = async |app: &App, what: &str| {
        app.happened()
            .await
            .iter()
            .filter(|line| line.starts_with(what))
            .count()
    };
    let second = json!({ "name": "second", "command": crate::harness::python(), "args": ["-u", crate::harness::fixture("server.py")] });
    let register = || {
        send(
            &app,
            Method::POST,
            "/mcp/servers",
            "r1",
            Some(second.clone()),
        )
    };
    let (first, same) = tokio::join!(register(), register());
    assert_eq!(
        (first.status, same.status),
        (200, 200),
        "{} {}",
        first.body,
        same.body
    );
    assert_eq!(first.body["server"]["name"], same.body["server"]["name"]);
    assert_eq!(count(&app, "server.registered server/second").await, 1);

    let secret = |value: &str| {
        Some(
            json!({ "username": "ana", "serverName": "second", "secretName": "message", "secretValue": value }),
        )
    };
    send(&app, Method::POST, "/secrets/set", "s1", secret("one"))
        .await
        .ok();
    send(&app, Method::POST, "/secrets/set", "s2", secret("two"))
        .await
        .ok();
    app.kill_and_restart();
    // The first once more changes nothing: the second stands.
    send(&app, Method::POST, "/secrets/set", "s1", secret("one"))
        .await
        .ok();
    assert_eq!(
        app.call("ana", "second", "echo", json!({})).await.ok()["data"]["content"],
        "two"
    );
    send(&app, Method::POST, "/secrets/set", "s1", secret("three"))
        .await
        .fails(409, "conflict");

    let restarts = count(&app, "server.enabled").await;
    for _ in 0..2 {
        send(&app, Method::PUT, "/mcp/servers/second/enable", "e1", None)
            .await
            .ok();
    }
    assert_eq!(count(&app, "server.enabled").await, restarts + 1);
    for _ in 0..2 {
        send(&app, Method::DELETE, "/mcp/servers/second", "d1", None)
            .await
            .ok();
    }
    // What was refused has changed nothing, and is decided anew.
    send(&app, Method::DELETE, "/mcp/servers/third", "d2", None)
        .await
        .fails(404, "server_not_found");
}
