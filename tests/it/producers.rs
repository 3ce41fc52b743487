//! Users on the bus: what `schemas/README.md` shows in Python does what it says.

use std::fs;

use serde_json::{Value, json};

use crate::harness::App;
use crate::process::Services;
use crate::services::nats::{JETSTREAM, Nats, Version};

/// The example's text, for another server and another NATS.
fn example(url: &str, call: &str, args: &str) -> String {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/README.md")).expect("the README");
    let code = text.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let code = code.replace("nats://127.0.0.1:4222", url);
    let old = r#"{"user": "ana", "server": "everything", "tool": "echo"}"#;
    assert!(code.contains(old) && code.contains(r#"b'{"message": "hi"}'"#), "{code}");
    code.replace(old, call).replace(r#"b'{"message": "hi"}'"#, args).replace(r#"b'{"message": "later"}'"#, args)
}

/// The status and the body of the ask and of the job.
async fn run(code: &str) -> Vec<(String, Value)> {
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/services/python/bin/python");
    let run = tokio::process::Command::new(python).args(["-c", code]).kill_on_drop(true).output();
    let output = tokio::time::timeout(crate::harness::PATIENCE, run).await.expect("in time").expect("python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = |line: &str| {
        let (status, body) = line.split_once(' ').expect("a status and a body");
        (status.to_owned(), serde_json::from_str(body).expect("JSON"))
    };
    text.lines().map(line).collect()
}

#[tokio::test]
async fn the_example_asks_and_posts_a_job() {
    // As the README advises: a producer may do this and nothing else.
    let users = r#"
        authorization { users: [
            { user: "mcp", password: "all" },
            { user: "producer", password: "some", permissions: {
                publish: ["mcp.v1.job.>", "mcp.v1.ask.tools.call", "$JS.API.INFO"], subscribe: ["_INBOX.>"] } } ] }"#;
    let nats = Nats::with_config(Version::Newest, |_| format!("{JETSTREAM}\n{users}"));
    let (all, some) = (nats.url().replace("//", "//mcp:all@"), nats.url().replace("//", "//producer:some@"));
    let services = Services { nats, ..Services::start() };
    // The later of two values of one variable counts.
    let app = App::start_on(Some(services), 1, &[("NATS_URL", &all)]);
    app.register_fixture("fixture").await.ok();
    app.set_secret("ana", "fixture", "message", "hers alone").await;

    let ana = r#"{"user": "ana", "server": "fixture", "tool": "echo"}"#;
    let told = run(&example(&some, ana, "b'{}'")).await;
    assert_eq!(told.len(), 2, "{told:?}");
    for (status, body) in told {
        assert_eq!((status.as_str(), &body["content"][0]["text"]), ("ok", &json!("hers alone")), "{body}");
    }
    for (call, args, code) in [
        (ana.replace("fixture", "nobody"), "b'{}'", "server_not_found"),
        (ana.into(), "b'[]'", "invalid_request"),
        (ana.into(), "b'{}{}'", "invalid_request"),
        (r#"{"user": "ana", "server": "../x", "tool": "echo"}"#.into(), "b'{}'", "invalid_request"),
    ] {
        for (status, body) in run(&example(&some, &call, args)).await {
            assert_eq!((status.as_str(), &body["code"]), ("failed", &json!(code)), "{call} {args}: {body}");
        }
    }
    // What it may not do does not reach anybody.
    let forbidden = example(&some, ana, "b'{}'").replace("mcp.v1.ask.tools.call", "mcp.v1.ask.servers.disable");
    let forbidden = forbidden.replace("timeout=60, headers", "timeout=1, headers");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/services/python/bin/python");
    let run = tokio::process::Command::new(python).args(["-c", &forbidden]).output().await.expect("python");
    assert!(!run.status.success(), "it was answered");
    assert_eq!(app.server("fixture").await["enabled"], true);
}
