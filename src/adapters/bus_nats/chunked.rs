//! Bodies too large for a message: they stay with their sender, which hands them out in parts until
//! the deadline. A part is asked for by its offset; an empty message says that all have come.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::message::OutboundMessage;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::connection::NatsConnection;
use super::inbox::{HeldBody, Inbox};
use super::wire;

/// Parts that are on their way at once.
const AT_ONCE: usize = 4;
/// A holder that says nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(3);
/// A part is no smaller, or fetching would take for ever.
const SMALLEST: usize = 1024;

/// Where a body is and how it can be known to be whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkedBody {
    inbox: String,
    length: usize,
    /// The length of each part but the last.
    part: usize,
    sha256: String,
}

impl ChunkedBody {
    pub fn parse(text: &str, max_body: usize) -> Result<Self, String> {
        let parts: Self =
            serde_json::from_str(text).map_err(|error| format!("cannot be read: {error}"))?;
        if !parts.inbox.starts_with("_INBOX.") {
            return Err("names an inbox that is none".into());
        }
        if parts.length > max_body {
            return Err(format!(
                "announces {} bytes; at most {max_body} are taken",
                parts.length
            ));
        }
        if parts.part < SMALLEST {
            return Err(format!(
                "announces parts of {} bytes, which is too small",
                parts.part
            ));
        }
        Ok(parts)
    }

    /// Fetches the body. `None`: its sender has gone, or it is not what was announced.
    pub async fn fetch(&self, inbox: &Arc<Inbox>) -> Option<Bytes> {
        let ask = |payload: String| OutboundMessage {
            subject: self.inbox.as_str().into(),
            reply: None,
            payload: payload.into(),
            headers: None,
        };
        let parts = (0..self.length)
            .step_by(self.part)
            .map(|offset| async move {
                let part = inbox
                    .request(ask(offset.to_string()), SILENCE)
                    .await
                    .ok_or(())?;
                let expected = self.part.min(self.length - offset);
                if part.status.is_some() || part.payload.len() != expected {
                    return Err(());
                }
                Ok(part.payload)
            });
        let mut body = BytesMut::with_capacity(self.length);
        let mut parts = futures::stream::iter(parts).buffered(AT_ONCE);
        while let Some(part) = parts.try_next().await.ok()? {
            body.extend_from_slice(&part);
        }
        inbox.link.send(ask(String::new()));
        let body = body.freeze();
        (digest(&body) == self.sha256).then_some(body)
    }
}

impl fmt::Display for ChunkedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).unwrap_or_default())
    }
}

fn digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// The longest body that travels in a message; the rest of it is for headers.
pub fn size(link: &NatsConnection) -> usize {
    (link.client.max_payload() / 4 * 3).max(SMALLEST)
}

/// The part at the offset that was asked for.
pub fn part(body: &Bytes, offset: &[u8], size: usize) -> Option<Bytes> {
    let offset: usize = std::str::from_utf8(offset).ok()?.parse().ok()?;
    let end = offset.saturating_add(size).min(body.len());
    (offset < end).then(|| body.slice(offset..end))
}

/// Gives a message its body: inside where there is room, else to be fetched while the guard lives.
pub fn load(inbox: &Arc<Inbox>, message: &mut OutboundMessage, body: Bytes) -> Option<HeldBody> {
    let part = size(&inbox.link);
    if body.len() <= part {
        message.payload = body;
        return None;
    }
    let (length, sha256) = (body.len(), digest(&body));
    let held = inbox.hold(body, part);
    wire::put_parts(
        message,
        &ChunkedBody {
            inbox: held.subject(),
            length,
            part,
            sha256,
        },
    );
    Some(held)
}
