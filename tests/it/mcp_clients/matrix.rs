//! One table: each official SDK in each era, at each kind of server, with each operation. A cell says "works", or it names
//! the exact refusal. The clients answer the questions of servers: elicitation, sampling and roots.

use std::time::Instant;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Deployment, lines, node, run};
use crate::harness::fixture;
use crate::remote::{Kind, Real, installed, register};

/// The table. `docs/mcp-endpoint.md` gives the reasons for its refusals. server-everything asks for roots outside of a call,
/// on a stream that the program does not open. It has no tool that changes a list or a resource once (`-`).
const TABLE: &str = "
client            server            list  call  progress cancel elicit   sample  roots   read  prompt complete change subscribe
typescript-1      command           works works works    works  declined refused none    works works  works    works  works
typescript-1      command-exclusive works works works    works  works    works   works   works works  works    works  works
typescript-1      command-2026      works works works    works  works    works   works   works works  works    works  works
typescript-1      sessions          works works works    works  works    works   works   works works  works    works  works
typescript-1      2026-07-28        works works works    works  works    works   works   works works  works    works  works
typescript-1      everything        works works works    works  works    works   none    works works  works    -      -
typescript-1      http-sse          works works works    works  unknown  unknown unknown works works  works    -      -
typescript-2      command           works works works    works  declined refused none    works works  works    works  works
typescript-2      command-exclusive works works works    works  works    works   works   works works  works    works  works
typescript-2      command-2026      works works works    works  works    works   works   works works  works    works  works
typescript-2      sessions          works works works    works  works    works   works   works works  works    works  works
typescript-2      2026-07-28        works works works    works  works    works   works   works works  works    works  works
typescript-2      everything        works works works    works  works    works   none    works works  works    -      -
typescript-2      http-sse          works works works    works  unknown  unknown unknown works works  works    -      -
typescript-2/2026 command           works works works    works  declined refused none    works works  works    works  works
typescript-2/2026 command-exclusive works works works    works  declined refused none    works works  works    works  works
typescript-2/2026 command-2026      works works works    works  works    works   works   works works  works    works  works
typescript-2/2026 sessions          works works works    works  declined refused none    works works  works    works  works
typescript-2/2026 2026-07-28        works works works    works  works    works   works   works works  works    works  works
typescript-2/2026 everything        works works works    works  unknown  unknown unknown works works  works    -      -
typescript-2/2026 http-sse          works works works    works  unknown  unknown unknown works works  works    -      -
python            command           works works works    works  declined refused none    works works  works    works  works
python            command-exclusive works works works    works  works    works   works   works works  works    works  works
python            command-2026      works works works    works  works    works   works   works works  works    works  works
python            sessions          works works works    works  works    works   works   works works  works    works  works
python            2026-07-28        works works works    works  works    works   works   works works  works    works  works
python            everything        works works works    works  works    works   none    works works  works    -      -
python            http-sse          works works works    works  unknown  unknown unknown works works  works    -      -
python/2026       command           works works works    works  declined refused none    works works  works    works  works
python/2026       command-exclusive works works works    works  declined refused none    works works  works    works  works
python/2026       command-2026      works works works    works  works    works   works   works works  works    works  works
python/2026       sessions          works works works    works  declined refused none    works works  works    works  works
python/2026       2026-07-28        works works works    works  works    works   works   works works  works    works  works
python/2026       everything        works works works    works  unknown  unknown unknown works works  works    -      -
python/2026       http-sse          works works works    works  unknown  unknown unknown works works  works    -      -
";

/// The words of the table for refusals, and the exact text that a client finds.
const REFUSALS: &[(&str, &str)] = &[
    ("declined", "User response: action: decline, content: null"),
    (
        "refused",
        "Error executing tool test_sampling: The client refused: sampling/createMessage",
    ),
    (
        "refused",
        "Error executing tool test_sampling: The client refused: this client has no such method",
    ),
    ("none", "Roots: "),
    // It asks on the stream of the session, which belongs to no call.
    (
        "none",
        "The client supports roots but no roots are currently configured.\n\nThis could mean:\n1. The client hasn't provided any roots yet\n2. The client provided an empty roots list\n3. The roots configuration is still being loaded",
    ),
    // A tool that server-everything has only for clients with the capability.
    (
        "unknown",
        "MCP error -32602: Tool trigger-elicitation-request not found",
    ),
    (
        "unknown",
        "MCP error -32602: Tool trigger-sampling-request not found",
    ),
    ("unknown", "MCP error -32602: Tool get-roots-list not found"),
    ("-", "nothing changes"),
];

/// The operations, in the order in which the clients use them.
const STEPS: [&str; 12] = [
    "list",
    "call",
    "progress",
    "cancel",
    "elicit",
    "sample",
    "roots",
    "read",
    "prompt",
    "complete",
    "change",
    "subscribe",
];

/// A client, and how it connects.
struct Client {
    name: &'static str,
    script: &'static str,
    mode: &'static str,
}

const CLIENTS: [Client; 5] = [
    Client {
        name: "typescript-1",
        script: "mcp_client_v1.mjs",
        mode: "legacy",
    },
    Client {
        name: "typescript-2",
        script: "mcp_client_v2.mjs",
        mode: "legacy",
    },
    Client {
        name: "typescript-2/2026",
        script: "mcp_client_v2.mjs",
        mode: "2026-07-28",
    },
    Client {
        name: "python",
        script: "mcp_matrix.py",
        mode: "legacy",
    },
    Client {
        name: "python/2026",
        script: "mcp_matrix.py",
        mode: "2026-07-28",
    },
];

impl Client {
    fn command(&self, plan: &Value, home: &std::path::Path) -> Command {
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

    /// Uses all servers, and returns a row of the table for each.
    async fn rows(&self, deployment: &Deployment) -> Vec<String> {
        let home = tempfile::TempDir::new().expect("a folder");
        let servers: Vec<_> = SERVERS
            .iter()
            .map(|server| {
                let file = home.path().join(server.name).display().to_string();
                server.plan(&deployment.app.url, &file)
            })
            .collect();
        let token = &deployment.tokens[0];
        let plan = json!({ "url": "", "mode": self.mode, "token": token, "servers": servers });
        let found = lines(&run(self.command(&plan, home.path())).await);
        assert_eq!(found.len(), SERVERS.len() * STEPS.len(), "{}", self.name);
        let rows = SERVERS.iter().zip(found.chunks(STEPS.len()));
        rows.map(|(server, found)| self.row(server, found))
            .collect()
    }

    fn row(&self, server: &Server, found: &[Value]) -> String {
        let cells = STEPS.iter().zip(found).map(|(step, line)| {
            assert_eq!(line["step"], *step, "{line}");
            assert_eq!(line["server"], server.name, "{line}");
            server.cell(step, line["found"].as_str().expect("a text"))
        });
        let cells: Vec<_> = cells.collect();
        format!("{} {} {}", self.name, server.name, cells.join(" "))
    }
}

/// A server of the table.
struct Server {
    name: &'static str,
    /// The steps with their arguments. `FILE` is a file that only one client uses.
    steps: fn(file: &str) -> Value,
    /// The beginning of the text that each step finds if it works.
    texts: [&'static str; STEPS.len()],
}

const SERVERS: [Server; 7] = [
    suite("command"),
    suite("command-exclusive"),
    suite("command-2026"),
    suite("sessions"),
    suite("2026-07-28"),
    everything("everything"),
    everything("http-sse"),
];

const fn suite(name: &'static str) -> Server {
    Server {
        name,
        steps: suite_steps,
        texts: [
            "listed",
            "This is a simple text response for testing.",
            "0,50,100 Progress reported",
            "stopped",
            "User response: action: accept, content: {\"username\": \"Ana\", \"email\": \"ana@example.com\"}",
            "LLM response: Paris",
            "Roots: file:///home/ana",
            "This is the content of the static text resource.",
            "Prompt with arguments: arg1='a', arg2='b'",
            "paris park party",
            "heard",
            "heard",
        ],
    }
}

const fn everything(name: &'static str) -> Server {
    Server {
        name,
        steps: everything_steps,
        texts: [
            "listed",
            "Echo: hi",
            "1,2,3 Long running operation completed",
            "stopped",
            "✅ User provided the requested information!",
            "LLM sampling result: \n",
            "Current MCP Roots (1 total):\n\n1. home\n   URI: file:///home/ana",
            "# ",
            "This is a simple prompt without arguments.",
            "Engineering",
            "heard",
            "heard",
        ],
    }
}

fn suite_steps(file: &str) -> Value {
    json!({
        "call": ["test_simple_text", {}],
        "progress": ["test_tool_with_progress", {}],
        "cancel": ["hold", { "path": file }],
        "file": file,
        "elicit": ["test_elicitation", { "message": "Who are you?" }],
        "sample": ["test_sampling", { "prompt": "What is the capital of France?" }],
        "roots": ["test_input_required_result_list_roots", {}],
        "read": "test://static-text",
        "prompt": ["test_prompt_with_arguments", { "arg1": "a", "arg2": "b" }],
        "complete": ["test_prompt_with_arguments", "arg1", "par"],
        "change": ["test_trigger_tool_change", {}],
        "update": ["test_update_resource", { "uri": "test://static-text" }],
    })
}

fn everything_steps(_file: &str) -> Value {
    json!({
        "call": ["echo", { "message": "hi" }],
        "progress": ["trigger-long-running-operation", { "duration": 0.03, "steps": 3 }],
        "cancel": ["trigger-long-running-operation", { "duration": 60, "steps": 6000 }],
        "file": null,
        "elicit": ["trigger-elicitation-request", {}],
        "sample": ["trigger-sampling-request", { "prompt": "What is the capital of France?" }],
        "roots": ["get-roots-list", {}],
        "read": "demo://resource/static/document/architecture.md",
        "prompt": ["simple-prompt", {}],
        "complete": ["completable-prompt", "department", "Eng"],
        "change": null,
        "update": null,
    })
}

impl Server {
    /// Returns the part of the plan of `fixtures/mcp_matrix.mjs` for this server.
    fn plan(&self, url: &str, file: &str) -> Value {
        let mut plan = (self.steps)(file);
        plan["name"] = json!(self.name);
        plan["url"] = json!(format!("{url}/mcp/servers/{}/mcp", self.name));
        plan
    }

    /// Returns the word of the table for the text that a step has found.
    fn cell(&self, step: &str, found: &str) -> String {
        let index = STEPS.iter().position(|name| *name == step);
        if found.starts_with(self.texts[index.expect("a step")]) {
            return "works".to_owned();
        }
        let refusal = REFUSALS.iter().find(|(_, text)| *text == found);
        refusal.map_or_else(|| format!("{found:?}"), |(word, _)| (*word).to_owned())
    }
}

/// Returns a line of the table with one blank between two words.
fn in_one_form(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn start_servers(deployment: &Deployment) -> Vec<Real> {
    for (name, revisions, interaction) in [
        ("command", &["sessions"][..], "none"),
        ("command-exclusive", &["sessions"], "exclusive"),
        ("command-2026", &[], "none"),
    ] {
        let suite = fixture("mcp_suite.py");
        let args = [&["-u", &suite], revisions].concat();
        let python = installed("python/bin/python");
        let command =
            json!({ "name": name, "command": python, "args": args, "interaction": interaction });
        deployment.app.post("/mcp/servers", command).await.ok();
    }
    let kinds = [
        ("sessions", Kind::SuiteWithSessions),
        ("2026-07-28", Kind::Suite),
        ("everything", Kind::Everything("streamableHttp", "/mcp")),
        ("http-sse", Kind::Everything("sse", "/sse")),
    ];
    let starts = kinds.map(|(name, kind)| async move {
        let real = Real::start(kind).await;
        let more = json!({});
        let app = &deployment.app;
        register(app, name, &real.url(), more).await.ok();
        real
    });
    join_all(starts).await
}

#[tokio::test]
async fn every_client_does_every_step_at_every_server_as_the_table_says() {
    let deployment = Deployment::start().await;
    let _servers = start_servers(&deployment).await;
    let begun = Instant::now();
    let rows = join_all(CLIENTS.iter().map(|client| client.rows(&deployment))).await;
    eprintln!("the clients took {:?}", begun.elapsed());
    let expected: Vec<_> = TABLE.trim().lines().skip(1).map(in_one_form).collect();
    assert_eq!(rows.concat(), expected);
}
