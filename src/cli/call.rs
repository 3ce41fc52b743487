//! `mcp-api call SERVER TOOL [ARGS]`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::CommandResult;
use super::client::{ApiArgs, block_on, send};

/// Prints what the tool said, text as text. Ends with 1 where it failed.
pub fn run(api: &ApiArgs, server: &str, tool: &str, args: &str, user: &str) -> CommandResult {
    let args: Value = serde_json::from_str(args)
        .map_err(|error| format!("ARGS must be a JSON object: {error}"))?;
    let api = api.api()?;
    block_on(async {
        let call =
            json!({ "username": user, "serverName": server, "methodName": tool, "args": args });
        let (_, answer) = send(&api, "POST", "/mcp/tool/call", Some(call)).await?;
        if answer["success"] != true {
            return Err(error_text(&answer).into());
        }
        match &answer["data"]["content"] {
            Value::String(text) => println!("{text}"),
            content => println!("{content:#}"),
        }
        Ok(if answer["data"]["isError"] == true {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    })
}

/// What a failed answer says.
pub fn error_text(answer: &Value) -> String {
    let error = answer["error"].as_str().unwrap_or("the API gave no reason");
    match answer["details"].as_str() {
        Some(details) => format!("{error}\n{details}"),
        None => error.to_owned(),
    }
}
