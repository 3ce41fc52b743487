//! The fields of a tool call, beside its arguments.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
