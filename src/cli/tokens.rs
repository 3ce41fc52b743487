//! `mcp-api token create|list|revoke`: manages the tokens of users.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::client::{ApiArgs, block_on, path_segment, query, send_for_success};
use super::error::{CliError, CommandResult};
use super::output::{joined, print_line, printable, try_print_line};
use super::whoami::servers_text;

#[derive(Subcommand)]
pub enum TokenCommand {
    /// Make a token for a user; standard output gets the token, and no other command shows it
    Create(CreateArgs),
    /// List tokens without the tokens themselves
    List {
        /// The user of the tokens; without it, the caller, or all users for an administrator
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Revoke a token, and every token that it made
    Revoke {
        /// The first column of `token list`
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

#[derive(Args)]
pub struct CreateArgs {
    /// The user of the token
    user: String,
    /// A scope: tools, secrets, tokens, audit, metrics or admin; without it, tools and secrets
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A server that the token may use; without it, all servers of the caller
    #[arg(long = "server", value_name = "SERVER")]
    servers: Vec<String>,
    /// The life of the token, such as 30d or 12h; without it, the token ends with the token of the caller
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    expires: Option<Duration>,
    /// The purpose of the token, a text for people
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub fn run(command: &TokenCommand) -> CommandResult {
    match command {
        TokenCommand::Create(args) => create(args),
        TokenCommand::List { user, api } => list(api, user.as_deref()),
        TokenCommand::Revoke { id, api } => revoke(api, id),
    }
}

/// Prints the token to standard output, and its description to standard error.
fn create(args: &CreateArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let body = args.body();
        let created = send_for_success(&api, Method::POST, "/tokens", Some(&body)).await?;
        let text = |field: &str| created[field].as_str().unwrap_or_default();
        let id = text("id");
        try_print_line(text("token")).map_err(|_| {
            CliError::Failed(format!(
                "cannot write the token to standard output; revoke it with `mcp-api token revoke {id}`"
            ))
        })?;
        let scopes = joined(&created["scopes"]);
        let servers = servers_text(&created["servers"]);
        let end = created["expiresAt"].as_str().unwrap_or("never");
        let user = text("username");
        eprintln!("token {id} of {user}; scopes: {scopes}; servers: {servers}; expires: {end}");
        eprintln!("No other command shows this token. Commands read it from MCP_API_TOKEN.");
        Ok(ExitCode::SUCCESS)
    })
}

impl CreateArgs {
    fn body(&self) -> Value {
        let mut body = json!({ "username": self.user });
        if !self.scopes.is_empty() {
            body["scopes"] = json!(self.scopes);
        }
        if !self.servers.is_empty() {
            body["servers"] = json!(self.servers);
        }
        if let Some(life) = self.expires {
            body["expiresIn"] = life.as_secs().into();
        }
        if let Some(label) = &self.label {
            body["label"] = label.as_str().into();
        }
        body
    }
}

fn list(api: &ApiArgs, user: Option<&str>) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let path = format!("/tokens{}", query(&[("username", user)]));
        let body = send_for_success(&api, Method::GET, &path, None).await?;
        let tokens = body["tokens"].as_array().map_or(&[][..], Vec::as_slice);
        for token in tokens {
            print_line(token_line(token));
        }
        if tokens.is_empty() {
            eprintln!("There are no tokens.");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn token_line(token: &Value) -> String {
    let text = |field: &str| token[field].as_str();
    let end = match (text("revokedAt"), text("expiresAt")) {
        (Some(at), _) => format!("revoked {at}"),
        (None, Some(at)) => format!("expires {at}"),
        (None, None) => "does not expire".to_owned(),
    };
    let id = text("id").unwrap_or_default();
    let user = text("username").unwrap_or_default();
    let scopes = joined(&token["scopes"]);
    let servers = servers_text(&token["servers"]);
    let used = text("lastUsedAt").unwrap_or("not seen");
    let label = text("label").unwrap_or_default();
    let line = format!(
        "{id}  {user}  scopes: {scopes}  servers: {servers}  {end}  last use: {used}  {label}"
    );
    printable(line.trim_end())
}

fn revoke(api: &ApiArgs, id: &str) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let path = format!("/tokens/{}", path_segment(id));
        send_for_success(&api, Method::DELETE, &path, None).await?;
        Ok(ExitCode::SUCCESS)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_end_of_a_token() {
        let mut token = json!({
            "id": "1", "username": "ana", "scopes": ["tools"], "servers": null, "label": "laptop",
            "expiresAt": null, "revokedAt": null, "lastUsedAt": null,
        });
        let line =
            "1  ana  scopes: tools  servers: all  does not expire  last use: not seen  laptop";
        assert_eq!(token_line(&token), line);
        token["expiresAt"] = "E".into();
        assert!(token_line(&token).contains("  expires E  "));
        token["revokedAt"] = "R".into();
        assert!(token_line(&token).contains("  revoked R  "));
    }
}
