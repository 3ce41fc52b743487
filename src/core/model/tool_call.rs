//!

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::names::{ServerName, ToolName, UserName};

/// Call a tool. On the bus these fields are headers and the body is `args` itself, so that arguments
/// are never parsed a second time; this type is their schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallTool {
    pub user: UserName,
    pub server: ServerName,
    pub tool: ToolName,
    /// Milliseconds; the server's `toolTimeout` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}
