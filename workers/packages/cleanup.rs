//! Removes the files of packages that no server needs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::workers::context::Context;

/// The interval of the sweeps that find what other processes have left.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// The pause between two sweeps, because changes of servers often come together.
const SWEEP_PAUSE: Duration = Duration::from_millis(500);

/// Removes unused files at the start, after each change of a server, and every hour, until the worker
/// drains.
pub(crate) async fn remove_unused_files(context: Arc<Context>, draining: CancellationToken) {
    let mut catalog_changes = context.projection.subscribe();
    let mut swept_at = None;
    loop {
        let servers_changed = context.projection.catalog().servers_changed;
        if swept_at != Some(servers_changed) {
            swept_at = Some(servers_changed);
            context.installer.sweep(&context.projection).await;
        }
        tokio::select! {
            () = draining.cancelled() => return,
            changed = catalog_changes.changed() => if changed.is_err() { return },
            () = context.installer.released.notified() => swept_at = None,
            () = tokio::time::sleep(SWEEP_INTERVAL) => swept_at = None,
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}
