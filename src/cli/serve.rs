//! `mcp-api serve`.

use std::io::Write;
use std::process::ExitCode;

use super::CommandResult;
use crate::app;
use crate::config::{Config, Env, LogFormat};
use crate::telemetry::logging;

pub fn run() -> CommandResult {
    let config = Config::read(&Env::of_process()?)?;
    logging::start(&config.log);
    let pretty = config.log.format != LogFormat::Json;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(app::serve(config, |url| {
        if pretty {
            // Who reads it may be gone; the API is there all the same.
            let _ = writeln!(
                std::io::stdout(),
                "mcp-api listens on {url} (try {url}/docs)"
            );
        }
    }))?;
    Ok(ExitCode::SUCCESS)
}
