//! Logs: structured, on standard error; readable on a terminal, JSON elsewhere.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. A second start in one process is ignored.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::builder().parse_lossy(&config.filter);
    let json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    let lines = layer()
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        // It would be told on standard error, and that panics where nobody reads it any more.
        .log_internal_errors(false);
    let lines = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed()
    } else {
        lines
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_harmless))
        .with(lines)
        .try_init();
}

/// Libraries that tell whole messages at these levels and below, with what users say and servers answer in them.
const TALKATIVE: [(&str, Level); 2] = [("async_nats", Level::DEBUG), ("rmcp", Level::INFO)];

/// Whatever `RUST_LOG` says: nobody's secrets are in the log.
fn is_harmless(of: &Metadata<'_>) -> bool {
    let tells =
        |(library, level): &(&str, Level)| of.target().starts_with(library) && of.level() >= level;
    !TALKATIVE.iter().any(tells)
}
