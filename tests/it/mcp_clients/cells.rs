//! One table: each official SDK in each of its modes, at both endpoints, with both kinds of servers. Every cell takes the
//! same steps, and every step works.

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Deployment, USERS, lines, node, run};
use crate::harness::fixture;
use crate::mcp_endpoint::client::McpClient;
use crate::remote::installed;

/// The sentence of a server that is down.
const DOWN: &str = "Server down could not be started";

/// A client, and how it connects.
#[derive(Clone, Copy)]
struct Row {
    script: &'static str,
    mode: &'static str,
    /// Whether the client begins a session.
    has_session: bool,
}

/// The endpoint of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Endpoint {
    All,
    One,
}

/// The server of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Upstream {
    Stdio,
    Http,
}

/// The tools that the steps call, each with its arguments.
struct Steps {
    tools: Value,
    grown: &'static str,
    secret: fn(&str) -> String,
    progress: Value,
    text: &'static str,
}

impl Upstream {
    fn steps(self, file: &str) -> Steps {
        match self {
            Self::Stdio => Steps {
                tools: json!({
                    "secret": ["echo", {}], "progress": ["progress", { "steps": 5, "ms": 1 }],
                    "fail": ["result", { "result": { "content": [], "isError": true } }],
                    "change": ["add_tool", { "name": "grown" }], "hold": ["hold", { "path": file }],
                }),
                grown: "grown",
                secret: str::to_owned,
                progress: json!([0.0, 1.0, 2.0, 3.0, 4.0]),
                text: "done",
            },
            Self::Http => Steps {
                tools: json!({
                    "secret": ["echo", {}], "progress": ["report", {}], "fail": ["routed", {}],
                    "change": ["grow", {}], "hold": ["hold", { "path": file }],
                }),
                grown: "grown",
                secret: |value| format!("Echo: {value}"),
                progress: json!([1.0, 2.0]),
                text: "reported",
            },
        }
    }
}

/// Returns the plan of `fixtures/mcp_client.mjs`.
fn plan(
    deployment: &Deployment,
    row: Row,
    endpoint: Endpoint,
    server: &str,
    steps: &Steps,
    file: &str,
) -> Value {
    let url = |server: &str| match endpoint {
        Endpoint::All => format!("{}/mcp", deployment.app.url),
        Endpoint::One => format!("{}/mcp/servers/{server}/mcp", deployment.app.url),
    };
    let name = |server: &str, tool: &str| match endpoint {
        Endpoint::All => format!("{server}__{tool}"),
        Endpoint::One => tool.to_owned(),
    };
    let mut tools = steps.tools.clone();
    for call in tools.as_object_mut().expect("tools").values_mut() {
        call[0] = json!(name(server, call[0].as_str().expect("a name")));
    }
    let [ana, ben] = &deployment.tokens;
    json!({
        "url": url(server), "mode": row.mode, "token": ana, "other": ben, "tools": tools,
        "grown": name(server, steps.grown), "file": file,
        "down": { "url": url("down"), "tool": [name("down", "echo"), {}] },
    })
}

impl Row {
    fn command(self, plan: &Value, home: &std::path::Path) -> Command {
        let mut command = if self.script.ends_with(".py") {
            Command::new(installed("python/bin/python"))
        } else {
            node(home)
        };
        command.arg(fixture(self.script));
        if !self.script.ends_with(".py") {
            command.arg(installed("clients/node_modules"));
        }
        command.arg(plan.to_string());
        command
    }

    /// Runs the client in all cells of its row.
    async fn works(self) {
        let deployment = Deployment::start().await;
        deployment.add_down("down").await;
        for endpoint in [Endpoint::All, Endpoint::One] {
            for upstream in [Upstream::Stdio, Upstream::Http] {
                self.cell_works(&deployment, endpoint, upstream).await;
            }
        }
    }

    async fn cell_works(self, deployment: &Deployment, endpoint: Endpoint, upstream: Upstream) {
        // A server has one cell, because a worker records few changes of a tool list in a row.
        let server = format!("{upstream:?}-{endpoint:?}").to_lowercase();
        let _http = match upstream {
            Upstream::Stdio => {
                deployment.add_stdio(&server).await;
                None
            }
            Upstream::Http => Some(deployment.add_http(&server).await),
        };
        let home = tempfile::TempDir::new().expect("a folder");
        let file = home.path().join("held").display().to_string();
        let steps = upstream.steps(&file);
        let plan = plan(deployment, self, endpoint, &server, &steps, &file);
        let found = lines(&run(self.command(&plan, home.path())).await);
        let cell = format!("{} {} {server}", self.script, self.mode);
        self.check(&cell, &steps, &found);
        let session = &found.last().expect("steps")["session"];
        if let Some(session) = session.as_str() {
            check_ended(deployment, &plan, session).await;
        }
    }

    fn check(self, cell: &str, steps: &Steps, found: &[Value]) {
        let secrets = USERS.map(|(_, value)| (steps.secret)(value));
        let count = steps.progress.as_array().expect("a list").len();
        let mut found = found.to_vec();
        let progress = &mut found[2]["steps"];
        for step in progress.as_array_mut().expect("a list") {
            *step = json!(step.as_f64());
        }
        let down = found[5]["text"].take();
        assert!(down.as_str().expect("a text").starts_with(DOWN), "{down}");
        let session = found[7]["session"].take();
        assert_eq!(session.is_string(), self.has_session, "{cell}");
        let expected = json!([
            { "step": "list", "found": true },
            { "step": "secret", "texts": secrets },
            { "step": "progress", "steps": steps.progress, "before": count, "text": steps.text },
            { "step": "cancel", "ended": "stopped" },
            { "step": "fail", "isError": true },
            {
                "step": "down", "errors": [true, true], "text": null, "code": "upstream_error",
                "mayHaveRun": false,
            },
            { "step": "change" },
            { "step": "end", "session": null },
        ]);
        assert_eq!(Value::Array(found), expected, "{cell}");
    }
}

/// Checks that the client has ended its session with DELETE.
async fn check_ended(deployment: &Deployment, plan: &Value, session: &str) {
    let path = plan["url"].as_str().expect("a URL");
    let path = path.strip_prefix(&deployment.app.url).expect("a path");
    let client = McpClient::new(&deployment.app, path)
        .token(&deployment.tokens[0])
        .with("mcp-session-id", session);
    assert_eq!(client.legacy("ping", json!({})).await.status, 404);
}

#[tokio::test]
async fn typescript_1() {
    row("mcp_client_v1.mjs", "legacy", true).works().await;
}

#[tokio::test]
async fn typescript_2_legacy() {
    row("mcp_client_v2.mjs", "legacy", true).works().await;
}

#[tokio::test]
async fn typescript_2_pinned() {
    row("mcp_client_v2.mjs", "2026-07-28", false).works().await;
}

#[tokio::test]
async fn typescript_2_auto() {
    row("mcp_client_v2.mjs", "auto", false).works().await;
}

#[tokio::test]
async fn python_legacy() {
    row("mcp_client.py", "legacy", true).works().await;
}

#[tokio::test]
async fn python_pinned() {
    row("mcp_client.py", "2026-07-28", false).works().await;
}

#[tokio::test]
async fn python_auto() {
    row("mcp_client.py", "auto", false).works().await;
}

fn row(script: &'static str, mode: &'static str, has_session: bool) -> Row {
    Row {
        script,
        mode,
        has_session,
    }
}
