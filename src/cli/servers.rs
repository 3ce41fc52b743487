//! `mcp-api servers`: lists the servers.

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, block_on, error_text, send};
use super::error::{CliError, CommandResult};
use super::output::print_line;

/// Prints one line per server: name, status, number of tools, and the error of the server.
pub(super) fn run(api: &ApiArgs) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let (_, body) = send(&api, Method::GET, "/mcp/servers", None).await?;
        let Some(servers) = body["servers"].as_array() else {
            return Err(CliError::Failed(error_text(&body)));
        };
        if servers.is_empty() {
            print_line("No server is registered. POST /mcp/servers registers a server.");
        }
        let names = servers.iter().filter_map(|server| server["name"].as_str());
        let width = names.map(str::len).max().unwrap_or(0);
        for server in servers {
            print_line(server_line(server, width));
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn server_line(server: &Value, width: usize) -> String {
    let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
    let status = if server["enabled"] == true {
        text("status")
    } else {
        "disabled".into()
    };
    let tools = server["toolsList"].as_array().map_or(0, Vec::len);
    let name = text("name");
    let error = text("error");
    let line = format!("{name:width$}  {status:12}  {tools:3} tools  {error}");
    line.trim_end().to_owned()
}
