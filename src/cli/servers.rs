//! `mcp-api servers`.

use std::process::ExitCode;

use serde_json::Value;

use super::CommandResult;
use super::call::error_text;
use super::client::{ApiArgs, block_on, send};

/// Prints a line a server: its name, status, number of tools, and what is wrong with it.
pub fn run(api: &ApiArgs) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let (_, answer) = send(&api, "GET", "/mcp/servers", None).await?;
        let Some(servers) = answer["servers"].as_array() else {
            return Err(error_text(&answer).into());
        };
        if servers.is_empty() {
            println!("No servers yet: POST /mcp/servers registers one.");
        }
        let width = servers
            .iter()
            .filter_map(|server| server["name"].as_str())
            .map(str::len)
            .max()
            .unwrap_or(0);
        for server in servers {
            println!("{}", line(server, width));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn line(server: &Value, width: usize) -> String {
    let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
    let state = if server["enabled"] == true {
        text("status")
    } else {
        "disabled".into()
    };
    let tools = server["toolsList"].as_array().map_or(0, Vec::len);
    let (name, error) = (text("name"), text("error"));
    format!("{name:width$}  {state:12}  {tools:3} tools  {error}")
        .trim_end()
        .to_owned()
}
