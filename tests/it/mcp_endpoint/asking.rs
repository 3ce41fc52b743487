//! Clients that declare all capabilities and answer what a server asks.

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{McpClient, Messages};
use crate::harness::{Answer, App};

fn all_capabilities() -> Value {
    json!({ "elicitation": { "form": {}, "url": {} }, "sampling": { "tools": {} }, "roots": {} })
}

/// Sends a request of 2026-07-28 for a client with all capabilities.
pub async fn ask(client: &McpClient, method: &str, mut params: Value) -> Answer {
    params["_meta"] = json!({ "io.modelcontextprotocol/clientCapabilities": all_capabilities() });
    client.modern(method, params).await
}

/// Calls a tool with members that answer the server.
pub async fn call(client: &McpClient, tool: &str, more: Value) -> Answer {
    let mut params = json!({ "name": tool, "arguments": {} });
    let members = params.as_object_mut().expect("an object");
    members.extend(more.as_object().expect("an object").clone());
    ask(client, "tools/call", params).await
}

pub fn text(result: &Value) -> &str {
    let text = &result["content"][0]["text"];
    text.as_str().unwrap_or_else(|| panic!("no text: {result}"))
}

/// A session of a client with all capabilities.
pub struct Session(pub McpClient);

impl Session {
    pub async fn begin(app: &App, path: &str, user: &str) -> Self {
        let client = McpClient::new(app, path).user(user);
        let (_, id) = client.begin("2025-11-25", all_capabilities()).await;
        Self(client.with("mcp-session-id", &id))
    }

    /// Begins a request whose answer is a stream.
    pub async fn open(&self, id: u64, method: &str, params: Value) -> Messages {
        let body = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        Messages::open(self.0.request(Method::POST).json(&body)).await
    }

    pub async fn call(&self, tool: &str, arguments: Value) -> Messages {
        let params = json!({ "name": tool, "arguments": arguments });
        self.open(7, "tools/call", params).await
    }

    /// Answers a request of the server.
    pub async fn answer(&self, asked: &Value, result: Value) -> Answer {
        let body = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
        self.0.post(&body.to_string()).await
    }
}
