//! Describes the bus in AsyncAPI 3.0, for programs in other languages.

use std::fmt::Write;

use crate::core::command::{Command, DeliveryMode, lookup, schemas};
use crate::core::model::tool_call::CallTool;

/// The headers of an ask. Only `tools.call` needs a header, `Mcp-Call`.
const ASK_HEADERS: &[(&str, &str)] = &[
    (
        "Mcp-Call",
        "The JSON of a tool call (commands/tools.call.v1.json). The body then holds only the arguments.",
    ),
    (
        "Mcp-Time-Left",
        "The milliseconds for which the sender waits. Without this header, 60000.",
    ),
    (
        "Mcp-Seen",
        "The newest Mcp-Position that the sender has seen. The worker reads the log up to this position before it acts.",
    ),
    (
        "Mcp-Working",
        "1: the sender wants a message with Mcp-Status working after 500 ms, and then one every second.",
    ),
    (
        "Mcp-Interim",
        "A list with commas. progress, log: the sender takes messages with Mcp-Status interim and this Mcp-Kind before the reply. log=warning: only log lines from this level on; without a level from info on.",
    ),
    ("traceparent", "W3C Trace Context, version 00."),
    (
        "Mcp-Client",
        "Only for tools.call, tools.retry and tools.request: the MCP client that waits, as JSON on one line. era: legacy or modern. capabilities: the sum of 1 (elicitation with a form), 2 (with a URL), 4 (sampling), 8 (sampling with tools) and 16 (roots). progress: whether it wants progress. A sender with the era legacy and capabilities gets messages with Mcp-Kind request.",
    ),
    (
        "Mcp-Meta",
        "Only for tools.call: a JSON object on one line of ASCII with at most 2048 bytes. The MCP server receives its members tracestate, baggage and <vendor>/<name> in _meta.",
    ),
];
const JOB_HEADERS: &[(&str, &str)] = &[
    ("Mcp-Call", "The same as for an ask."),
    (
        "Mcp-Reply",
        "A subject that begins with _INBOX. and receives the outcome.",
    ),
];
const REPLY_HEADERS: &[(&str, &str)] = &[
    (
        "Mcp-Status",
        "ok; failed: the body gives the reason; busy: the work has not started; working: the work has started, and a further message follows; interim: the same, and the body is a message of the MCP server.",
    ),
    (
        "Mcp-Kind",
        "Only with the status interim. progress: the body is the params object of notifications/progress, without its progressToken. log: the body is the params object of notifications/message. request: the body is a request of the MCP server to the client, which tools.answer answers: address, method and params.",
    ),
    (
        "Mcp-Position",
        "The newest position of the log that the worker has seen, if it is newer than Mcp-Seen.",
    ),
];

/// Returns the text of `schemas/asyncapi.yaml`.
pub(super) fn document() -> String {
    let mut parts = Parts::default();
    for (name, version, _) in schemas() {
        let is_tool_call = name == CallTool::NAME;
        let is_job = matches!(lookup(name), Some((_, _, DeliveryMode::Job)));
        // A producer submits tool calls only as jobs. HTTP requests submit the other jobs.
        if is_tool_call || !is_job {
            parts.add(Delivery::Ask, name, version);
        }
        if is_tool_call {
            parts.add(Delivery::Job, name, version);
        }
    }
    parts.into_document()
}

#[derive(Clone, Copy)]
enum Delivery {
    Ask,
    Job,
}

/// The sections of the document, as YAML.
#[derive(Default)]
struct Parts {
    channels: String,
    operations: String,
    messages: String,
}

impl Parts {
    fn add(&mut self, delivery: Delivery, name: &str, version: u16) {
        let (id, address, parameters, headers) = match delivery {
            Delivery::Ask => (
                format!("ask.{name}"),
                format!("mcp.v1.ask.{name}"),
                "",
                ASK_HEADERS,
            ),
            Delivery::Job => (
                format!("job.{name}"),
                format!("mcp.v1.job.{name}.{{id}}"),
                "\n    parameters:\n      id:\n        description: The id of the job, of letters, digits, - and _. A repeated id is the same job while the log keeps its answer.",
                JOB_HEADERS,
            ),
        };
        let _ = write!(
            self.channels,
            "  {id}:\n    address: {address}{parameters}\n    messages:\n      {id}:\n        $ref: '#/components/messages/{id}'\n"
        );
        let _ = write!(
            self.operations,
            "  {id}:\n    action: send\n    channel:\n      $ref: '#/channels/{id}'\n    reply:\n      channel:\n        $ref: '#/channels/reply'\n"
        );
        let payload = if name == CallTool::NAME {
            "\n        type: object\n        description: The arguments of the tool.".to_owned()
        } else {
            format!("\n        $ref: ./commands/{name}.v{version}.json")
        };
        let _ = write!(
            self.messages,
            "    {id}:\n      contentType: application/json\n{}      payload:{payload}\n",
            headers_yaml(headers)
        );
    }

    fn into_document(self) -> String {
        let Self {
            channels,
            operations,
            messages,
        } = self;
        let version = env!("CARGO_PKG_VERSION");
        let reply_headers = headers_yaml(REPLY_HEADERS);
        format!(
            "# `cargo run -- schemas .` writes this file; schemas/README.md explains it.\nasyncapi: 3.0.0\ninfo:\n  title: MCP API on NATS\n  version: {version}\n  description: Asks over core NATS, jobs over the JetStream stream MCP_JOBS.\ndefaultContentType: application/json\nservers:\n  nats:\n    host: 127.0.0.1:4222\n    protocol: nats\nchannels:\n{channels}  reply:\n    address: null\n    messages:\n      reply:\n        $ref: '#/components/messages/reply'\noperations:\n{operations}components:\n  messages:\n{messages}    reply:\n      contentType: application/json\n{reply_headers}      payload:\n        description: The answer. If Mcp-Status is failed, an object with code and message. For tools.call, the MCP CallToolResult without changes.\n"
        )
    }
}

fn headers_yaml(headers: &[(&str, &str)]) -> String {
    let mut text = String::from("      headers:\n        type: object\n        properties:\n");
    for (name, description) in headers {
        let _ = write!(
            text,
            "          {name}:\n            type: string\n            description: '{description}'\n"
        );
    }
    text
}
