//! Publishes the changes that the servers of this worker report, for the clients of all facades.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::ports::bus::{Bus, Hint};
use crate::ports::change_queue::ChangeQueue;

/// Equal changes within this time are published once.
const MERGE: Duration = Duration::from_millis(100);

/// Publishes the changes until the process ends.
pub(super) async fn publish_changes(changes: Arc<ChangeQueue>, bus: Arc<dyn Bus>) {
    let mut merge = tokio::time::interval(MERGE);
    merge.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        changes.arrived().await;
        merge.tick().await;
        for change in changes.drain() {
            bus.publish(Hint::UpstreamChanged(change));
        }
    }
}
