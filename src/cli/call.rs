//! `mcp-api call SERVER TOOL [ARGS]`: calls a tool.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Value, json};

use super::client::{ApiArgs, block_on, send_for_success};
use super::error::{CliError, CommandResult};
use super::output::print_line;

/// Prints the result of a tool, and a text result as text. The exit code is 1 if the tool reports an error.
pub(super) fn run(
    api: &ApiArgs,
    server: &str,
    tool: &str,
    args: &str,
    user: Option<&str>,
) -> CommandResult {
    let args: Value = serde_json::from_str(args)
        .map_err(|error| CliError::Failed(format!("ARGS is not a JSON object: {error}")))?;
    let api = api.api()?;
    block_on(async {
        let mut call = json!({ "serverName": server, "methodName": tool, "args": args });
        if let Some(user) = user {
            call["username"] = user.into();
        }
        let body = send_for_success(&api, Method::POST, "/mcp/tool/call", Some(&call)).await?;
        match &body["data"]["content"] {
            Value::String(text) => print_line(text),
            content => print_line(format_args!("{content:#}")),
        }
        Ok(if body["data"]["isError"] == true {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    })
}
