//! The end of the log, read and written as text once for all who listen.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::pages;
use super::view::{EventId, EventView, views};
use crate::core::event::Entry;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::eventlog::projection::Projection;
use crate::telemetry::error::internal_error;
use crate::telemetry::metrics::Metrics;

/// Batches kept for listeners; who is further behind than that is dropped, and comes back by itself.
const KEPT: usize = 64;
/// Bytes after which a batch ends.
const BATCH: usize = 256 << 10;
/// How long the log rests that could not be read.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells listeners of every event, in batches.
pub struct EventBroadcaster(broadcast::Sender<Arc<Batch>>);

/// The events of some appends that follow one another.
pub struct Batch {
    /// The position before the first of them.
    pub from: Position,
    /// The position of the last.
    pub to: Position,
    /// All of them, one behind the other.
    pub text: Bytes,
    pub events: Vec<EncodedEvent>,
}

/// One event as text.
pub struct EncodedEvent {
    pub id: EventId,
    pub subject: String,
    pub text: Bytes,
}

impl EventBroadcaster {
    pub fn start(
        projection: Arc<Projection>,
        metrics: Arc<Metrics>,
        ending: CancellationToken,
    ) -> Self {
        let told = broadcast::Sender::new(KEPT);
        let tell = tell(projection, metrics, told.clone());
        tokio::spawn(async move { ending.run_until_cancelled(tell).await });
        Self(told)
    }

    pub fn listen(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.0.subscribe()
    }
}

async fn tell(
    projection: Arc<Projection>,
    metrics: Arc<Metrics>,
    told: broadcast::Sender<Arc<Batch>>,
) {
    let mut moves = projection.subscribe();
    let mut at = projection.position();
    loop {
        if moves.changed().await.is_err() {
            return;
        }
        let head = *moves.borrow_and_update();
        while at < head {
            // Who comes later reads up to where it hears of us.
            if told.receiver_count() == 0 {
                at = head;
                break;
            }
            metrics.event_reads.inc();
            match read(&projection, at).await {
                Ok(batches) => {
                    for batch in batches {
                        at = batch.to;
                        let _ = told.send(Arc::new(batch));
                    }
                }
                Err(failure) => {
                    tracing::warn!(%failure, "the log cannot be read for those who listen; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
}

/// What follows a position, in batches.
pub async fn read(projection: &Projection, from: Position) -> Result<Vec<Batch>, Failure> {
    let mut batches: Vec<Batch> = Vec::new();
    let (mut from, mut text, mut cuts) = (from, BytesMut::new(), Vec::new());
    let mut entries = pages::entries(projection, from)
        .await?
        .into_iter()
        .peekable();
    while let Some(entry) = entries.next() {
        let to = entry.position;
        put(entry, &mut text, &mut cuts)?;
        if text.len() >= BATCH || entries.peek().is_none() {
            let text = text.split().freeze();
            let frame =
                |(id, subject, at): (EventId, String, std::ops::Range<usize>)| EncodedEvent {
                    id,
                    subject,
                    text: text.slice(at),
                };
            let events = cuts.drain(..).map(frame).collect();
            batches.push(Batch {
                from,
                to,
                text,
                events,
            });
            from = to;
        }
    }
    Ok(batches)
}

type Cut = (EventId, String, std::ops::Range<usize>);

fn put(entry: Entry, text: &mut BytesMut, cuts: &mut Vec<Cut>) -> Result<(), Failure> {
    for (id, event) in views(entry)? {
        let begin = text.len();
        write(id, &event, text)?;
        cuts.push((id, event.subject, begin..text.len()));
    }
    Ok(())
}

/// As an event stream has it. JSON has no line breaks of its own.
fn write(id: EventId, event: &EventView, text: &mut BytesMut) -> Result<(), Failure> {
    let data = serde_json::to_string(event).map_err(internal_error)?;
    text.extend_from_slice(
        format!("id: {id}\nevent: {}\ndata: {data}\n\n", event.type_name).as_bytes(),
    );
    Ok(())
}
