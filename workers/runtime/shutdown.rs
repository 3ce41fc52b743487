//! The end of a connection that is replaced or stopped.

use std::sync::Arc;
use std::time::Duration;

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::workers::mcp::Connection;

/// How long running calls may take when their server must stop.
const CALL_GRACE: Duration = Duration::from_secs(2);

/// Waits until the connection has no running calls, two seconds at most.
pub(super) async fn finish_calls(connection: &Connection) {
    let _ = tokio::time::timeout(CALL_GRACE, connection.idle()).await;
}

/// Lets an old version finish its calls within their own times, while the new version gets the new calls. Then the old
/// version is stopped. The old version does not outlive the lease.
pub(super) async fn retire(
    manager: Arc<ServerManager>,
    handle: Arc<ServerHandle>,
    old: Arc<Connection>,
) {
    tokio::select! {
        () = old.idle() => old.stop().await,
        () = old.closed() => old.stop().await,
        () = handle.lease.ended() => old.kill().await,
        () = manager.ending.cancelled() => {
            finish_calls(&old).await;
            old.stop().await;
        }
    }
    let log_buffer = &handle.log_buffer;
    log_buffer.push("transport", "the old version was stopped");
    let children = i64::from(old.has_child());
    manager.metrics.children_alive.dec_by(children);
}
