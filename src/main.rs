//! The entry point: parses the command line and runs the command.

use std::process::ExitCode;

use clap::Parser;

use mcp_api::cli::{Cli, Command, run};
use mcp_api::workers::guard;

/// The bytes of a call are often allocated on one thread and freed on another. mimalloc is fast at this.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command.unwrap_or(Command::Serve) {
        // A guard starts no thread, so that it stays small.
        Command::Guard { pipe, command_line } => guard::run(pipe, &command_line),
        command => run(command),
    }
}
