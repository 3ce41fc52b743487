//! Hints to all processes. The own ones are heard at once, and not a second time.

use std::sync::Arc;

use async_nats::{HeaderMap, SubscribeError};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{broadcast, mpsc};
use uuid::Uuid;

use super::Shared;
use crate::core::names::Position;
use crate::ports::Hint;

/// Hints a listener may be behind; one that is further behind looks for itself.
const HINTS: usize = 4096;
/// Hints that may wait to be sent.
const OUT: usize = 1024;
/// Who sent it.
const FROM: &str = "Mcp-From";

pub struct Hints {
    heard: broadcast::Sender<Hint>,
    out: mpsc::Sender<Hint>,
}

impl Hints {
    pub async fn start(shared: &Arc<Shared>) -> Result<Self, SubscribeError> {
        let (heard, (out, mut sending)) = (broadcast::Sender::new(HINTS), mpsc::channel(OUT));
        let own = Uuid::new_v4().to_string();
        let moved = shared.client.subscribe(format!("{}.log.moved", shared.prefix)).await?;
        let status = shared.client.subscribe(format!("{}.status", shared.prefix)).await?;
        let moved = moved.map(|message| {
            let position = std::str::from_utf8(&message.payload).ok().and_then(|text| text.parse().ok());
            (message.headers, position.map(|position| Hint::LogMoved(Position(position))))
        });
        let status = status.map(|message| (message.headers, Some(Hint::Status(message.payload))));
        let mut all = futures::stream::select(moved, status);
        let (told, me) = (heard.clone(), own.clone());
        tokio::spawn(async move {
            while let Some((headers, hint)) = all.next().await {
                let from = headers.as_ref().and_then(|headers| headers.get(FROM)).map(|value| value.as_str());
                if let Some(hint) = hint.filter(|_| from != Some(&*me)) {
                    let _ = told.send(hint);
                }
            }
        });
        let shared = shared.clone();
        tokio::spawn(async move {
            let mut headers = HeaderMap::new();
            headers.insert(FROM, own);
            while let Some(hint) = sending.recv().await {
                let (subject, body) = match hint {
                    Hint::LogMoved(position) => ("log.moved", Bytes::from(position.0.to_string())),
                    Hint::Status(status) => ("status", status),
                };
                // An old hint is worth nothing: none is kept for later.
                if shared.is_connected() {
                    let subject = format!("{}.{subject}", shared.prefix);
                    let _ = shared.client.publish_with_headers(subject, headers.clone(), body).await;
                }
            }
        });
        Ok(Self { heard, out })
    }

    pub fn publish(&self, hint: Hint) {
        let _ = self.heard.send(hint.clone());
        // Full, it is lost, and everything is told again.
        let _ = self.out.try_send(hint);
    }

    pub fn listen(&self) -> broadcast::Receiver<Hint> {
        self.heard.subscribe()
    }
}
