//! A bounded set of changes between the reader of a connection and the task that passes them on. Equal changes that wait are
//! one change, so a server that reports the same change again and again causes no flood.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::core::model::upstream_change::UpstreamChange;

/// Changes that may wait. A change above it is lost, as a hint may be.
const MAX_WAITING: usize = 4096;

/// Changes that wait for one receiver.
#[derive(Default)]
pub struct ChangeQueue {
    waiting: Mutex<HashSet<UpstreamChange>>,
    added: Notify,
}

impl ChangeQueue {
    /// Adds a change and never waits.
    pub fn add(&self, change: UpstreamChange) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.insert(change);
            drop(waiting);
            self.added.notify_one();
        }
    }

    /// Waits until a change has arrived.
    pub async fn arrived(&self) {
        loop {
            if !self.waiting.lock().is_empty() {
                return;
            }
            self.added.notified().await;
        }
    }

    /// Takes all changes that have arrived.
    pub fn drain(&self) -> Vec<UpstreamChange> {
        self.waiting.lock().drain().collect()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ServerId;
    use crate::core::model::upstream_change::ChangedPart;

    fn change(uri: &str) -> UpstreamChange {
        UpstreamChange {
            server: ServerId(Uuid::nil()),
            user: None,
            part: ChangedPart::Resource(uri.into()),
        }
    }

    #[tokio::test]
    async fn equal_changes_are_one_and_wake_the_receiver() {
        let queue = ChangeQueue::default();
        let mut waiting = Box::pin(queue.arrived());
        assert!(futures::poll!(&mut waiting).is_pending());
        queue.add(change("a"));
        queue.add(change("a"));
        waiting.await;
        assert_eq!(queue.drain(), [change("a")]);
        assert!(futures::poll!(Box::pin(queue.arrived())).is_pending());
    }

    #[test]
    fn the_waiting_changes_are_bounded() {
        let queue = ChangeQueue::default();
        for number in 0..MAX_WAITING + 10 {
            queue.add(change(&number.to_string()));
        }
        assert_eq!(queue.drain().len(), MAX_WAITING);
    }
}
