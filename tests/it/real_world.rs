//! Servers that behave like servers in public reports. `fixtures/real_world.py` scripts them, and the tables below say
//! what the program makes of each behavior. A new report is one more class there and one more row here.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::harness::{App, answer, fixture, python};
use crate::wait::{wait_for, wait_until};

/// What the program makes of a server.
enum Outcome {
    /// The server connects with its one tool, and every call has a result.
    Works,
    /// Only a call that the server may have executed fails. Later calls have a result.
    Recovers,
    /// The server does not connect, and its error or details contain this text.
    DoesNotConnect(&'static str),
    /// The server connects, and a call fails at once with this text in its error.
    CallFails(&'static str),
}
use Outcome::{CallFails, DoesNotConnect, Recovers, Works};

const STDIO: &[(&str, Outcome)] = &[
    ("byte_order_mark_before_each_line", Works),
    ("replies_in_batches", Works),
    ("integer_ids_only", Works),
    ("integer_ids_returned_as_strings", Works),
    ("null_entry_in_the_tool_list", Works),
    ("null_for_absent_members", Works),
    ("cursor_that_does_not_advance", Works),
    ("log_lines_on_standard_output", Works),
    ("error_without_id", CallFails("cannot read this call")),
    (
        "refuses_initialize_without_id",
        DoesNotConnect("this client is not supported"),
    ),
    (
        "reason_on_standard_output",
        DoesNotConnect("Required command was not provided."),
    ),
];

const HTTP: &[(&str, Outcome)] = &[
    ("forgets_the_session_with_400", Works),
    ("forgets_the_session_with_401", Works),
    ("forgets_the_session_with_403", Works),
    ("forgets_the_session_with_404", Works),
    ("forgets_the_session_with_409", Works),
    ("forgets_the_session_with_410", Works),
    ("forgets_the_session_with_422", Works),
    ("forgets_the_session_with_500", Recovers),
    ("forgets_the_session_with_503", Recovers),
    ("forgets_the_session_with_200", Works),
    ("status_405_with_a_json_body_then_http_sse", Works),
    ("json_without_a_content_type", Works),
    ("stream_that_ends_at_once", Works),
    ("error_without_id_under_200", CallFails("the disk is full")),
    ("encodes_although_nobody_asked", CallFails("gzip")),
    (
        "static_header_refused_with_a_json_body",
        DoesNotConnect("HTTP 401"),
    ),
];

/// A scripted server behind a URL. Dropping it kills it.
struct HttpServer {
    url: String,
    child: Child,
}

impl HttpServer {
    async fn start(behavior: &str, directory: &Path) -> Self {
        let port_file = directory.join(behavior);
        let child = Command::new(python())
            .args(["-u", &fixture("real_world.py"), behavior])
            .arg(&port_file)
            .stdout(Stdio::null())
            .spawn()
            .expect("a server");
        let port = wait_for("the server listens", async || {
            std::fs::read_to_string(&port_file).ok()
        })
        .await;
        Self {
            url: format!("http://127.0.0.1:{port}/mcp"),
            child,
        }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

/// Checks one server after its registration.
async fn check(app: &App, name: &str, registered: Value, outcome: &Outcome) {
    let server = &registered["server"];
    let is_connected = server["status"] == "connected";
    if let DoesNotConnect(reason) = outcome {
        assert!(!is_connected, "{name}: {server}");
        let shown = format!("{} {}", server["error"], server["details"]);
        assert!(shown.contains(reason), "{name}: {server}");
        return;
    }
    assert!(is_connected, "{name}: {server}");
    let tools = server["toolsList"].as_array().map(Vec::len);
    assert_eq!(tools, Some(1), "{name}: {server}");
    let call = async || {
        app.call("ana", name, "echo", json!({ "message": "hello" }))
            .await
    };
    if let Recovers = outcome {
        wait_until(name, async || call().await.status == 200).await;
    }
    for _ in 0..2 {
        let answer = call().await;
        match outcome {
            CallFails(reason) => {
                let error = answer.fails(502, "upstream_error");
                assert!(error.contains(reason), "{name}: {error}");
            }
            _ => assert_eq!(answer.ok()["data"]["content"], "hello", "{name}"),
        }
    }
}

/// Checks all rows of a table at once. A failed row does not hide the other rows.
async fn check_all(
    table: &[(&'static str, Outcome)],
    check_row: impl AsyncFn(&'static str, &Outcome),
) {
    let rows = table.iter().map(async |(behavior, outcome)| {
        let row = AssertUnwindSafe(check_row(behavior, outcome));
        row.catch_unwind().await.err().map(|_| *behavior)
    });
    let failed: Vec<_> = join_all(rows).await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "the messages above are about {failed:?}");
}

#[tokio::test]
async fn servers_over_standard_input_and_output() {
    let app = App::start();
    check_all(STDIO, async |behavior, outcome| {
        let arguments = json!(["-u", fixture("real_world.py"), behavior]);
        let fields = json!({ "args": arguments, "startupTimeout": 20_000, "toolTimeout": 20_000 });
        let registered = app.register(behavior, fields).await.ok();
        check(&app, behavior, registered, outcome).await;
    })
    .await;
    let logs = app.server("null_entry_in_the_tool_list").await["logs"].to_string();
    assert!(logs.contains("2 entries"), "{logs}");
    let logs = app.server("log_lines_on_standard_output").await["logs"].to_string();
    assert!(
        logs.contains("Starting ...") && logs.contains("[INFO] ready"),
        "{logs}"
    );
}

#[tokio::test]
async fn servers_behind_a_url() {
    let app = App::start();
    let directory = tempfile::TempDir::new().expect("a directory");
    check_all(HTTP, async |behavior, outcome| {
        let server = HttpServer::start(behavior, directory.path()).await;
        let body = json!({
            "name": behavior, "transportType": "streamable_http", "url": server.url,
            "headers": { "X-Api-Key": "static-key" }, "startupTimeout": 20_000, "toolTimeout": 20_000,
        });
        let body = if behavior.starts_with("static") {
            body
        } else {
            let mut body = body;
            body["headers"] = json!({});
            body
        };
        let registered = app.post("/mcp/servers", body).await.ok();
        check(&app, behavior, registered, outcome).await;
    })
    .await;
}

#[tokio::test]
async fn an_unanswered_cancellation_does_not_stop_a_server() {
    let app = App::embedded();
    let directory = tempfile::TempDir::new().expect("a directory");
    let behavior = "http_sse_that_stops_accepting_messages";
    let server = HttpServer::start(behavior, directory.path()).await;
    let body = json!({ "name": "stuck", "transportType": "streamable_http", "url": server.url });
    let registered = app.post("/mcp/servers", body).await.ok();
    assert_eq!(registered["server"]["status"], "connected", "{registered}");
    let call = |args: Value, timeout: u64| {
        let body = json!({ "serverName": "stuck", "methodName": "echo", "args": args, "timeoutMs": timeout });
        app.post("/mcp/tool/call", body)
    };
    let hanging = call(json!({ "hang": true }), 500).await;
    hanging.fails(504, "timeout");
    wait_until("the server answers calls again", async || {
        call(json!({ "message": "back" }), 5000).await.status == 200
    })
    .await;
}

/// Kilobytes of memory that a process uses.
fn resident_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let size = status
        .lines()
        .find_map(|text| text.strip_prefix("VmRSS:"))
        .expect("a size");
    size.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

#[tokio::test]
async fn a_child_that_stops_reading_is_restarted_and_keeps_no_frames() {
    let app = App::embedded();
    let arguments = json!(["-u", fixture("real_world.py"), "stops_reading"]);
    let fields = json!({ "args": arguments, "toolTimeout": 3000 });
    app.register("deaf", fields).await.ok();
    let before = resident_memory(app.pid());
    let call = |args: Value, timeout: u64| {
        let body = json!({ "serverName": "deaf", "methodName": "echo", "args": args, "timeoutMs": timeout });
        app.post("/mcp/tool/call", body)
    };
    // Each call sends the same bytes, because a test that builds 48 large bodies starves its own connections.
    let large = json!({
        "serverName": "deaf", "methodName": "echo", "args": { "message": "x".repeat(4 << 20) }, "timeoutMs": 1000,
    });
    let large = Bytes::from(large.to_string());
    let call_large = || {
        let request = app.http.post(format!("{}/mcp/tool/call", app.url));
        let request = request.header("content-type", "application/json");
        answer(request.body(large.clone()))
    };
    let stop = call(json!({ "stop": true }), 20_000);
    // A call that arrives before the stop has an answer.
    let late = async {
        app.until("/mcp/servers/deaf", |body| {
            body["server"]["logs"].to_string().contains("reads no more")
        })
        .await;
        join_all((0..48).map(|_| call_large())).await
    };
    let (stopped, late) = tokio::join!(stop, late);
    assert_ne!(stopped.status, 200, "{}", stopped.body);
    assert!(late.iter().all(|answer| answer.status != 200));
    // The calls together had 192 MiB of frames.
    let grown = || resident_memory(app.pid()).saturating_sub(before);
    wait_until("the memory of the frames is free", async || {
        grown() < 96 << 10
    })
    .await;
    wait_until("the server is restarted", async || {
        call(json!({ "message": "back" }), 5000).await.status == 200
    })
    .await;
    let logs = app.server("deaf").await["logs"].to_string();
    assert!(logs.contains("read nothing for 3000 ms"), "{logs}");
}
