//!

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::on_start::REST;
use crate::workers::context::Context;

/// How often is looked for what others have left behind.
const SWEEP: Duration = Duration::from_secs(3600);

/// Removes files that nobody needs, whenever there may be some: at start, after changes, and now and then.
pub async fn remove_unused_files(context: Arc<Context>, draining: CancellationToken) {
    let mut moves = context.projection.subscribe();
    let mut known = None;
    loop {
        let changed = context.projection.catalog().servers_changed;
        if known != Some(changed) {
            known = Some(changed);
            context.installer.sweep(&context.projection).await;
        }
        tokio::select! {
            () = draining.cancelled() => return,
            moved = moves.changed() => if moved.is_err() { return },
            () = context.installer.freed.notified() => known = None,
            () = tokio::time::sleep(SWEEP) => known = None,
        }
        tokio::time::sleep(REST).await;
    }
}
