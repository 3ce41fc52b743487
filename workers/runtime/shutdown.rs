//! How a connection that is not wanted any more comes to its end, and how long is waited between attempts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::workers::mcp::Connection;

/// How long calls under way may still take when their server is to stop.
const FINISH: Duration = Duration::from_secs(2);

pub(super) async fn finish_calls(connection: &Connection) {
    let until = Instant::now() + FINISH;
    while connection.calls() > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Lets an old version finish its calls, each within its own time, while the new one takes those that come; then stops
/// it. It may live no longer than the lease.
pub(super) async fn retire(
    manager: Arc<ServerManager>,
    handle: Arc<ServerHandle>,
    old: Arc<Connection>,
) {
    let finished = async {
        while old.calls() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = finished => old.stop().await,
        () = old.closed() => old.stop().await,
        () = handle.lease.ended() => old.kill().await,
        () = manager.ending.cancelled() => {
            finish_calls(&old).await;
            old.stop().await;
        }
    }
    handle
        .log_buffer
        .push("transport", "the old version was stopped");
    manager
        .metrics
        .children_alive
        .dec_by(i64::from(old.has_child()));
}

pub(super) fn backoff(max: Duration) -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500).min(max))
        .with_max_delay(max)
        .with_jitter()
        .without_max_times()
        .build()
}
