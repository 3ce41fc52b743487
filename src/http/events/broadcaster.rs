//! Reads the log once for all listeners: the new entries as they arrive, and the old entries in
//! parts that replaying listeners share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, broadcast};
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, read_batch};
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::eventlog::projection::Projection;
use crate::telemetry::metrics::Metrics;

/// Batches that the broadcaster holds for slow listeners. A listener that is further behind replays
/// the missed ones from the log.
const HELD_BATCHES: usize = 64;
/// Bytes of replayed batches that the broadcaster holds for other replaying listeners.
const REPLAY_BYTES: usize = 4 << 20;
/// The pause after a failed read of the log.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Sends every new event to all listeners, and replays old events.
pub struct EventBroadcaster {
    sender: broadcast::Sender<Arc<Batch>>,
    projection: Arc<Projection>,
    metrics: Arc<Metrics>,
    /// Listeners that replay take turns: each turn is one batch. A fair lock keeps hundreds of
    /// replays from taking all threads from other requests.
    replay: Mutex<ReplayedBatches>,
}

impl EventBroadcaster {
    /// Starts the task that reads new entries. The task ends when `ending` is cancelled.
    pub fn start(
        projection: Arc<Projection>,
        metrics: Arc<Metrics>,
        ending: CancellationToken,
    ) -> Self {
        let sender = broadcast::Sender::new(HELD_BATCHES);
        let broadcast = broadcast_batches(projection.clone(), metrics.clone(), sender.clone());
        tokio::spawn(async move { ending.run_until_cancelled(broadcast).await });
        Self {
            sender,
            projection,
            metrics,
            replay: Mutex::default(),
        }
    }

    /// Returns a receiver of all batches from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.sender.subscribe()
    }

    /// Returns a batch that begins at or before the entry after `from` and ends after it. Returns
    /// `None` at the end of the log.
    ///
    /// # Errors
    /// Returns `unavailable` if the store does not answer.
    pub async fn replay_after(&self, from: Position) -> Result<Option<Arc<Batch>>, Failure> {
        let mut replayed = self.replay.lock().await;
        if let Some(batch) = replayed.find(from) {
            return Ok(Some(batch));
        }
        self.metrics.event_stream_reads.inc();
        let batch = read_batch(&self.projection, from).await?.map(Arc::new);
        if let Some(batch) = &batch {
            replayed.store(batch.clone());
        }
        Ok(batch)
    }
}

/// The batches that replaying listeners read last.
#[derive(Default)]
struct ReplayedBatches {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
}

impl ReplayedBatches {
    /// Returns the batch that holds the entry after `from`.
    fn find(&self, from: Position) -> Option<Arc<Batch>> {
        self.batches
            .iter()
            .find(|batch| batch.from <= from && from < batch.to)
            .cloned()
    }

    fn store(&mut self, batch: Arc<Batch>) {
        self.bytes += batch.text.len();
        self.batches.push_back(batch);
        while self.bytes > REPLAY_BYTES
            && let Some(oldest) = self.batches.pop_front()
        {
            self.bytes -= oldest.text.len();
        }
    }
}

async fn broadcast_batches(
    projection: Arc<Projection>,
    metrics: Arc<Metrics>,
    sender: broadcast::Sender<Arc<Batch>>,
) {
    let mut positions = projection.subscribe();
    let mut position = projection.position();
    while positions.changed().await.is_ok() {
        let head = *positions.borrow_and_update();
        while position < head {
            // A later listener reads the log up to the first batch that it receives.
            if sender.receiver_count() == 0 {
                position = head;
                break;
            }
            metrics.event_stream_reads.inc();
            match read_batch(&projection, position).await {
                Ok(Some(batch)) => {
                    position = batch.to;
                    // The last listener may have left.
                    let _ = sender.send(Arc::new(batch));
                }
                Ok(None) => break,
                // The listeners that miss the removed entries are disconnected when they replay.
                Err(failure) if failure.code == Code::LogTruncated => position = head,
                Err(failure) => {
                    tracing::warn!(%failure, "the broadcaster cannot read the log; retrying");
                    tokio::time::sleep(READ_PAUSE).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(from: u64, to: u64, bytes: usize) -> Arc<Batch> {
        Arc::new(Batch {
            from: Position(from),
            to: Position(to),
            text: Bytes::from(vec![0; bytes]),
            events: vec![],
        })
    }

    #[test]
    fn a_replayed_batch_serves_every_position_that_it_covers() {
        let mut replayed = ReplayedBatches::default();
        replayed.store(batch(10, 20, 1));
        assert!(replayed.find(Position(9)).is_none());
        assert!(replayed.find(Position(10)).is_some());
        assert!(replayed.find(Position(19)).is_some());
        assert!(replayed.find(Position(20)).is_none());
    }

    #[test]
    fn replayed_batches_are_bounded_by_their_bytes() {
        let mut replayed = ReplayedBatches::default();
        for number in 0..10 {
            replayed.store(batch(number, number + 1, REPLAY_BYTES / 4));
            assert!(replayed.bytes <= REPLAY_BYTES);
        }
        assert_eq!(replayed.batches.len(), 4);
        replayed.store(batch(10, 11, REPLAY_BYTES + 1));
        assert!(replayed.batches.is_empty());
        assert_eq!(replayed.bytes, 0);
    }
}
