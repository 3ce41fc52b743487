//! The metrics that Prometheus reads at `/metrics`. The handles of a tool are cached, so a call
//! increments counters and looks up no labels.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::core::failure::Code;
use crate::core::ids::TokenId;
use crate::core::names::ServerName;

/// Upper limits of the histogram, in seconds: from the fastest call to the longest default timeout.
const BUCKETS: [f64; 14] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0,
];
/// The label of a tool that the server does not have. Callers cannot fill the memory with invented
/// names, because all of them share this label.
pub const UNKNOWN: &str = "unknown";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ToolLabels {
    server: String,
    tool: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    server: String,
    tool: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServerLabels {
    server: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct McpRequestLabels {
    endpoint: &'static str,
    era: &'static str,
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ServerRequestLabels {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The label of an exemplar: the token that sent the call. It becomes a text only when Prometheus reads the metrics.
#[derive(Debug)]
struct TokenLabel(TokenId);

impl EncodeLabelSet for TokenLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), std::fmt::Error> {
        [("token_id", self.0.to_string())].encode(encoder)
    }
}

/// The durations of the calls of one tool. Each bucket has the token of its newest call as its exemplar
/// (OpenMetrics 1.0, section Exemplars), so a tool has at most one exemplar for each bucket.
type CallHistogram = HistogramWithExemplars<TokenLabel>;

/// All metrics of this process.
pub struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    seconds: Family<ToolLabels, CallHistogram, fn() -> CallHistogram>,
    restarts: Family<ServerLabels, Counter>,
    meters: RwLock<HashMap<String, HashMap<String, Arc<ToolMeter>>>>,
    pub children_alive: Gauge,
    pub user_processes: Gauge,
    pub user_connections: Gauge,
    pub secrets_opened: Counter,
    pub log_position: Gauge<u64, AtomicU64>,
    pub jobs_waiting: Gauge<u64, AtomicU64>,
    pub jobs_running: Gauge<u64, AtomicU64>,
    pub jobs_on_bus: Gauge<u64, AtomicU64>,
    pub asks_refused: Counter,
    interim_dropped: Family<KindLabels, Counter>,
    pub event_listeners: Gauge,
    pub event_stream_reads: Counter,
    mcp_requests: Family<McpRequestLabels, Counter>,
    pub mcp_streams: Gauge,
    pub mcp_upgrades: Counter,
    pub mcp_sessions_issued: Counter,
    mcp_server_requests: Family<ServerRequestLabels, Counter>,
}

/// Counts one open stream until it is dropped.
pub struct StreamGuard(Gauge);

impl StreamGuard {
    /// Counts a stream in one of the gauges.
    pub fn new(open: &Gauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The cached handles of one tool.
pub struct ToolMeter {
    seconds: CallHistogram,
    pub ok: Counter,
    pub tool_error: Counter,
    labels: ToolLabels,
    calls: Family<CallLabels, Counter>,
}

impl ToolMeter {
    /// Records the duration of a call in seconds. A call with a token becomes the exemplar of its bucket, with the wall
    /// time in milliseconds since 1970.
    pub fn observe(&self, seconds: f64, token: Option<(TokenId, u64)>) {
        let at = token.map(|(_, at_ms)| UNIX_EPOCH + Duration::from_millis(at_ms));
        let label = token.map(|(token, _)| TokenLabel(token));
        self.seconds.observe(seconds, label, at);
    }

    /// Counts a call that failed with this error code.
    pub fn failed(&self, outcome: &'static str) {
        let ToolLabels { server, tool } = self.labels.clone();
        self.calls
            .get_or_create(&CallLabels {
                server,
                tool,
                outcome,
            })
            .inc();
    }
}

impl Metrics {
    pub fn new() -> Arc<Self> {
        let mut metrics = Self {
            registry: Registry::with_prefix("mcp_api"),
            calls: Family::default(),
            seconds: Family::new_with_constructor(|| CallHistogram::new(BUCKETS.into_iter())),
            restarts: Family::default(),
            meters: RwLock::default(),
            children_alive: Gauge::default(),
            user_processes: Gauge::default(),
            user_connections: Gauge::default(),
            secrets_opened: Counter::default(),
            log_position: Gauge::default(),
            jobs_waiting: Gauge::default(),
            jobs_running: Gauge::default(),
            jobs_on_bus: Gauge::default(),
            asks_refused: Counter::default(),
            interim_dropped: Family::default(),
            event_listeners: Gauge::default(),
            event_stream_reads: Counter::default(),
            mcp_requests: Family::default(),
            mcp_streams: Gauge::default(),
            mcp_upgrades: Counter::default(),
            mcp_sessions_issued: Counter::default(),
            mcp_server_requests: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "calls",
            "Tool calls by server, tool and outcome",
            metrics.calls.clone(),
        );
        registry.register(
            "call_seconds",
            "Duration of tool calls",
            metrics.seconds.clone(),
        );
        registry.register(
            "server_restarts",
            "Restarts of servers that ended",
            metrics.restarts.clone(),
        );
        registry.register(
            "children_alive",
            "Running child processes of MCP servers",
            metrics.children_alive.clone(),
        );
        registry.register(
            "user_processes",
            "Processes of single users, for servers with credentials in the environment",
            metrics.user_processes.clone(),
        );
        registry.register(
            "user_connections",
            "Connections of single users to servers behind a URL",
            metrics.user_connections.clone(),
        );
        registry.register(
            "secrets_opened",
            "Secrets that workers opened for calls",
            metrics.secrets_opened.clone(),
        );
        registry.register(
            "log_position",
            "Position of the log that this process has reached",
            metrics.log_position.clone(),
        );
        registry.register(
            "jobs_waiting",
            "Jobs that wait for a worker",
            metrics.jobs_waiting.clone(),
        );
        registry.register(
            "jobs_on_bus",
            "Jobs that producers have sent and the log has not accepted yet",
            metrics.jobs_on_bus.clone(),
        );
        registry.register(
            "jobs_running",
            "Jobs that workers execute",
            metrics.jobs_running.clone(),
        );
        registry.register(
            "asks_refused",
            "Asks whose command did not belong to their NATS subject",
            metrics.asks_refused.clone(),
        );
        registry.register(
            "mcp_interim_dropped",
            "Messages before the reply of a call that were dropped, because they were too many or too large",
            metrics.interim_dropped.clone(),
        );
        registry.register(
            "event_listeners",
            "Open streams of GET /events",
            metrics.event_listeners.clone(),
        );
        registry.register(
            "event_stream_reads",
            "Reads of the log for streams of GET /events",
            metrics.event_stream_reads.clone(),
        );
        registry.register(
            "mcp_requests",
            "Messages of MCP clients by endpoint, era, method and outcome",
            metrics.mcp_requests.clone(),
        );
        registry.register(
            "mcp_server_requests",
            "Requests of MCP servers to the clients of calls by method and outcome",
            metrics.mcp_server_requests.clone(),
        );
        registry.register(
            "mcp_streams",
            "Open event streams of MCP clients without an end",
            metrics.mcp_streams.clone(),
        );
        registry.register(
            "mcp_upgrades",
            "Tool calls of MCP clients that were answered with an event stream",
            metrics.mcp_upgrades.clone(),
        );
        registry.register(
            "mcp_sessions_issued",
            "Sessions that MCP clients began",
            metrics.mcp_sessions_issued.clone(),
        );
        Arc::new(metrics)
    }

    /// Counts a request of a server to the client of a call.
    pub fn count_server_request(&self, method: &'static str, outcome: &'static str) {
        let labels = ServerRequestLabels { method, outcome };
        self.mcp_server_requests.get_or_create(&labels).inc();
    }

    /// Counts one message of an MCP client.
    pub fn count_mcp_request(
        &self,
        endpoint: &'static str,
        era: &'static str,
        method: &'static str,
        outcome: &'static str,
    ) {
        let labels = McpRequestLabels {
            endpoint,
            era,
            method,
            outcome,
        };
        self.mcp_requests.get_or_create(&labels).inc();
    }

    /// Returns the handles of a tool. Without cached handles, `is_known` says whether the server
    /// has the tool.
    pub fn meter(
        &self,
        server: &str,
        tool: &str,
        is_known: impl FnOnce() -> bool,
    ) -> Arc<ToolMeter> {
        let meters = self.meters.read();
        if let Some(meter) = meters.get(server).and_then(|tools| tools.get(tool)) {
            return meter.clone();
        }
        drop(meters);
        let tool = if is_known() { tool } else { UNKNOWN };
        let mut meters = self.meters.write();
        let tools = meters.entry(server.to_owned()).or_default();
        tools
            .entry(tool.to_owned())
            .or_insert_with(|| self.new_meter(server, tool))
            .clone()
    }

    fn new_meter(&self, server: &str, tool: &str) -> Arc<ToolMeter> {
        let labels = ToolLabels {
            server: server.to_owned(),
            tool: tool.to_owned(),
        };
        let counter = |outcome| {
            let ToolLabels { server, tool } = labels.clone();
            self.calls.get_or_create_owned(&CallLabels {
                server,
                tool,
                outcome,
            })
        };
        Arc::new(ToolMeter {
            seconds: self.seconds.get_or_create_owned(&labels),
            ok: counter("ok"),
            tool_error: counter("tool_error"),
            calls: self.calls.clone(),
            labels,
        })
    }

    /// Returns the counter of dropped messages before the reply of one kind.
    pub fn interim_dropped(&self, kind: &'static str) -> Counter {
        let labels = KindLabels { kind };
        self.interim_dropped.get_or_create_owned(&labels)
    }

    /// Counts a restart of a server.
    pub fn restarted(&self, server: &ServerName) {
        self.restarts
            .get_or_create(&ServerLabels {
                server: server.as_str().to_owned(),
            })
            .inc();
    }

    /// Removes all figures of a deleted server.
    pub fn remove_server(&self, server: &ServerName) {
        let server = server.as_str();
        let tools = self.meters.write().remove(server);
        for tool in tools.into_iter().flat_map(HashMap::into_keys) {
            for outcome in Code::ALL
                .map(Code::as_str)
                .into_iter()
                .chain(["ok", "tool_error"])
            {
                self.calls.remove(&CallLabels {
                    server: server.to_owned(),
                    tool: tool.clone(),
                    outcome,
                });
            }
            self.seconds.remove(&ToolLabels {
                server: server.to_owned(),
                tool,
            });
        }
        self.restarts.remove(&ServerLabels {
            server: server.to_owned(),
        });
    }

    /// Returns all metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// Returns an error if the encoder cannot write a metric.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// Returns the buckets whose exemplars name a token.
    fn exemplars(metrics: &Metrics, token: TokenId) -> Vec<String> {
        let text = metrics.render().expect("a text");
        let label = format!(" # {{token_id=\"{token}\"}} ");
        let lines = text.lines().filter(|line| line.contains(&label));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn a_bucket_names_the_token_of_its_newest_call() {
        let metrics = Metrics::new();
        let meter = metrics.meter("fixture", "echo", || true);
        let [first, second] = [1, 2].map(|number| TokenId(Uuid::from_u128(number)));
        meter.observe(0.003, None);
        assert!(!metrics.render().expect("a text").contains("token_id"));
        meter.observe(0.003, Some((first, 1_769_860_800_250)));
        meter.observe(0.7, Some((first, 0)));
        // A call without a token keeps the exemplar.
        meter.observe(0.003, None);
        let of_first = exemplars(&metrics, first);
        assert_eq!(of_first.len(), 2);
        assert!(
            of_first[0].ends_with(" 0.003 1769860800.25"),
            "{of_first:?}"
        );
        meter.observe(0.004, Some((second, 0)));
        let of_second = exemplars(&metrics, second);
        assert_eq!(of_second.len(), 1);
        assert!(of_second[0].contains(r#"le="0.005""#), "{of_second:?}");
        assert_eq!(exemplars(&metrics, first).len(), 1);
    }

    #[test]
    fn exemplars_are_bounded_by_the_buckets_and_end_with_their_server() {
        let metrics = Metrics::new();
        let meter = metrics.meter("fixture", "echo", || true);
        for number in 0..1000_u32 {
            let token = TokenId(Uuid::from_u128(number.into()));
            meter.observe(f64::from(number) / 10.0, Some((token, 0)));
        }
        let count = |text: &str| text.matches("token_id").count();
        let shown = count(&metrics.render().expect("a text"));
        assert!(shown > 0 && shown <= BUCKETS.len() + 1, "{shown}");
        metrics.remove_server(&"fixture".parse().expect("a name"));
        assert_eq!(count(&metrics.render().expect("a text")), 0);
    }
}
