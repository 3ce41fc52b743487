//! `mcp-api dead list|retry|drop`: messages of producers that nobody can read.

use std::process::ExitCode;

use clap::Subcommand;

use super::CommandResult;
use super::call::error_text;
use super::client::{ApiArgs, block_on, send};

#[derive(Subcommand)]
pub enum DeadCommand {
    /// Show them, the newest first, each with its reason
    List {
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Read one once more, perhaps with a newer program
    Retry {
        letter: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Drop one and what it holds
    Drop {
        letter: String,
        #[command(flatten)]
        api: ApiArgs,
    },
}

pub fn run(command: &DeadCommand) -> CommandResult {
    let (api, method, path) = match command {
        DeadCommand::List { api } => (api, "GET", "/dead".to_owned()),
        DeadCommand::Retry { letter, api } => (api, "POST", format!("/dead/{letter}/retry")),
        DeadCommand::Drop { letter, api } => (api, "DELETE", format!("/dead/{letter}")),
    };
    let api = api.api()?;
    block_on(async {
        let (_, answer) = send(&api, method, &path, None).await?;
        if answer["success"] != true {
            return Err(error_text(&answer).into());
        }
        for letter in answer["letters"].as_array().into_iter().flatten() {
            let text = |field: &str| letter[field].as_str().unwrap_or_default().to_owned();
            let size = letter["size"].as_u64().unwrap_or_default();
            println!(
                "{}  {} {} ({size} bytes): {}",
                text("letter"),
                text("command"),
                text("id"),
                text("reason")
            );
        }
        if answer["letters"].as_array().is_some_and(Vec::is_empty) {
            println!("There are none.");
        }
        Ok::<_, Box<dyn std::error::Error>>(ExitCode::SUCCESS)
    })
}
