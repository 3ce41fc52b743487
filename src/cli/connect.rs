//! `mcp-api connect`: prints the configuration with which MCP clients connect to this API.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::error::{CliError, CommandResult};
use super::output::print_line;
use crate::config::{ClientConfig, Env};
use crate::core::names::{ServerName, UserName};

/// The variable that the printed lines name instead of the token.
const TOKEN_VARIABLE: &str = "MCP_API_TOKEN";

#[derive(Args)]
pub struct ConnectArgs {
    /// The server to connect to with its own tool names; without it, all servers
    server: Option<ServerName>,
    /// The user that an administrator's token acts for; the token of a user needs no name
    #[arg(long)]
    user: Option<UserName>,
    /// Print the token of MCP_API_TOKEN (or ADMIN_TOKEN) itself, instead of the name of the variable
    #[arg(long)]
    show_token: bool,
    /// The URL of the API, instead of MCP_API_URL
    #[arg(long)]
    url: Option<String>,
}

/// Prints the lines for each client. The command sends no request.
pub(super) fn run(args: &ConnectArgs) -> CommandResult {
    let config = ClientConfig::read(&Env::of_process()?)?;
    let token = if args.show_token {
        Some(config.token.ok_or_else(|| {
            CliError::Failed("--show-token needs a token in MCP_API_TOKEN".into())
        })?)
    } else {
        None
    };
    let base = args.url.clone().unwrap_or(config.url);
    print_line(format_args!(
        "{}",
        connect_text(
            &base,
            args.server.as_ref(),
            args.user.as_ref(),
            token.as_deref()
        )
    ));
    Ok(ExitCode::SUCCESS)
}

/// Returns the lines for all clients.
fn connect_text(
    base: &str,
    server: Option<&ServerName>,
    user: Option<&UserName>,
    token: Option<&str>,
) -> String {
    let base = base.trim_end_matches('/');
    let url = match server {
        Some(server) => format!("{base}/mcp/servers/{server}/mcp"),
        None => format!("{base}/mcp"),
    };
    let name = server.map_or("mcp-api", ServerName::as_str);
    let in_shell = |token: Option<&str>| token.map_or(format!("${TOKEN_VARIABLE}"), str::to_owned);
    let in_json = token.map_or(format!("${{env:{TOKEN_VARIABLE}}}"), str::to_owned);
    let mut shell_headers = format!("--header \"Authorization: Bearer {}\"", in_shell(token));
    let mut json_headers = Map::new();
    json_headers.insert("Authorization".into(), json!(format!("Bearer {in_json}")));
    if let Some(user) = user {
        shell_headers.push_str(&format!(
            " --header {}",
            quoted(&format!("Mcp-Api-User: {user}"))
        ));
        json_headers.insert("Mcp-Api-User".into(), json!(user.as_str()));
    }
    let vscode =
        json!({ "servers": { (name): { "type": "http", "url": url, "headers": json_headers } } });
    let cursor = json!({ "mcpServers": { (name): { "url": url, "headers": json_headers } } });
    format!(
        "Claude Code:\n\n  claude mcp add --transport http {name} {url} {shell_headers}\n\n\
         VS Code, in .vscode/mcp.json:\n\n{}\n\n\
         Cursor, in .cursor/mcp.json:\n\n{}\n\n\
         MCP Inspector:\n\n  npx @modelcontextprotocol/inspector --cli {url} --transport http {shell_headers} --method tools/list\n\n\
         curl:\n\n  curl {url} {curl_headers} -H 'Content-Type: application/json' \\\n    \
         -H 'MCP-Protocol-Version: 2026-07-28' -H 'Mcp-Method: tools/list' \\\n    -d '{}'",
        indented(&vscode),
        indented(&cursor),
        list_request(),
        curl_headers = shell_headers.replace("--header", "-H"),
    )
}

fn list_request() -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/list",
        "params": { "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }},
    })
}

fn indented(value: &Value) -> String {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let lines: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}

/// Returns a text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_name_the_variable_and_never_the_token() {
        let text = connect_text("http://127.0.0.1:8080/", None, None, None);
        assert!(text.contains("claude mcp add --transport http mcp-api http://127.0.0.1:8080/mcp --header \"Authorization: Bearer $MCP_API_TOKEN\""), "{text}");
        assert!(
            text.contains("\"Authorization\": \"Bearer ${env:MCP_API_TOKEN}\""),
            "{text}"
        );
        assert!(!text.contains("Mcp-Api-User"), "{text}");
    }

    #[test]
    fn a_server_a_user_and_a_token_are_in_every_line() {
        let server = "github".parse().expect("a name");
        let user = "o'ana".parse().expect("a name");
        let text = connect_text(
            "https://h.example",
            Some(&server),
            Some(&user),
            Some("mcpu_x"),
        );
        assert_eq!(
            text.matches("https://h.example/mcp/servers/github/mcp")
                .count(),
            5,
            "{text}"
        );
        assert_eq!(text.matches("Bearer mcpu_x").count(), 5, "{text}");
        assert!(text.contains(r"'Mcp-Api-User: o'\''ana'"), "{text}");
        assert!(!text.contains(TOKEN_VARIABLE), "{text}");
    }
}
