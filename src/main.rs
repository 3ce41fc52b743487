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
        // The starter runs before any thread exists, because only a process with one thread can fork.
        Command::GuardStarter { token } => guard::run_starter(token),
        command => run(command),
    }
}
