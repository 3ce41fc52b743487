//! The metric and the log line of one tool call.

use tokio::time::Instant;

use tracing::Span;

use crate::core::catalog::server::Server;
use crate::core::failure::Code;
use crate::core::ids::TokenId;
use crate::core::names::ToolName;
use crate::telemetry::metrics::Metrics;
use crate::time::clock::{monotonic, now_ms};

/// Measures one call and records it when the meter is dropped, also if the client disconnects.
pub(super) struct ToolCallMeter<'a> {
    metrics: &'a Metrics,
    server: &'a Server,
    tool: ToolName,
    token: Option<TokenId>,
    span: Span,
    started: Instant,
    outcome: CallOutcome,
}

/// The outcome of a call in the metrics.
#[derive(Clone, Copy)]
pub(super) enum CallOutcome {
    Ok,
    /// The tool itself reports a failure.
    ToolError,
    Failed(Code),
    /// The client has disconnected.
    Cancelled,
}

impl CallOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::Failed(code) => code.as_str(),
            Self::Cancelled => "cancelled",
        }
    }
}

impl<'a> ToolCallMeter<'a> {
    pub(super) fn start(
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
            outcome: CallOutcome::Cancelled,
        }
    }

    /// Records the call with this outcome.
    pub(super) fn finish(mut self, outcome: CallOutcome) {
        self.outcome = outcome;
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
            CallOutcome::Ok => {
                meter.ok.inc();
            }
            CallOutcome::ToolError => {
                meter.tool_error.inc();
            }
            CallOutcome::Failed(_) | CallOutcome::Cancelled => meter.failed(self.outcome.as_str()),
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
