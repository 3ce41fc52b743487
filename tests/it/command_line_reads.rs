//! The commands `logs`, `events` and `jobs`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::command_line::run;
use crate::harness::App;
use crate::process::command;

/// A command that runs until it is dropped, and its lines.
struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    fn start(app: &App, words: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = command(app.dir.path(), &crate::process::owned(env));
        let mut child = command
            .args(words)
            .args(["--follow", "--url", &app.url])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, lines }
    }

    /// Returns the next line that contains a text, and the number of lines before it.
    fn line_with(&mut self, text: &str) -> (String, usize) {
        for skipped in 0.. {
            let mut line = String::new();
            let read = self.lines.read_line(&mut line).expect("a line");
            assert_ne!(read, 0, "the command ended before {text}");
            if line.contains(text) {
                return (line, skipped);
            }
        }
        unreachable!("a number has no end")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stdout(app: &App, words: &[&str]) -> String {
    let output = run(app.dir.path(), &app.url, words, &[]);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test]
async fn logs_show_the_lines_of_a_server_and_follow_them() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    app.text("fixture", "stderr", json!({ "text": "first \u{1b}[2J" }))
        .await;
    app.until("/mcp/servers/fixture", |body| {
        body.to_string().contains("first")
    })
    .await;
    let shown = stdout(&app, &["logs", "fixture"]);
    assert!(
        shown.contains("  stderr     first \u{fffd}[2J\n"),
        "{shown}"
    );
    let mut following = Following::start(&app, &["logs", "fixture"], &[]);
    following.line_with("first");
    app.text("fixture", "stderr", json!({ "text": "second" }))
        .await;
    following.line_with("second");
}

#[tokio::test]
async fn events_are_lines_of_json_and_continue_after_a_restart() {
    let mut app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let events = stdout(&app, &["events", "--subject", "server/fixture"]);
    let events: Vec<Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(events[0]["type"], "server.registered");
    let id = events[0]["id"].as_str().expect("an id");
    let later = stdout(
        &app,
        &["events", "--subject", "server/fixture", "--after", id],
    );
    assert_eq!(later.lines().count(), events.len() - 1);

    // The port stays the same, so that the command finds the program again.
    let port = app.url.rsplit_once(':').expect("a port").1.to_owned();
    let words = ["events", "--subject", "server/fixture"];
    let mut following = Following::start(&app, &words, &[]);
    following.line_with("server.registered");
    app.kill();
    app.restart_with(&[("PORT", &port)]);
    // A new client, because the pool of the old client holds a connection to the killed process.
    app.http = reqwest::Client::new();
    app.put("/mcp/servers/fixture/disable", json!({}))
        .await
        .ok();
    let (line, _) = following.line_with("server.disabled");
    assert!(line.starts_with('{'), "{line}");
}

#[tokio::test]
async fn jobs_are_listed_shown_and_cancelled() {
    let app = App::embedded();
    app.register_fixture("fixture").await.ok();
    let call = json!({ "username": "ana", "serverName": "fixture", "methodName": "echo",
        "args": { "message": "later" } });
    let request = app.http.post(format!("{}/mcp/tool/call", app.url));
    let request = request.header("prefer", "respond-async").json(&call);
    let accepted = crate::harness::answer(request).await.body;
    let id = accepted["jobId"].as_str().expect("a job");
    let path = format!("/jobs/{id}?username=ana");
    app.until(&path, |body| body["job"]["state"] == "succeeded")
        .await;
    let list = stdout(
        &app,
        &[
            "jobs",
            "--user",
            "ana",
            "--state",
            "succeeded",
            "--state",
            "failed",
        ],
    );
    assert!(list.starts_with(&format!("{id}  succeeded  ")), "{list}");
    assert!(list.ends_with("  tools.call  fixture echo\n"), "{list}");
    assert_eq!(
        stdout(&app, &["jobs", "--user", "ana", "--state", "waiting"]),
        ""
    );
    let job = stdout(&app, &["jobs", "show", id, "--user", "ana"]);
    let job: Value = serde_json::from_str(&job).expect("JSON");
    assert_eq!(job["answer"]["body"]["data"]["content"], "later");
    let words = ["jobs", "cancel", id, "--user", "ana"];
    let ended = run(app.dir.path(), &app.url, &words, &[]);
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
}
