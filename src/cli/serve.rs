//! `mcp-api serve`: runs the program.

use std::process::ExitCode;

use super::error::{CliError, CommandResult};
use super::output::print_line;
use crate::app;
use crate::config::{Config, Env, LogFormat};
use crate::telemetry::logging;

pub(super) fn run() -> CommandResult {
    let config = Config::read(&Env::of_process()?)?;
    logging::start(&config.log);
    let is_for_people = config.log.format != LogFormat::Json;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    runtime.block_on(app::serve(config, |url| {
        if is_for_people {
            print_line(format_args!(
                "mcp-api listens on {url} (the documentation is at {url}/docs)"
            ));
        }
    }))?;
    Ok(ExitCode::SUCCESS)
}
