//! Producers on NATS: the Python example and the promises of `schemas/README.md`.

use std::fs;

use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};

use crate::harness::App;
use crate::process::Services;
use crate::remote::{Kind, Real, connected};
use crate::services::nats::{JETSTREAM, Nats, Version};
use crate::wait::wait_until;

/// Returns the text of the example for another server and another NATS.
fn example(url: &str, call: &str, args: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/producer.py");
    let code = fs::read_to_string(path).expect("the example");
    let code = code.replace("nats://127.0.0.1:4222", url);
    let old = r#"{"user": "ana", "server": "everything", "tool": "echo"}"#;
    assert!(
        code.contains(old) && code.contains(r#"b'{"message": "hi"}'"#),
        "{code}"
    );
    // Each run of the example needs a new job id.
    let code = code.replace("my-first-job", &uuid::Uuid::now_v7().to_string());
    code.replace(old, call)
        .replace(r#"b'{"message": "hi"}'"#, args)
        .replace(r#"b'{"message": "later"}'"#, args)
}

/// Returns the status and the body of the ask and of the job.
async fn run(code: &str) -> Vec<(String, Value)> {
    let python = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/services/python/bin/python"
    );
    let run = tokio::process::Command::new(python)
        .args(["-c", code])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(crate::harness::PATIENCE, run)
        .await
        .expect("in time")
        .expect("python");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = |line: &str| {
        let (status, body) = line.split_once(' ').expect("a status and a body");
        (status.to_owned(), serde_json::from_str(body).expect("JSON"))
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn the_example_asks_and_posts_a_job() {
    // The permissions that the README recommends for a producer.
    let users = r#"
        authorization { users: [
            { user: "mcp", password: "all" },
            { user: "producer", password: "some", permissions: {
                publish: ["mcp.v1.job.>", "mcp.v1.ask.tools.call", "$JS.API.INFO"], subscribe: ["_INBOX.>"] } } ] }"#;
    let nats = Nats::with_config(Version::Newest, |_| format!("{JETSTREAM}\n{users}"));
    let all = nats.url().replace("//", "//mcp:all@");
    let producer = nats.url().replace("//", "//producer:some@");
    let services = Services::with_nats(nats);
    // The later of two values of one variable counts.
    let app = App::start_on(Some(services), 1, &[("NATS_URL", &all)]);
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "message", "hers alone")
        .await;

    let ana = r#"{"user": "ana", "server": "fixture", "tool": "echo"}"#;
    let replies = run(&example(&producer, ana, "b'{}'")).await;
    assert_eq!(replies.len(), 2, "{replies:?}");
    for (status, body) in replies {
        assert_eq!(
            (status.as_str(), &body["content"][0]["text"]),
            ("ok", &json!("hers alone")),
            "{body}"
        );
    }
    for (call, args, code) in [
        (
            ana.replace("fixture", "nobody"),
            "b'{}'",
            "server_not_found",
        ),
        (ana.into(), "b'[]'", "invalid_request"),
        (ana.into(), "b'{}{}'", "invalid_request"),
        (
            r#"{"user": "ana", "server": "../x", "tool": "echo"}"#.into(),
            "b'{}'",
            "invalid_request",
        ),
    ] {
        for (status, body) in run(&example(&producer, &call, args)).await {
            assert_eq!(
                (status.as_str(), &body["code"]),
                ("failed", &json!(code)),
                "{call} {args}: {body}"
            );
        }
    }
    // NATS does not deliver a message that the producer may not publish.
    let forbidden = example(&producer, ana, "b'{}'")
        .replace("mcp.v1.ask.tools.call", "mcp.v1.ask.servers.disable");
    let forbidden = forbidden.replace("timeout=60, headers", "timeout=1, headers");
    let python = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/target/services/python/bin/python"
    );
    let run = tokio::process::Command::new(python)
        .args(["-c", &forbidden])
        .output()
        .await
        .expect("python");
    assert!(!run.status.success(), "it was answered");
    assert_eq!(app.server("fixture").await["enabled"], true);
}

/// A producer that speaks to NATS itself.
struct Producer {
    client: async_nats::Client,
}

impl Producer {
    async fn connect(nats: &Nats) -> Self {
        Self {
            client: async_nats::connect(nats.url()).await.expect("connected"),
        }
    }

    /// Publishes a job. The returned subscription receives its outcome.
    async fn put(&self, id: &str, call: &str, body: &str) -> async_nats::Subscriber {
        let inbox = self.client.new_inbox();
        let outcome = self
            .client
            .subscribe(inbox.clone())
            .await
            .expect("subscribed");
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Mcp-Call", call);
        headers.insert("Mcp-Reply", inbox);
        let jetstream = async_nats::jetstream::new(self.client.clone());
        let subject = format!("mcp.v1.job.tools.call.{id}");
        let stored = jetstream
            .publish_with_headers(subject, headers, body.to_owned().into())
            .await;
        stored.expect("published").await.expect("stored");
        outcome
    }

    /// Sends an ask that takes progress. Returns the progress messages and the body of the reply.
    async fn ask_with_progress(&self, call: &str, body: &str) -> (Vec<Value>, Value) {
        let inbox = self.client.new_inbox();
        let subscribed = self.client.subscribe(inbox.clone()).await;
        let mut replies = subscribed.expect("subscribed");
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Mcp-Call", call);
        headers.insert("Mcp-Interim", "progress, later-kind");
        let subject = "mcp.v1.ask.tools.call";
        let sent = self
            .client
            .publish_with_reply_and_headers(subject, inbox, headers, body.to_owned().into())
            .await;
        sent.expect("published");
        let mut progress = Vec::new();
        loop {
            let (status, kind, body) = message(&mut replies).await;
            match (status.as_str(), kind.as_deref()) {
                ("interim", Some("progress")) => progress.push(body),
                ("ok", None) => return (progress, body),
                other => panic!("{other:?}: {body}"),
            }
        }
    }
}

/// Returns the status, the kind and the body of the next message.
async fn message(from: &mut async_nats::Subscriber) -> (String, Option<String>, Value) {
    let message = tokio::time::timeout(crate::harness::PATIENCE, from.next())
        .await
        .expect("in time")
        .expect("a message");
    let headers = message.headers.expect("headers");
    let header = |name| headers.get(name).map(ToString::to_string);
    let body = serde_json::from_slice(&message.payload).expect("JSON");
    (
        header("Mcp-Status").expect("a status"),
        header("Mcp-Kind"),
        body,
    )
}

async fn outcome(from: &mut async_nats::Subscriber) -> (String, Value) {
    let message = tokio::time::timeout(crate::harness::PATIENCE, from.next())
        .await
        .expect("in time")
        .expect("an outcome");
    let status = message
        .headers
        .expect("headers")
        .get("Mcp-Status")
        .expect("a status")
        .to_string();
    (
        status,
        serde_json::from_slice(&message.payload).expect("JSON"),
    )
}

#[tokio::test]
async fn a_producers_job_is_one_job_however_often_it_is_sent() {
    let app = App::distributed(2, &[]);
    app.register_fixture("fixture").await.ok();
    let producer = Producer::connect(&app.services.as_ref().expect("services").nats).await;
    let notes = app.dir.path().join("notes");
    let call = r#"{"user": "ana", "server": "fixture", "tool": "note_slowly"}"#;
    let body = json!({ "path": notes, "line": "once", "ms": 100 }).to_string();
    let mut first = producer.put("order-7", call, &body).await;
    let (status, said) = outcome(&mut first).await;
    assert_eq!(
        (&*status, &said["content"][0]["text"]),
        ("ok", &json!("noted slowly"))
    );
    // A producer without an outcome repeats the message. The outcome is repeated, and the job does not run again.
    let mut second = producer.put("order-7", call, &body).await;
    assert_eq!(outcome(&mut second).await, ("ok".into(), said.clone()));
    assert_eq!(std::fs::read_to_string(&notes).expect("notes"), "once\n");
    let job = app
        .until("/jobs/order-7?username=ana", |body| {
            body["job"]["answer"].is_object()
        })
        .await["job"]
        .take();
    assert_eq!(
        (&job["state"], &job["answer"]["body"]["data"]),
        (&json!("succeeded"), &said),
        "{job}"
    );
    // A producer that uses the id of another job hides nothing: the job stays with its owner.
    let id = job["id"].as_str().expect("an id").to_owned();
    let ben = r#"{"user": "ben", "server": "fixture", "tool": "echo"}"#;
    let mut copied = producer.put(&id, ben, r#"{"message": "hi"}"#).await;
    assert_eq!(outcome(&mut copied).await.0, "ok");
    let unchanged = app.get(&format!("/jobs/{id}?username=ana")).await.ok();
    assert_eq!(unchanged["job"]["answer"], job["answer"]);
    app.get(&format!("/jobs/{id}?username=ben"))
        .await
        .fails(404, "job_not_found");
    // Another body under the id of a job is refused with a reason.
    let mut other = producer.put("order-7", call, "{}").await;
    assert_eq!(outcome(&mut other).await.1["code"], "conflict");
}

#[tokio::test]
async fn a_job_survives_the_loss_of_its_worker_and_its_stream() {
    let mut app = App::distributed(2, &[]);
    app.register_fixture("fixture").await.ok();
    let producer = Producer::connect(&app.services.as_ref().expect("services").nats).await;
    let notes = app.dir.path().join("notes");
    let body = json!({ "path": notes, "line": "x", "ms": 60_000 }).to_string();
    let mut lost = producer
        .put(
            "lost",
            r#"{"user": "ana", "server": "fixture", "tool": "note_slowly"}"#,
            &body,
        )
        .await;
    app.until("/jobs/lost?username=ana", |body| {
        body["job"]["state"] == "running"
    })
    .await;
    wait_until("the tool has begun", async || {
        std::fs::read_to_string(&notes).is_ok_and(|text| !text.is_empty())
    })
    .await;
    let jetstream = async_nats::jetstream::new(producer.client.clone());
    jetstream.delete_stream("MCP_JOBS").await.expect("deleted");
    app.processes[1..]
        .iter_mut()
        .for_each(crate::process::Process::kill);
    app.add("worker");
    let (status, said) = outcome(&mut lost).await;
    assert_eq!(
        (&*status, &said["code"], &said["mayHaveRun"]),
        ("failed", &json!("outcome_unknown"), &json!(true))
    );
    assert_eq!(std::fs::read_to_string(&notes).expect("notes"), "x\n");
}

#[tokio::test]
async fn a_producer_is_notified_when_its_waiting_job_is_cancelled() {
    let mut app = App::distributed(2, &[]);
    app.register_fixture("fixture").await.ok();
    let producer = Producer::connect(&app.services.as_ref().expect("services").nats).await;
    let never = r#"{"user": "ana", "server": "fixture", "tool": "never"}"#;
    let mut places = Vec::new();
    for n in 0..64 {
        places.push(producer.put(&format!("never-{n}"), never, "{}").await);
    }
    app.until("/metrics", |text| {
        text.as_str().expect("a text").contains("jobs_running 64")
    })
    .await;
    let cancelled = (
        "failed".to_owned(),
        json!({ "code": "conflict", "message": "The job was cancelled" }),
    );

    let mut waiting = [
        producer.put("first", never, "{}").await,
        producer.put("second", never, "{}").await,
    ];
    for id in ["first", "second"] {
        app.until(&format!("/jobs/{id}?username=ana"), |body| {
            body["job"]["state"] == "waiting"
        })
        .await;
    }
    assert_eq!(
        app.delete("/jobs/first?username=ana").await.ok()["job"]["state"],
        "cancelled"
    );
    assert_eq!(outcome(&mut waiting[0]).await, cancelled);

    // Without a worker, the first worker that starts notifies the producer, even if the facade is gone.
    let other = app.add("api");
    app.processes[1..other]
        .iter_mut()
        .for_each(crate::process::Process::kill);
    let cancel = app.http.delete(format!(
        "{}/jobs/second?username=ana",
        app.processes[other].url
    ));
    assert_eq!(
        crate::harness::answer(cancel).await.ok()["job"]["state"],
        "cancelled"
    );
    app.processes[other].kill();
    app.add("worker");
    app.add("worker");
    assert_eq!(outcome(&mut waiting[1]).await, cancelled);

    // The producer of a running job is notified too, and each producer is notified once.
    for mut lost in places {
        assert_eq!(outcome(&mut lost).await.1["code"], "outcome_unknown");
    }
    let mut running = producer.put("running", never, "{}").await;
    app.until("/jobs/running?username=ana", |body| {
        body["job"]["state"] == "running"
    })
    .await;
    app.delete("/jobs/running?username=ana").await.ok();
    assert_eq!(outcome(&mut running).await, cancelled);
    for outcomes in &mut waiting {
        assert!(outcomes.next().now_or_never().is_none(), "notified twice");
    }
}

#[tokio::test]
async fn an_unreadable_message_becomes_a_dead_letter_with_its_reason() {
    let app = App::distributed(1, &[]);
    app.register_fixture("fixture").await.ok();
    let producer = Producer::connect(&app.services.as_ref().expect("services").nats).await;
    let mut rubbish = producer
        .put("rubbish", "{", r#"{"token":"planted-in-rubbish"}"#)
        .await;
    let (status, said) = outcome(&mut rubbish).await;
    assert_eq!(
        (&*status, &said["code"]),
        ("failed", &json!("invalid_request"))
    );
    // The producer may be notified before this facade has read the log.
    let listed = app
        .until("/dead", |body| body["letters"][0].is_object())
        .await;
    let dead_letter = &listed["letters"][0];
    assert_eq!(
        (
            &dead_letter["id"],
            &dead_letter["size"],
            &dead_letter["reason"]
        ),
        (&json!("rubbish"), &json!(30), &said["message"]),
        "{listed}"
    );
    assert!(!listed.to_string().contains("planted"), "{listed}");
    // Other programs receive the note from a stream.
    let jetstream = async_nats::jetstream::new(producer.client.clone());
    let stream = jetstream.get_stream("MCP_DEAD").await.expect("a stream");
    let note = stream.get_raw_message(1).await.expect("a message");
    assert_eq!(
        serde_json::from_slice::<Value>(&note.payload).expect("JSON"),
        *dead_letter
    );

    let cli = |args: &[&str]| {
        let mut command =
            crate::process::command(app.dir.path(), &[("MCP_API_URL".into(), app.url.clone())]);
        let output = command
            .arg("dead")
            .args(args)
            .output()
            .expect("the program");
        (
            output.status.success(),
            String::from_utf8(output.stdout).expect("UTF-8")
                + &String::from_utf8(output.stderr).expect("UTF-8"),
        )
    };
    let id = dead_letter["letter"].as_str().expect("an id");
    let (well, text) = cli(&["list"]);
    assert!(
        well && text.contains(id) && text.contains("Mcp-Call"),
        "{text}"
    );
    let (well, text) = cli(&["retry", id]);
    assert!(
        !well && text.contains("Mcp-Call"),
        "the message still cannot be parsed: {text}"
    );
    assert!(cli(&["drop", id]).0);
    assert_eq!(app.get("/dead").await.ok()["letters"], json!([]));
    app.delete(&format!("/dead/{id}"))
        .await
        .fails(404, "job_not_found");
    assert!(cli(&["list"]).1.contains("There are no dead letters."));
}

#[tokio::test]
async fn progress_reaches_a_producer_that_takes_it_without_secrets() {
    let app = App::distributed(1, &[]);
    app.register_fixture("fixture").await.ok();
    let python = Real::start(Kind::Python).await;
    connected(&app, "python", &python.url()).await;
    for mode in [("streamableHttp", "/mcp"), ("sse", "/sse")] {
        let everything = Real::start(Kind::Everything(mode.0, mode.1)).await;
        connected(&app, mode.0, &everything.url()).await;
        let producer = Producer::connect(&app.services.as_ref().expect("services").nats).await;
        let call = format!(
            r#"{{"user": "ana", "server": "{}", "tool": "trigger-long-running-operation"}}"#,
            mode.0
        );
        let (progress, result) = producer
            .ask_with_progress(&call, r#"{"duration": 1, "steps": 4}"#)
            .await;
        let expected: Vec<_> = (1..=4)
            .map(|step| json!({ "progress": step, "total": 4 }))
            .collect();
        assert_eq!(progress, expected, "{result}");
    }
    let secret = "planted-secret-of-ana";
    for server in ["fixture", "python"] {
        app.set_secret("ana", server, "message", secret).await;
    }
    let producer = Producer::connect(&app.services.as_ref().expect("services").nats).await;
    let stdio = r#"{"user": "ana", "server": "fixture", "tool": "progress"}"#;
    let (progress, result) = producer
        .ask_with_progress(stdio, r#"{"steps": 3, "ms": 1}"#)
        .await;
    let expected: Vec<_> = (0..3)
        .map(|step| json!({ "progress": step, "message": format!("{step}: ***") }))
        .collect();
    assert_eq!(progress, expected, "{result}");
    assert_eq!(result["content"][0]["text"], "done");
    let http = r#"{"user": "ana", "server": "python", "tool": "report"}"#;
    let (progress, result) = producer.ask_with_progress(http, "{}").await;
    let messages: Vec<_> = progress.iter().map(|step| &step["message"]).collect();
    assert_eq!(messages, ["1: ***", "2: ***"], "{result}");
    assert!(
        progress
            .iter()
            .all(|step| step.get("progressToken").is_none())
    );
}
