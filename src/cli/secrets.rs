//! `mcp-api secret set|delete`: manages the secrets of a user, or those that all users share. A value never comes from the
//! command line, because every user of the machine can read the command lines of all processes.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::INTERRUPTED;
use super::client::{ApiArgs, block_on, send_for_success};
use super::error::CommandResult;
use super::prompt::read_secret;

#[derive(Subcommand)]
pub enum SecretCommand {
    /// Store a secret; its value comes from a prompt, or from standard input if that is no terminal
    Set(SecretArgs),
    /// Delete a secret
    Delete(SecretArgs),
}

#[derive(Args)]
pub struct SecretArgs {
    /// The name of the server whose calls get the secret
    server: String,
    /// The name of the secret, which is the name of the argument of the tools
    name: String,
    /// The user of the secret; without it, the caller, or `default` for an administrator
    #[arg(long)]
    user: Option<String>,
    /// The value serves all users; only an administrator sets or deletes such a value
    #[arg(long, conflicts_with = "user")]
    shared: bool,
    #[command(flatten)]
    api: ApiArgs,
}

pub fn run(command: &SecretCommand) -> CommandResult {
    match command {
        SecretCommand::Set(args) => set(args),
        SecretCommand::Delete(args) => delete(args),
    }
}

fn set(args: &SecretArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let prompt = format!("Value of {} for {}: ", args.name, args.server);
        let Some(value) = read_secret(&prompt).await? else {
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let mut body = args.body();
        body["secretValue"] = value.as_str().into();
        send_for_success(&api, Method::POST, "/secrets/set", Some(&body)).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn delete(args: &SecretArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let body = args.body();
        send_for_success(&api, Method::POST, "/secrets/delete", Some(&body)).await?;
        Ok(ExitCode::SUCCESS)
    })
}

impl SecretArgs {
    fn body(&self) -> Value {
        let mut body = json!({ "serverName": self.server, "secretName": self.name });
        if let Some(user) = &self.user {
            body["username"] = user.as_str().into();
        }
        if self.shared {
            body["shared"] = true.into();
        }
        body
    }
}
