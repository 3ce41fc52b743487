//! The fields of a tool call, beside its arguments.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::core::names::{ServerName, ToolName, UserName};

/// Call a tool. On the bus these fields are headers, and the body of the message is `args`, so that no process parses
/// the arguments twice. This type is the schema of the headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallTool {
    pub user: UserName,
    pub server: ServerName,
    pub tool: ToolName,
    /// The time limit in milliseconds. If it is absent, the `toolTimeout` of the server applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// Call a tool again with the input that its server has asked for (MCP 2026-07-28, Multi Round-Trip Requests). The fields of
/// the call are headers, as those of `tools.call`, and this type is the body.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryTool {
    /// The arguments of the first call.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub arguments: Box<RawValue>,
    /// The answers of the client: an object of objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pub input_responses: Option<Box<RawValue>>,
    /// The state that the server gave: a JSON string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub request_state: Option<Box<RawValue>>,
}
