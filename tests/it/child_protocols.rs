//! How the program finds out which revision of MCP a child process speaks, and remembers it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{App, fixture, python};
use crate::mcp_endpoint::client::{McpClient, Messages, result};
use crate::wait::wait_until;

/// The time after which the program sends `initialize` to a child that has not answered `server/discover`.
const SILENCE: Duration = Duration::from_secs(5);

/// One server of `fixtures/child_protocols.py`.
struct Child {
    app: App,
    _dir: TempDir,
    starts: PathBuf,
}

impl Child {
    fn new(way: &str) -> (Self, Value) {
        let dir = TempDir::new().expect("a folder");
        let starts = dir.path().join("starts");
        let args = json!([fixture("child_protocols.py"), way, starts]);
        let server = json!({ "name": "child", "command": python(), "args": args });
        let child = Self {
            app: App::start(),
            _dir: dir,
            starts,
        };
        (child, server)
    }

    /// Registers a child, and checks that it is connected.
    async fn connected(way: &str) -> Self {
        let (child, server) = Self::new(way);
        let registered = child.app.post("/mcp/servers", server).await.ok();
        assert_eq!(registered["server"]["status"], "connected", "{registered}");
        child
    }

    async fn call(&self, tool: &str) -> Value {
        let called = self.app.call("ana", "child", tool, json!({})).await;
        called.ok()["data"]["content"].clone()
    }

    /// Stops the child and starts it again.
    async fn restart(&self) {
        for action in ["disable", "enable"] {
            let path = format!("/mcp/servers/child/{action}");
            self.app.put(&path, json!({})).await.ok();
        }
        let app = &self.app;
        wait_until("the child is connected again", async || {
            app.get("/mcp/servers/child").await.ok()["server"]["status"] == "connected"
        })
        .await;
    }

    /// Returns the lines that the children have written.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.starts).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns the first method that each child has read.
    fn first_methods(&self) -> Vec<String> {
        let is_start = |line: &String| ["initialize", "server/discover"].contains(&line.as_str());
        self.lines().into_iter().filter(is_start).collect()
    }

    async fn protocol_events(&self) -> Vec<Value> {
        let page = self.app.get("/events?limit=1000").await.ok();
        let events = page["events"].as_array().expect("events").iter();
        let detected = events.filter(|event| event["type"] == "server.protocol_detected");
        detected
            .map(|event| event["data"]["protocol"].clone())
            .collect()
    }
}

#[tokio::test]
async fn a_child_without_initialize_is_used_without_a_session() {
    let child = Child::connected("modern").await;
    assert_eq!(child.call("way").await, "modern");
    child.restart().await;
    assert_eq!(child.call("way").await, "modern");
    assert_eq!(child.first_methods(), ["server/discover"; 2]);
    assert_eq!(child.protocol_events().await, ["stateless"]);
}

#[tokio::test]
async fn a_child_that_refuses_the_probe_gets_initialize_at_once_from_then_on() {
    let child = Child::connected("legacy").await;
    child.restart().await;
    assert_eq!(child.call("way").await, "legacy");
    assert_eq!(child.first_methods(), ["server/discover", "initialize"]);
    assert_eq!(child.protocol_events().await, ["session"]);
}

#[tokio::test]
async fn a_child_that_drops_the_probe_gets_initialize_after_5_s_and_at_once_from_then_on() {
    let begun = Instant::now();
    let child = Child::connected("silent").await;
    assert!(begun.elapsed() >= SILENCE, "{:?}", begun.elapsed());
    assert_eq!(child.call("way").await, "silent");
    let begun = Instant::now();
    child.restart().await;
    assert!(begun.elapsed() < SILENCE, "{:?}", begun.elapsed());
    assert_eq!(child.first_methods(), ["server/discover", "initialize"]);
}

#[tokio::test]
async fn a_child_that_ends_at_the_probe_is_started_again_with_initialize() {
    let child = Child::connected("ends").await;
    child.restart().await;
    assert_eq!(child.call("way").await, "ends");
    let expected = ["server/discover", "initialize", "initialize"];
    assert_eq!(child.first_methods(), expected);
}

#[tokio::test]
async fn a_child_that_answers_the_probe_late_is_used_without_a_session() {
    let child = Child::connected("late").await;
    assert_eq!(child.call("way").await, "late");
    assert_eq!(child.protocol_events().await, ["stateless"]);
}

#[tokio::test]
async fn a_child_that_fails_is_started_twice_and_the_error_names_its_exit_code() {
    let (child, server) = Child::new("fails");
    let registered = child.app.post("/mcp/servers", server).await;
    let text = registered.body.to_string();
    assert!(text.contains("it exited with code 3"), "{text}");
    let first = child.first_methods();
    assert_eq!(first[..2], ["server/discover", "initialize"], "{first:?}");
}

#[tokio::test]
async fn a_child_that_drops_the_probe_and_refuses_initialize_says_why() {
    let (child, server) = Child::new("refuses");
    let begun = Instant::now();
    let registered = child.app.post("/mcp/servers", server).await;
    let text = registered.body.to_string();
    assert!(text.contains("the key is missing"), "{text}");
    assert!(begun.elapsed() < SILENCE * 4, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_child_that_ends_its_stream_is_asked_again_and_lists_its_tools_again() {
    let child = Child::connected("ends a stream").await;
    let count = |method: &str| {
        let lines = child.lines();
        let methods = lines.iter().filter_map(|line| line.split(' ').next());
        methods.filter(|found| *found == method).count()
    };
    wait_until("the child is asked again", async || {
        count("listen") == 2 && count("list") == 2
    })
    .await;
}

#[tokio::test]
async fn a_subscription_waits_for_no_stream_that_the_child_refuses() {
    let child = Child::connected("has no stream").await;
    let client = McpClient::new(&child.app, "/mcp/servers/child/mcp").user("ana");
    let (client, _) = client.initialize("2025-11-25").await;
    let _stream = Messages::open(client.request(Method::GET)).await;
    let begun = Instant::now();
    let params = json!({ "uri": "a:b" });
    result(client.legacy("resources/subscribe", params).await);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn a_child_whose_program_speaks_another_revision_now_is_found_out() {
    let child = Child::connected("becomes modern").await;
    let program = Path::new(&child.starts).with_extension("program");
    fs::write(program, "2").expect("a file");
    child.restart().await;
    assert_eq!(child.call("way").await, "becomes modern");
    let expected = ["server/discover", "initialize", "server/discover"];
    assert_eq!(child.first_methods(), expected);
    assert_eq!(child.protocol_events().await, ["session", "stateless"]);
}

#[tokio::test]
async fn another_command_is_probed_again() {
    let child = Child::connected("legacy").await;
    let args = json!([fixture("child_protocols.py"), "modern", child.starts]);
    let update = json!({ "command": python(), "args": args });
    child.app.put("/mcp/servers/child", update).await.ok();
    let app = &child.app;
    wait_until("the new child is called", async || {
        let called = app.call("ana", "child", "way", json!({})).await;
        called.body["data"]["content"] == "modern"
    })
    .await;
    assert_eq!(child.first_methods(), ["server/discover"; 2]);
}

#[tokio::test]
async fn a_request_of_a_child_without_sessions_is_refused() {
    let child = Child::connected("modern").await;
    let reply = child.call("ask").await;
    let reply: Value = serde_json::from_str(reply.as_str().expect("a text")).expect("JSON");
    assert_eq!(reply["id"], "q");
    assert_eq!(reply["error"]["code"], -32601, "{reply}");
}

#[tokio::test]
async fn a_child_without_sessions_reports_the_watched_resources() {
    let child = Child::connected("modern").await;
    let client = McpClient::new(&child.app, "/mcp/servers/child/mcp").user("ana");
    let (client, _) = client.initialize("2025-11-25").await;
    let mut stream = Messages::open(client.request(Method::GET)).await;
    let params = json!({ "uri": "a:b" });
    result(client.legacy("resources/subscribe", params).await);
    child.call("change").await;
    let updated = stream.notification("notifications/resources/updated").await;
    assert_eq!(updated["params"]["uri"], "a:b", "{updated}");
    // The request with the resource replaces the first one, which is cancelled.
    let lines = child.lines();
    let listens: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("listen"))
        .collect();
    assert_eq!(listens.len(), 2, "{lines:?}");
    assert!(
        listens[1].contains(r#""resourceSubscriptions": ["a:b"]"#),
        "{lines:?}"
    );
    assert!(lines.contains(&"cancelled 1002".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn requests_of_a_child_get_replies_and_their_texts_stay_out_of_the_log() {
    const PLANTED: &str = "planted-secret-of-a-method";
    let child = Child::connected("legacy").await;
    let large = json!({ "message": "x".repeat(70_000) });
    let requests = json!([
        { "method": "ping" },
        { "method": "roots/list" },
        { "method": "elicitation/create", "nested": 140 },
        { "method": "elicitation/create", "params": large },
        { "method": "sampling/createMessage", "params": { "messages": [] } },
        { "method": PLANTED },
    ]);
    let arguments = json!({ "requests": requests });
    let called = child.app.call("ana", "child", "send", arguments).await.ok();
    let replies = called["data"]["content"].as_str().expect("a text");
    let replies: Value = serde_json::from_str(replies).expect("JSON");
    let refused = json!({ "code": -32601, "message": "this client has no such method" });
    let expected = json!({
        "r0": {}, "r1": { "roots": [] }, "r2": { "action": "decline" }, "r3": { "action": "decline" },
        "r4": refused, "r5": refused,
    });
    assert_eq!(replies, expected);
    assert!(!child.app.log().contains(PLANTED));
}
