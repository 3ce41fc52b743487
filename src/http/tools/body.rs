//! The bodies of a tool call.

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::core::arguments::check_args;
use crate::core::failure::Failure;
use crate::core::model::timeout::check_timeout;
use crate::core::model::tool_call::CallTool;
use crate::core::names::{ServerName, ToolName, UserName};

/// A tool call.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "username": "ana", "serverName": "everything", "methodName": "echo",
    "args": {"message": "hi"},
}))]
pub(super) struct CallBody<'a> {
    /// The user whose secrets the worker adds to the arguments; the caller if absent, and `default` for a caller
    /// without a user.
    #[schema(value_type = Option<String>)]
    pub username: Option<UserName>,
    #[schema(value_type = String, example = "everything")]
    pub server_name: ServerName,
    /// The name of the tool.
    #[schema(value_type = String, example = "echo")]
    pub method_name: ToolName,
    /// The arguments of the tool. A stored secret replaces an argument with the same name.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub args: &'a RawValue,
    /// The timeout in milliseconds; the server's `toolTimeout` if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    pub timeout_ms: Option<u64>,
    /// If true, `data` is the unchanged CallToolResult of MCP.
    #[serde(default)]
    pub raw: bool,
}

impl CallBody<'_> {
    /// Checks the values that no type checks.
    ///
    /// # Errors
    /// `invalid_request`.
    pub(super) fn check(&self) -> Result<(), Failure> {
        check_args(self.args)?;
        check_timeout("timeoutMs", self.timeout_ms)
    }

    pub(super) fn into_command(self, user: UserName) -> CallTool {
        CallTool {
            user,
            server: self.server_name,
            tool: self.method_name,
            timeout_ms: self.timeout_ms,
        }
    }
}

/// The answer of a tool.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub(super) struct CallAnswer {
    #[schema(default = true)]
    success: bool,
    data: CallOutcome,
}

#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum CallOutcome {
    Shaped(CallData),
    /// With `raw`: the unchanged CallToolResult.
    #[schema(value_type = Object)]
    Raw(String),
}

/// The result of a tool.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub(super) struct CallData {
    /// A string for one text, image or audio block; else an object or the list of MCP content
    /// blocks.
    #[schema(value_type = Value)]
    content: String,
    content_type: String,
    /// True if the tool itself reports an error.
    is_error: bool,
    #[schema(value_type = Option<Object>)]
    structured_content: Option<String>,
    #[schema(value_type = Option<Object>)]
    meta: Option<String>,
}
