//! The command line: `serve`, and small clients of the HTTP API for people at a terminal.

mod asyncapi;
mod backup;
mod call;
mod client;
pub mod dead_letters;
mod demo;
mod import;
mod install;
mod rotate_keys;
pub mod schemas;
mod serve;
mod servers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Any number of MCP servers behind one HTTP API, for any number of users.
#[derive(Parser)]
#[command(
    name = "mcp-api",
    version,
    after_help = "Its variables stand in example.env; its API at /docs."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Serve the HTTP API (the default)
    Serve,
    /// Show the main job on real input: install a server, two users, a secret each
    Demo,
    /// Call a tool
    Call {
        server: String,
        tool: String,
        /// A JSON object
        #[arg(default_value = "{}")]
        args: String,
        /// Whose secrets are used
        #[arg(long, default_value = "default")]
        user: String,
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Install a package and run the server that it is
    Install(install::InstallArgs),
    /// List the servers and how they are
    Servers {
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Put everything that is sealed under SECRETS_KEY, so that SECRETS_KEYS_OLD can be dropped
    RotateKeys {
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Take over what an original has in its MongoDB; without --apply, say what would be
    Import {
        /// Do it
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Save the log and the sealed secrets of DATA_DIR into a new file, also while they are in use
    Backup { file: PathBuf },
    /// Put a backup into a DATA_DIR that has none yet
    Restore { file: PathBuf },
    /// Look after messages of producers that nobody can read
    #[command(subcommand)]
    Dead(dead_letters::DeadCommand),
    /// Write schemas/ and example.env anew from the types
    #[command(hide = true)]
    Schemas { folder: PathBuf },
    /// Started by mcp-api itself: the parent of one child
    #[command(hide = true)]
    Guard {
        pipe: i32,
        environment: i32,
        #[arg(last = true, required = true)]
        command_line: Vec<String>,
    },
}

/// Runs a command to its end.
pub fn run(command: Command) -> ExitCode {
    let ended = match command {
        Command::Serve => serve::run(),
        Command::Demo => demo::run(),
        Command::Call {
            server,
            tool,
            args,
            user,
            api,
        } => call::run(&api, &server, &tool, &args, &user),
        Command::Install(args) => install::run(&args),
        Command::Servers { api } => servers::run(&api),
        Command::RotateKeys { api } => rotate_keys::run(&api),
        Command::Import { apply, api } => import::run(&api, apply),
        Command::Backup { file } => backup::save(&file),
        Command::Restore { file } => backup::restore(&file),
        Command::Dead(command) => dead_letters::run(&command),
        Command::Schemas { folder } => schemas::run(&folder),
        Command::Guard { .. } => Err("the guard is started by a worker, not by hand".into()),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mcp-api: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How a command ends: with a code, or with a sentence for the one who typed it.
pub type CommandResult = Result<ExitCode, Box<dyn std::error::Error>>;
