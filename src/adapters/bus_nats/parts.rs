//! Bodies that are larger than a message: they stay with their sender, which hands them out in parts on an
//! inbox of its own.

use std::sync::Arc;
use std::time::Duration;

use async_nats::SubscribeError;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use crate::core::failure::{Code, Failure};

/// Parts asked for at once.
const AT_ONCE: usize = 4;
/// How long one part may take.
const PART: Duration = Duration::from_secs(5);
/// How long an answer's parts are kept for whoever asked.
const KEPT: Duration = Duration::from_secs(30);

/// Where a body lies: the value of the header `Mcp-Parts`.
#[derive(Serialize, Deserialize)]
struct Parts {
    inbox: String,
    /// Bytes of the whole.
    length: usize,
    /// Bytes of each part but the last.
    size: usize,
    sha256: String,
}

/// A body that is handed out for as long as this lives.
pub struct Offer {
    pub header: String,
    last: Arc<Notify>,
    _serving: AbortOnDropHandle<()>,
}

impl Offer {
    /// `None`: the body goes into the message itself.
    pub async fn of(shared: &Arc<Shared>, body: &Bytes) -> Result<Option<Self>, SubscribeError> {
        let size = shared.one_message();
        if body.len() <= size {
            return Ok(None);
        }
        let inbox = shared.client.new_inbox();
        let mut asks = shared.client.subscribe(inbox.clone()).await?;
        let sha256 = hex::encode(Sha256::digest(body));
        let header = serde_json::to_string(&Parts { inbox, length: body.len(), size, sha256 }).unwrap_or_default();
        let (shared, body, last) = (shared.clone(), body.clone(), Arc::new(Notify::new()));
        let told = last.clone();
        let serving = tokio::spawn(async move {
            let parts = body.len().div_ceil(size);
            let mut left = parts;
            while let Some(ask) = asks.next().await {
                let number = std::str::from_utf8(&ask.payload).ok().and_then(|text| text.parse::<usize>().ok());
                let (Some(number), Some(reply)) = (number.filter(|number| *number < parts), ask.reply) else {
                    continue;
                };
                let part = body.slice(number * size..body.len().min((number + 1) * size));
                if shared.client.publish(reply, part).await.is_err() {
                    return;
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    told.notify_one();
                }
            }
        });
        Ok(Some(Self { header, last, _serving: AbortOnDropHandle::new(serving) }))
    }

    /// Waits until it was handed out, or nobody wants it any more.
    pub async fn fetched(self) {
        let _ = tokio::time::timeout(KEPT, self.last.notified()).await;
    }
}

/// Fetches a body and checks that it is the one that was sent.
pub async fn fetch(shared: &Shared, header: &str) -> Result<Bytes, Failure> {
    let wrong = |what: &str| Failure::invalid(format!("The header Mcp-Parts {what}"));
    let parts: Parts = serde_json::from_str(header).map_err(|_| wrong("must be the JSON of a body's place"))?;
    if parts.size == 0 || parts.length > shared.max_body {
        let too_large = format!("The body has {} bytes, and {} are taken", parts.length, shared.max_body);
        return Err(Failure::new(Code::PayloadTooLarge, too_large));
    }
    let count = parts.length.div_ceil(parts.size);
    if count > shared.max_body / 1024 + 1 || !parts.inbox.starts_with("_INBOX.") {
        return Err(wrong("must name an inbox and parts of 1,024 bytes or more"));
    }
    let asked = futures::stream::iter(0..count).map(|number| {
        let request = async_nats::Request::new().payload(number.to_string().into()).timeout(Some(PART));
        shared.client.send_request(parts.inbox.clone(), request)
    });
    let mut body = BytesMut::with_capacity(parts.length);
    let mut got = asked.buffered(AT_ONCE);
    while let Some(part) = got.try_next().await.map_err(|error| away(&error))? {
        if body.len() + part.payload.len() > parts.length {
            return Err(wrong("tells another length than its parts have"));
        }
        body.extend_from_slice(&part.payload);
    }
    let body = body.freeze();
    if body.len() != parts.length || hex::encode(Sha256::digest(&body)) != parts.sha256 {
        return Err(wrong("does not fit the parts that came"));
    }
    Ok(body)
}

fn away(error: &async_nats::RequestError) -> Failure {
    tracing::warn!(%error, "a large body could not be fetched");
    Failure::unavailable("A large body could not be fetched from its sender")
}
