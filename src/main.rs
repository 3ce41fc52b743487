//! `mcp-api`: reads the command line and goes to the room that does it.

use std::process::ExitCode;

use clap::Parser;

use mcp_api::cli::{Cli, Command, run};
use mcp_api::workers::guard;

/// Calls are allocated on one thread and freed on another all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command.unwrap_or(Command::Serve) {
        // Before any thread is started: a guard is small on purpose.
        Command::Guard {
            pipe,
            environment,
            command_line,
        } => guard::run(pipe, environment, &command_line),
        command => run(command),
    }
}
