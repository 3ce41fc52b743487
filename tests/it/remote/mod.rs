//! Servers behind a URL: real servers that the tests kill and start again, and scripted servers that misbehave.

mod configuration;
mod lives;
mod query;
pub mod script;
mod wrong;

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::harness::{Answer, App, fixture};
use crate::services::free_port;
use crate::wait::wait_until;

/// A real server. It keeps its port when it is started again. Dropping it kills it.
pub struct Real {
    pub port: u16,
    kind: Kind,
    child: Option<Child>,
    /// The requests that server-everything received, one line of JSON for each.
    record: NamedTempFile,
}

#[derive(Clone, Copy)]
pub enum Kind {
    /// server-everything with its mode and its path.
    Everything(&'static str, &'static str),
    /// A server of the Python SDK.
    Python,
    /// The server that the conformance suite needs.
    Suite,
    /// The same server without the revision 2026-07-28.
    SuiteWithSessions,
}

impl Real {
    pub async fn start(kind: Kind) -> Self {
        let port = free_port();
        let mut real = Self {
            port,
            kind,
            child: None,
            record: NamedTempFile::new().expect("a file"),
        };
        real.restart().await;
        real
    }

    pub fn url(&self) -> String {
        let path = match self.kind {
            Kind::Everything(_, path) => path,
            Kind::Python | Kind::Suite | Kind::SuiteWithSessions => "/mcp",
        };
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Returns the requests that server-everything received: `method`, `url` and `headers`.
    pub fn requests(&self) -> Vec<Value> {
        let lines = std::fs::read_to_string(self.record.path()).expect("the record");
        let parse = |line| serde_json::from_str(line).expect("JSON");
        lines.lines().map(parse).collect()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("ended");
        }
    }

    /// Kills a running server, starts it, and waits until it listens.
    pub async fn restart(&mut self) {
        self.kill();
        let mut command = match self.kind {
            Kind::Everything(mode, _) => {
                let mut command = Command::new("node");
                let server =
                    "npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js";
                command
                    .args(["-r", &fixture("loopback.cjs"), "-r"])
                    .args([&fixture("recorder.cjs"), &installed(server), mode])
                    .env("RECORDED_REQUESTS", self.record.path())
                    .env("PORT", self.port.to_string());
                command
            }
            Kind::Python => python_server("stateless.py", self.port),
            Kind::Suite => python_server("mcp_suite.py", self.port),
            Kind::SuiteWithSessions => {
                let mut command = python_server("mcp_suite.py", self.port);
                command.arg("sessions");
                command
            }
        };
        self.child = Some(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("a server"),
        );
        wait_until("the MCP server listens", async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
            connected.is_ok()
        })
        .await;
    }
}

fn python_server(script: &str, port: u16) -> Command {
    let mut command = Command::new(installed("python/bin/python"));
    command.args([fixture(script), port.to_string()]);
    command
}

impl Drop for Real {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn installed(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/services")
        .join(path);
    assert!(
        path.exists(),
        "run ./tests/run once: it installs the real MCP servers, and {} is missing",
        path.display()
    );
    path.display().to_string()
}

/// Registers a server behind a URL, with further fields.
pub async fn register(app: &App, name: &str, url: &str, more: Value) -> Answer {
    let mut body = json!({ "name": name, "transportType": "streamable_http", "url": url });
    body.as_object_mut()
        .expect("an object")
        .extend(more.as_object().expect("an object").clone());
    app.post("/mcp/servers", body).await
}

/// Registers a server that must connect.
pub async fn connected(app: &App, name: &str, url: &str) -> Value {
    let server = register(app, name, url, json!({})).await.ok()["server"].take();
    assert_eq!(server["status"], "connected", "{server}");
    server
}

/// Returns the protocol modes that the log records.
pub async fn eras(app: &App) -> Vec<Value> {
    let events = app.get("/events?limit=1000").await.ok();
    let events = events["events"].as_array().expect("events").iter();
    events
        .filter(|event| event["type"] == "server.protocol_detected")
        .map(|event| event["data"]["protocol"].clone())
        .collect()
}
