//! The command line: `serve`, and commands that are clients of the HTTP API.

mod asyncapi;
mod backup;
mod call;
mod client;
mod completions;
mod connect;
pub mod connections;
pub mod dead_letters;
mod demo;
mod error;
pub mod events;
mod follow;
mod import;
mod install;
pub mod jobs;
mod log;
pub mod logs;
mod output;
mod prompt;
mod retry;
mod rotate_keys;
pub mod schemas;
pub mod secrets;
mod serve;
mod servers;
pub mod tokens;
mod whoami;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use self::error::CliError;
use crate::telemetry::error::error_chain;

/// The exit code that a shell gives to a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Serves any number of MCP servers through one HTTP API, for any number of users
#[derive(Parser)]
#[command(
    name = "mcp-api",
    version,
    after_help = "The variables are in example.env, and /docs shows the API."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the program (the default)
    Serve,
    /// Start the program, install a server, store two secrets and call a tool
    Demo,
    /// Call a tool and print the result
    Call {
        /// The name of the server
        server: String,
        /// The name of the tool
        tool: String,
        /// The arguments of the tool, a JSON object
        #[arg(default_value = "{}")]
        args: String,
        /// The user whose secrets the call uses; without it, the caller, or `default` for an administrator
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Install a package of npm or PyPI and start it as a server
    Install(install::InstallArgs),
    /// List the servers with their status
    Servers {
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Print the configuration with which MCP clients connect: Claude Code, VS Code, Cursor, Inspector and curl
    Connect(connect::ConnectArgs),
    /// Show who the caller is, and what the caller may do
    Whoami {
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Manage the tokens of users
    #[command(subcommand)]
    Token(tokens::TokenCommand),
    /// Manage the secrets of a user, or those that all users share
    #[command(subcommand)]
    Secret(secrets::SecretCommand),
    /// List the secrets and tokens that the servers take from a user, without their values
    Connections(connections::ConnectionsArgs),
    /// Delete all secrets and tokens of a user for one server
    Disconnect(connections::DisconnectArgs),
    /// Show the last log lines of a server
    Logs(logs::LogsArgs),
    /// Show the events of the log as JSON, one per line
    Events(events::EventsArgs),
    /// List the jobs of a user, the newest first
    Jobs(jobs::JobsArgs),
    /// Encrypt all sealed values with SECRETS_KEY, so that SECRETS_KEYS_OLD can be removed
    RotateKeys {
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Import the data of the predecessor from its MongoDB; without --apply, only show the plan
    Import {
        /// Import the data
        #[arg(long)]
        apply: bool,
        #[command(flatten)]
        api: client::ApiArgs,
    },
    /// Save the log and the sealed values of DATA_DIR to a new file; the program may run during the backup
    Backup {
        /// The new file
        file: PathBuf,
    },
    /// Restore a backup to a DATA_DIR that has no log
    Restore {
        /// The file that `backup` saved
        file: PathBuf,
    },
    /// Shorten the event log, and print its archives
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Manage dead letters, the messages of producers that no worker can parse
    #[command(subcommand)]
    Dead(dead_letters::DeadCommand),
    /// Print a script with which a shell completes this command line
    Completions {
        /// The shell that reads the script
        shell: Shell,
    },
    /// Write schemas/ and example.env from the types
    #[command(hide = true)]
    Schemas {
        /// The root of the project
        folder: PathBuf,
    },
    /// The process that starts the guards of a worker; only a worker starts it
    #[command(hide = true)]
    GuardStarter {
        /// The part of the names of control groups that belongs to this worker
        token: String,
    },
}

/// Runs a command, prints its error, and returns the exit code.
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Serve => serve::run(),
        Command::Demo => demo::run(),
        Command::Call {
            server,
            tool,
            args,
            user,
            api,
        } => call::run(&api, &server, &tool, &args, user.as_deref()),
        Command::Install(args) => install::run(&args),
        Command::Servers { api } => servers::run(&api),
        Command::Connect(args) => connect::run(&args),
        Command::Whoami { api } => whoami::run(&api),
        Command::Token(command) => tokens::run(&command),
        Command::Secret(command) => secrets::run(&command),
        Command::Connections(args) => connections::list(&args),
        Command::Disconnect(args) => connections::disconnect(&args),
        Command::Logs(args) => logs::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Jobs(args) => jobs::run(&args),
        Command::RotateKeys { api } => rotate_keys::run(&api),
        Command::Import { apply, api } => import::run(&api, apply),
        Command::Backup { file } => backup::save(&file),
        Command::Restore { file } => backup::restore(&file),
        Command::Log(command) => log::run(&command),
        Command::Dead(command) => dead_letters::run(&command),
        Command::Completions { shell } => completions::run(shell),
        Command::Schemas { folder } => schemas::run(&folder),
        Command::GuardStarter { .. } => Err(CliError::Failed(
            "only a worker starts the guard starter".into(),
        )),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mcp-api: {}", error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_argument_and_every_command_has_a_help_text() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} has no help text");
            for argument in command.get_arguments() {
                let id = argument.get_id();
                assert!(
                    argument.get_help().is_some(),
                    "{name} {id} has no help text"
                );
            }
            command.get_subcommands().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&command);
    }
}
