//! Structured logs on standard error: readable on a terminal, JSON elsewhere.

use std::io::IsTerminal as _;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::prelude::*;

use crate::config::{LogConfig, LogFormat};

/// Starts logging. A second start in one process changes nothing.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::builder().parse_lossy(&config.filter);
    let is_json = match config.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Pretty => false,
    };
    let lines = layer()
        .with_writer(std::io::stderr)
        .with_span_events(FmtSpan::NONE)
        // The library reports its own errors on standard error, and it panics if standard error
        // is closed.
        .log_internal_errors(false);
    let lines = if is_json {
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
    // An error means that logging has started already.
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_free_of_bodies))
        .with(lines)
        .try_init();
}

/// Libraries that log texts of messages at this level and below. The messages hold secrets of users
/// and results of servers.
const LIBRARIES_THAT_LOG_BODIES: [(&str, Level); 2] =
    [("async_nats", Level::DEBUG), ("rmcp", Level::ERROR)];

/// Returns whether a line may be written. `RUST_LOG` cannot change this, because no secret may appear
/// in the log.
fn is_free_of_bodies(metadata: &Metadata<'_>) -> bool {
    !LIBRARIES_THAT_LOG_BODIES
        .iter()
        .any(|(library, level)| metadata.target().starts_with(library) && metadata.level() >= level)
}
