//! The bus as AsyncAPI 3.0 describes it, for programs in other languages.

use std::fmt::Write;

use crate::core::command::{Command, DeliveryMode, known, schemas};
use crate::core::model::tool_call::CallTool;

/// The headers of an ask; only the first is needed, and only by `tools.call`.
const ASK_HEADERS: &[(&str, &str)] = &[
    (
        "Mcp-Call",
        "The JSON of a tool call (commands/tools.call.v1.json); the body is then its arguments alone.",
    ),
    (
        "Mcp-Time-Left",
        "Milliseconds the sender waits; 60000 where absent.",
    ),
    (
        "Mcp-Seen",
        "The newest Mcp-Position the sender has seen: the worker reads the log so far before it acts.",
    ),
    (
        "Mcp-Working",
        "1: the sender wants a message with Mcp-Status working after 500 ms and then every second.",
    ),
    ("traceparent", "W3C Trace Context, version 00."),
];
const JOB_HEADERS: &[(&str, &str)] = &[
    ("Mcp-Call", "As with an ask."),
    (
        "Mcp-Reply",
        "A subject that begins with _INBOX. and is told the outcome.",
    ),
];
const REPLY_HEADERS: &[(&str, &str)] = &[
    (
        "Mcp-Status",
        "ok; failed: the body says why; busy: nothing was begun; working: it was begun, and more will come.",
    ),
    (
        "Mcp-Position",
        "The newest position of the log that the worker has seen, where it is newer than Mcp-Seen.",
    ),
];

/// The text of `schemas/asyncapi.yaml`.
pub fn document() -> String {
    let mut text = String::from(
        "# Made by `cargo run -- schemas .`; schemas/README.md says it in words.\nasyncapi: 3.0.0\ninfo:\n  title: MCP API on NATS\n  version: ",
    );
    let (mut channels, mut operations, mut messages) =
        (String::new(), String::new(), String::new());
    for (name, version, _) in schemas() {
        let lanes: &[&str] = match known(name) {
            // Of producers a tool call alone is taken as a job; other jobs are begun over HTTP.
            _ if name == CallTool::NAME => &["ask", "job"],
            Some((_, _, DeliveryMode::Job)) => continue,
            _ => &["ask"],
        };
        for lane in lanes {
            let id = format!("{lane}.{name}");
            let (address, parameters) = match *lane {
                "job" => (
                    format!("mcp.v1.job.{name}.{{id}}"),
                    "\n    parameters:\n      id:\n        description: The job's id, of letters, digits, - and _. The same id is the same job for as long as its answer is kept.",
                ),
                _ => (format!("mcp.v1.ask.{name}"), ""),
            };
            let _ = write!(
                channels,
                "  {id}:\n    address: {address}{parameters}\n    messages:\n      {id}:\n        $ref: '#/components/messages/{id}'\n"
            );
            let reply = "\n    reply:\n      channel:\n        $ref: '#/channels/reply'";
            let _ = write!(
                operations,
                "  {id}:\n    action: send\n    channel:\n      $ref: '#/channels/{id}'{reply}\n"
            );
            let headers = if *lane == "job" {
                JOB_HEADERS
            } else {
                ASK_HEADERS
            };
            let payload = match name == CallTool::NAME {
                true => {
                    "\n        type: object\n        description: The tool's arguments.".to_owned()
                }
                false => format!("\n        $ref: ./commands/{name}.v{version}.json"),
            };
            let _ = write!(
                messages,
                "    {id}:\n      contentType: application/json\n{}      payload:{payload}\n",
                headers_of(headers)
            );
        }
    }
    let _ = write!(
        text,
        "{}\n  description: Asks over core NATS, jobs over the JetStream stream MCP_JOBS.\n",
        env!("CARGO_PKG_VERSION")
    );
    text += "defaultContentType: application/json\nservers:\n  nats:\n    host: 127.0.0.1:4222\n    protocol: nats\nchannels:\n";
    text += &channels;
    text += "  reply:\n    address: null\n    messages:\n      reply:\n        $ref: '#/components/messages/reply'\noperations:\n";
    text += &operations;
    text += "components:\n  messages:\n";
    text += &messages;
    let _ = write!(
        text,
        "    reply:\n      contentType: application/json\n{}",
        headers_of(REPLY_HEADERS)
    );
    text += "      payload:\n        description: The answer; where Mcp-Status is failed, an object with code and message. Of tools.call, the raw MCP CallToolResult.\n";
    text
}

fn headers_of(headers: &[(&str, &str)]) -> String {
    let mut text = String::from("      headers:\n        type: object\n        properties:\n");
    for (name, about) in headers {
        let _ = write!(
            text,
            "          {name}:\n            type: string\n            description: '{about}'\n"
        );
    }
    text
}
