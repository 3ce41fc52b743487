//! `mcp-api whoami`: shows the caller that the token of this command line is.

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, block_on, send_for_success};
use super::error::CommandResult;
use super::output::{joined, print_line};

/// Prints the caller, one field per line.
pub(super) fn run(api: &ApiArgs) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let caller = send_for_success(&api, Method::GET, "/whoami", None).await?;
        let text = |field: &str| caller[field].as_str().map(str::to_owned);
        print_field("user", text("username"));
        print_field("kind", text("kind"));
        print_field("scopes", Some(joined(&caller["scopes"])));
        print_field("servers", Some(servers_text(&caller["servers"])));
        print_field("token", text("tokenId"));
        print_field("expires", text("expiresAt"));
        Ok(ExitCode::SUCCESS)
    })
}

fn print_field(name: &str, value: Option<String>) {
    if let Some(value) = value {
        print_line(format_args!("{name:8} {value}"));
    }
}

/// Returns the names of the servers that a caller may use.
pub(super) fn servers_text(servers: &Value) -> String {
    if servers.is_null() {
        "all".to_owned()
    } else {
        joined(servers)
    }
}
