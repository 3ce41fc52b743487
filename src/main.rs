//! `mcp-api`: parses the command line and runs the command.

use std::process::ExitCode;

use clap::Parser;

use mcp_api::cli::{Cli, Command, run};
use mcp_api::workers::guard;

/// mimalloc, because one thread allocates a call and another thread frees it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command.unwrap_or(Command::Serve) {
        // The guard starts before any thread exists, because a guard must stay small.
        Command::Guard {
            pipe,
            environment,
            command_line,
        } => guard::run(pipe, environment, &command_line),
        command => run(command),
    }
}
