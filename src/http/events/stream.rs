//! The log as a stream, until the listener leaves or the process ends.
//!
//! A listener reads by itself up to the end of the log, and from there on what all are told. It is not waited
//! for: too far behind, or not reading at all (`app` has the limit), it is dropped, and goes on from its
//! Last-Event-ID when it comes back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures::stream;
use futures::stream::{Stream, StreamExt};
use tokio::sync::broadcast::Receiver;

use super::broadcaster::{Batch, read};
use super::pages;
use super::view::EventId;
use crate::core::ids::Position;
use crate::http::state::ApiState;
use crate::telemetry::metrics::StreamGuard;

/// Silence after which a stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(15);

struct StreamReader {
    facade: Arc<ApiState>,
    subject: Option<String>,
    /// The last event that is known.
    last: EventId,
    /// Everything up to here was told.
    reached: Position,
    /// What all are told, once it is needed.
    told: Option<Receiver<Arc<Batch>>>,
    /// Nothing was left to read when it began to listen: from then on it is told.
    hears: bool,
    /// A batch that begins behind what was reached.
    waiting: Option<Arc<Batch>>,
    _counted: StreamGuard,
}

pub fn open(facade: Arc<ApiState>, last: EventId, subject: Option<String>) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-cache"),
    ];
    let ending = facade.shutdown().clone();
    let told = follow(facade, last, subject)
        .map(Ok::<_, Infallible>)
        .take_until(ending.cancelled_owned());
    (headers, Body::from_stream(told)).into_response()
}

fn follow(
    facade: Arc<ApiState>,
    last: EventId,
    subject: Option<String>,
) -> impl Stream<Item = Bytes> {
    let counted = StreamGuard::new(facade.metrics());
    let reached = pages::before(last);
    let listener = StreamReader {
        facade,
        subject,
        last,
        reached,
        told: None,
        hears: false,
        waiting: None,
        _counted: counted,
    };
    stream::unfold(listener, async |mut listener| {
        listener.next().await.map(|text| (text, listener))
    })
}

impl StreamReader {
    /// What comes next; `None`: it is dropped.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let text = match self.waiting.take() {
                Some(batch) if batch.from <= self.reached => self.text(&batch),
                // What lies between was told before this one listened.
                Some(batch) => {
                    self.waiting = Some(batch);
                    self.read().await?
                }
                None if self.facade.projection().position() > self.reached && !self.hears => {
                    self.read().await?
                }
                None => self.hear().await?,
            };
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// Reads the log itself, a page of it. Where that fails, the listener is to come back.
    async fn read(&mut self) -> Option<Bytes> {
        self.facade.metrics().event_reads.inc();
        let batches = read(self.facade.projection(), self.reached).await.ok()?;
        batches.first()?;
        let mut all = BytesMut::new();
        for batch in batches {
            all.extend_from_slice(&self.text(&batch));
        }
        Some(all.freeze())
    }

    /// Waits for what all are told, or for the time to say that the stream is alive.
    async fn hear(&mut self) -> Option<Bytes> {
        let Some(told) = &mut self.told else {
            // What has come since the last look is told to nobody else: it is looked once more.
            self.told = Some(self.facade.events().listen());
            return Some(Bytes::new());
        };
        self.hears = true;
        match tokio::time::timeout(ALIVE, told.recv()).await {
            Ok(batch) => {
                self.waiting = Some(batch.ok()?);
                Some(Bytes::new())
            }
            Err(_) => Some(Bytes::from_static(b":\n\n")),
        }
    }

    /// What is new of a batch, and asked for.
    fn text(&mut self, batch: &Batch) -> Bytes {
        self.reached = self.reached.max(batch.to);
        let (Some(first), Some(end)) = (batch.events.first(), batch.events.last()) else {
            return Bytes::new();
        };
        let last = self.last;
        self.last = last.max(end.id);
        if last.is_before(first.id) && self.subject.is_none() {
            return batch.text.clone();
        }
        let wanted = |subject: &str| {
            self.subject
                .as_deref()
                .is_none_or(|wanted| wanted == subject)
        };
        let mut text = BytesMut::new();
        for event in batch
            .events
            .iter()
            .filter(|event| last.is_before(event.id) && wanted(&event.subject))
        {
            text.extend_from_slice(&event.text);
        }
        text.freeze()
    }
}
