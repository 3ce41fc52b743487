//! The log as an event stream, until the client disconnects or the process ends.
//!
//! A listener replays the log up to its end and then receives the batches of the broadcaster. The
//! broadcaster does not wait for a listener. A listener that missed batches replays them from the
//! log. The kernel disconnects a client that reads nothing for too long; the client connects again
//! with its `Last-Event-ID`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::stream;
use futures::stream::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::batch::Batch;
use super::view::EventId;
use crate::core::ids::Position;
use crate::core::model::caller::Caller;
use crate::http::respond::endless::Endless;
use crate::http::state::ApiState;
use crate::telemetry::metrics::StreamGuard;

/// A stream sends a comment after this long without an event, so that proxies keep it open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

struct StreamReader {
    state: Arc<ApiState>,
    caller: Arc<Caller>,
    subject: Option<String>,
    /// The last event that the listener has.
    last: EventId,
    /// The listener has all events up to this position.
    reached: Position,
    /// The batches of the broadcaster, once the replay reaches the end of the log.
    batches: Option<Receiver<Arc<Batch>>>,
    /// The replay has ended. From now on every event comes from the broadcaster.
    is_live: bool,
    /// A received batch that is not sent yet, which may begin after `reached`.
    pending: Option<Arc<Batch>>,
    _counted: StreamGuard,
    _permit: OwnedSemaphorePermit,
}

/// Answers with the events after `last` as a stream without an end. `start` is the position after which
/// the listener reads.
pub(super) fn open_stream(
    state: Arc<ApiState>,
    caller: Arc<Caller>,
    permit: OwnedSemaphorePermit,
    last: EventId,
    start: Position,
    subject: Option<String>,
) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
    ];
    let ending = state.shutdown().clone();
    let texts = event_texts(state, caller, permit, last, start, subject)
        .map(Ok::<_, Infallible>)
        .take_until(ending.cancelled_owned());
    Endless::mark((headers, Body::from_stream(texts)).into_response())
}

fn event_texts(
    state: Arc<ApiState>,
    caller: Arc<Caller>,
    permit: OwnedSemaphorePermit,
    last: EventId,
    start: Position,
    subject: Option<String>,
) -> impl Stream<Item = Bytes> {
    let counted = StreamGuard::new(&state.metrics().event_listeners);
    let reader = StreamReader {
        state,
        caller,
        subject,
        last,
        reached: start,
        batches: None,
        is_live: false,
        pending: None,
        _counted: counted,
        _permit: permit,
    };
    stream::unfold(reader, async |mut reader| {
        reader.next_text().await.map(|text| (text, reader))
    })
}

impl StreamReader {
    /// Returns the next text of the stream, or `None` to disconnect the listener.
    async fn next_text(&mut self) -> Option<Bytes> {
        loop {
            let text = match self.pending.take() {
                Some(batch) if batch.from <= self.reached => self.new_text(&batch),
                // The entries before the batch were broadcast before this listener subscribed.
                Some(batch) => {
                    self.pending = Some(batch);
                    self.replay().await?
                }
                None if !self.is_live && self.state.projection().position() > self.reached => {
                    self.replay().await?
                }
                None => self.receive().await?,
            };
            // Every commit and every keep-alive comes here, also without a text for this listener, so a revoked token
            // ends the stream with its own event, and an expired token at the next keep-alive.
            self.state.check_still_valid(&self.caller).ok()?;
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// Replays one batch. After a failed read the facade disconnects the listener, and the listener connects
    /// again. If a worker has shortened the log in between, the facade then answers 410.
    async fn replay(&mut self) -> Option<Bytes> {
        let events = self.state.events();
        let batch = events.replay_after(self.reached).await.ok()??;
        Some(self.new_text(&batch))
    }

    /// Waits for a batch of the broadcaster, or for the next keep-alive comment.
    async fn receive(&mut self) -> Option<Bytes> {
        let Some(batches) = &mut self.batches else {
            // Entries that arrived before this subscription are not broadcast to this listener, so
            // the reader compares the positions once more.
            self.batches = Some(self.state.events().subscribe());
            return Some(Bytes::new());
        };
        self.is_live = true;
        match tokio::time::timeout(KEEP_ALIVE, batches.recv()).await {
            Ok(Ok(batch)) => {
                self.pending = Some(batch);
                Some(Bytes::new())
            }
            // The next batch begins after `reached`, so the reader replays the missed ones first.
            Ok(Err(RecvError::Lagged(_))) => Some(Bytes::new()),
            Ok(Err(RecvError::Closed)) => None,
            Err(_) => Some(Bytes::from_static(b":\n\n")),
        }
    }

    /// Returns the events of a batch that the listener wants and does not have yet.
    fn new_text(&mut self, batch: &Batch) -> Bytes {
        self.reached = self.reached.max(batch.to);
        let (Some(first), Some(end)) = (batch.events.first(), batch.events.last()) else {
            return Bytes::new();
        };
        let last = self.last;
        self.last = last.max(end.id);
        if last.is_before(first.id) && self.subject.is_none() {
            return batch.text.clone();
        }
        let mut text = BytesMut::new();
        for event in &batch.events {
            if last.is_before(event.id) && self.wants(&event.subject) {
                text.extend_from_slice(&event.text);
            }
        }
        text.freeze()
    }

    fn wants(&self, subject: &str) -> bool {
        self.subject
            .as_deref()
            .is_none_or(|wanted| wanted == subject)
    }
}
