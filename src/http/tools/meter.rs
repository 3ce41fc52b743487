//! The metric and the log line of one tool call.

use tokio::time::Instant;

use tracing::Span;

use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::ids::TokenId;
use crate::core::names::ToolName;
use crate::core::tool_result::ToolCallBody;
use crate::telemetry::metrics::Metrics;
use crate::time::clock::{monotonic, now_ms};

/// Measures one call and records it when the meter is dropped, also if the client disconnects.
pub struct ToolCallMeter<'a> {
    metrics: &'a Metrics,
    server: &'a Server,
    tool: ToolName,
    token: Option<TokenId>,
    span: Span,
    started: Instant,
    outcome: Outcome,
}

#[derive(Clone, Copy)]
enum Outcome {
    Ok,
    ToolError,
    Failed(&'static str),
    /// The client has disconnected.
    Cancelled,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::Failed(code) => code,
            Self::Cancelled => "cancelled",
        }
    }
}

impl<'a> ToolCallMeter<'a> {
    pub fn start(
        metrics: &'a Metrics,
        server: &'a Server,
        tool: ToolName,
        token: Option<TokenId>,
        span: Span,
    ) -> Self {
        Self {
            metrics,
            server,
            tool,
            token,
            span,
            started: monotonic(),
            outcome: Outcome::Cancelled,
        }
    }

    /// Records the call with the outcome of this result.
    pub fn finish(mut self, result: &Result<ToolCallBody, Failure>) {
        self.outcome = match result {
            Ok(body) if body.is_error => Outcome::ToolError,
            Ok(_) => Outcome::Ok,
            Err(failure) => Outcome::Failed(failure.code.as_str()),
        };
    }
}

impl Drop for ToolCallMeter<'_> {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let tool = self.tool.as_str();
        let meter = self.metrics.meter(self.server.name.as_str(), tool, || {
            has_tool(self.server, tool)
        });
        meter.observe(seconds, self.token.map(|token| (token, now_ms())));
        match self.outcome {
            Outcome::Ok => {
                meter.ok.inc();
            }
            Outcome::ToolError => {
                meter.tool_error.inc();
            }
            Outcome::Failed(_) | Outcome::Cancelled => meter.failed(self.outcome.as_str()),
        }
        let outcome = self.outcome.as_str();
        self.span
            .in_scope(|| tracing::info!(outcome, duration_ms = seconds * 1e3, "tool call"));
    }
}

fn has_tool(server: &Server, tool: &str) -> bool {
    server
        .tools
        .tools
        .iter()
        .any(|listed| listed.name().as_deref() == Some(tool))
}
