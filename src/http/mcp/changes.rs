//! Passes the changes that MCP servers report to the open streams. Changes within a short time wake the streams once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::core::model::upstream_change::UpstreamChange;
use crate::ports::change_queue::ChangeQueue;

/// Changes within this time wake the streams once.
const MERGE: Duration = Duration::from_millis(250);
/// Batches that a slow stream may lag behind. A stream with more lag tells its client of every change that it wants.
const MAX_LAG: usize = 16;

/// The changes of one moment.
pub(super) type ChangeBatch = Arc<[UpstreamChange]>;

/// Merges the changes that servers report.
pub struct ChangeMerger {
    received: Arc<ChangeQueue>,
    merged: broadcast::Sender<ChangeBatch>,
}

impl ChangeMerger {
    /// Starts the task, which ends when `ending` is cancelled.
    pub fn start(ending: CancellationToken) -> Self {
        let received = Arc::<ChangeQueue>::default();
        let merged = broadcast::Sender::new(MAX_LAG);
        let merging = merge(received.clone(), merged.downgrade());
        tokio::spawn(async move { ending.run_until_cancelled(merging).await });
        Self { received, merged }
    }

    /// Adds a change that a worker has published.
    pub fn add(&self, change: UpstreamChange) {
        self.received.add(change);
    }

    pub fn subscribe(&self) -> broadcast::Receiver<ChangeBatch> {
        self.merged.subscribe()
    }
}

async fn merge(received: Arc<ChangeQueue>, merged: broadcast::WeakSender<ChangeBatch>) {
    let mut ticks = tokio::time::interval(MERGE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        received.arrived().await;
        // More changes may arrive in this time.
        ticks.reset();
        ticks.tick().await;
        let Some(merged) = merged.upgrade() else {
            return;
        };
        // Without open streams the changes are lost, which is allowed.
        let _ = merged.send(received.drain().into());
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ServerId;
    use crate::core::model::upstream_change::ChangedPart;

    #[tokio::test(start_paused = true)]
    async fn changes_within_a_short_time_are_one_batch() {
        let merger = ChangeMerger::start(CancellationToken::new());
        let mut batches = merger.subscribe();
        for part in [
            ChangedPart::Prompts,
            ChangedPart::Resources,
            ChangedPart::Prompts,
        ] {
            merger.add(UpstreamChange {
                server: ServerId(Uuid::nil()),
                user: None,
                part,
            });
        }
        assert_eq!(batches.recv().await.expect("a batch").len(), 2);
        assert!(batches.try_recv().is_err());
    }
}
