//! `mcp-api dead list|retry|drop`: manages dead letters, the messages of producers that no worker can parse.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, block_on, error_text, send};
use super::error::{CliError, CommandResult};
use super::output::print_line;

#[derive(Subcommand)]
pub enum DeadCommand {
    /// List the dead letters with their reasons, the newest first
    List {
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Parse a dead letter again, for example after an upgrade of the program
    Retry {
        /// The first column of `dead list`
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Discard a dead letter and its message
    Drop {
        /// The first column of `dead list`
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

pub fn run(command: &DeadCommand) -> CommandResult {
    let (api, method, path) = match command {
        DeadCommand::List { api } => (api, Method::GET, "/dead".to_owned()),
        DeadCommand::Retry { id, api } => (api, Method::POST, format!("/dead/{id}/retry")),
        DeadCommand::Drop { id, api } => (api, Method::DELETE, format!("/dead/{id}")),
    };
    let api = api.api()?;
    block_on(async {
        let (_, body) = send(&api, method, &path, None).await?;
        if body["success"] != true {
            return Err(CliError::Failed(error_text(&body)));
        }
        let dead_letters = body["letters"].as_array();
        for dead_letter in dead_letters.into_iter().flatten() {
            print_line(dead_letter_line(dead_letter));
        }
        if dead_letters.is_some_and(Vec::is_empty) {
            print_line("There are no dead letters.");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn dead_letter_line(dead_letter: &Value) -> String {
    let text = |field: &str| dead_letter[field].as_str().unwrap_or_default().to_owned();
    let size = dead_letter["size"].as_u64().unwrap_or_default();
    let id = text("letter");
    let command = text("command");
    let job = text("id");
    let reason = text("reason");
    format!("{id}  {command} {job} ({size} bytes): {reason}")
}
