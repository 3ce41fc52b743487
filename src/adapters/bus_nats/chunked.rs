//! Bodies that are too large for one message. The sender holds the body, and the receiver fetches it in
//! chunks before the deadline. A request for a chunk holds the offset. An empty request says that the
//! receiver has all chunks.

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

/// The number of chunks that the receiver requests at once.
const AT_ONCE: usize = 4;
/// The time after which a sender that does not reply is gone.
const SILENCE: Duration = Duration::from_secs(3);
/// The smallest size of a chunk in bytes. Smaller chunks would take too much time.
const MIN_CHUNK: usize = 1024;

/// Describes a body that its sender holds. The JSON of this type is the header `Mcp-Parts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ChunkedBody {
    inbox: String,
    length: usize,
    /// The size of each chunk except the last.
    #[serde(rename = "part")]
    chunk: usize,
    sha256: String,
}

impl ChunkedBody {
    /// Parses the header. The error is the end of a sentence that starts with the name of the header.
    pub(super) fn parse(text: &str, max_body: usize) -> Result<Self, String> {
        let body: Self =
            serde_json::from_str(text).map_err(|error| format!("cannot be parsed: {error}"))?;
        if !body.inbox.starts_with("_INBOX.") {
            return Err("names a subject outside `_INBOX.`".into());
        }
        if body.length > max_body {
            let length = body.length;
            return Err(format!(
                "announces {length} bytes; the limit is {max_body} bytes"
            ));
        }
        if body.chunk < MIN_CHUNK {
            let chunk = body.chunk;
            return Err(format!(
                "announces parts of {chunk} bytes; the minimum is {MIN_CHUNK} bytes"
            ));
        }
        Ok(body)
    }

    /// Fetches the body. Returns `None` if its sender is gone or the body differs from the announcement.
    pub(super) async fn fetch(&self, inbox: &Arc<Inbox>) -> Option<Bytes> {
        let request = |payload: String| OutboundMessage {
            subject: self.inbox.as_str().into(),
            reply: None,
            payload: payload.into(),
            headers: None,
        };
        let offsets = (0..self.length).step_by(self.chunk);
        let chunks = offsets.map(|offset| async move {
            let reply = inbox.request(request(offset.to_string()), SILENCE).await;
            let chunk = reply.ok_or(())?;
            let expected = self.chunk.min(self.length - offset);
            if chunk.status.is_some() || chunk.payload.len() != expected {
                return Err(());
            }
            Ok(chunk.payload)
        });
        // The memory grows with the parts, because a message may announce a body that never comes.
        let mut body = BytesMut::new();
        let mut chunks = futures::stream::iter(chunks).buffered(AT_ONCE);
        while let Some(chunk) = chunks.try_next().await.ok()? {
            body.extend_from_slice(&chunk);
        }
        inbox.connection.send(request(String::new()));
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

/// Returns the size of the longest body inside a message. The headers use the remaining quarter.
pub(super) fn max_inline(connection: &NatsConnection) -> usize {
    (connection.client.max_payload() / 4 * 3).max(MIN_CHUNK)
}

/// Returns the chunk that a request asks for, or `None` if the offset is invalid.
pub(super) fn chunk(body: &Bytes, offset: &[u8], size: usize) -> Option<Bytes> {
    let offset: usize = std::str::from_utf8(offset).ok()?.parse().ok()?;
    let end = offset.saturating_add(size).min(body.len());
    (offset < end).then(|| body.slice(offset..end))
}

/// Adds a body to a message. A body that is too large stays here, and the receiver can fetch it while
/// the returned guard lives.
pub(super) fn add_body(
    inbox: &Arc<Inbox>,
    message: &mut OutboundMessage,
    body: Bytes,
) -> Option<HeldBody> {
    let chunk = max_inline(&inbox.connection);
    if body.len() <= chunk {
        message.payload = body;
        return None;
    }
    let length = body.len();
    let sha256 = digest(&body);
    let held = inbox.hold(body, chunk);
    let announced = ChunkedBody {
        inbox: held.subject(),
        length,
        chunk,
        sha256,
    };
    wire::add_chunked(message, &announced);
    Some(held)
}
