//! The inbox of this process: one NATS subscription for all replies, and the table of their waiters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use super::connection::NatsConnection;
use super::error::NatsError;
use super::{chunked, wire};
use crate::ports::bus::InterimSender;
use crate::time::clock::monotonic;

/// The time that a sender has to fetch the chunks of a large reply.
const FETCH_LIMIT: Duration = Duration::from_secs(30);
/// The time between two checks whether the chunks have been fetched.
const FETCH_CHECK: Duration = Duration::from_millis(200);

/// The inbox of this process.
pub(super) struct Inbox {
    pub(super) connection: NatsConnection,
    /// `_INBOX.<process>.`. The number of the entry follows.
    prefix: String,
    next: AtomicU64,
    entries: Mutex<HashMap<u64, InboxEntry>>,
}

enum InboxEntry {
    /// A waiter for one message.
    Waits {
        /// The time of the last sign of life.
        heard: Instant,
        reply: oneshot::Sender<Message>,
        interim: Option<InterimSender>,
    },
    /// A body that another process fetches in chunks of this size.
    Holds(Bytes, usize),
}

impl Inbox {
    /// Opens the inbox. The subscription must be passed to [`Self::read`].
    pub(super) async fn open(
        connection: NatsConnection,
    ) -> Result<(Arc<Self>, Subscriber), NatsError> {
        let prefix = format!("_INBOX.{}.", Uuid::new_v4().simple());
        let messages = connection.subscribe(format!("{prefix}*")).await?;
        let inbox = Self {
            connection,
            prefix,
            next: AtomicU64::new(0),
            entries: Mutex::default(),
        };
        Ok((Arc::new(inbox), messages))
    }

    /// Delivers the messages of the subscription until it ends.
    pub(super) async fn read(self: Arc<Self>, mut messages: Subscriber) {
        while let Some(message) = messages.next().await {
            self.deliver(message);
        }
    }

    fn deliver(&self, message: Message) {
        let number = message.subject.strip_prefix(self.prefix.as_str());
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            return;
        };
        let mut entries = self.entries.lock();
        match entries.get_mut(&number) {
            Some(InboxEntry::Waits { heard, interim, .. }) if wire::is_before_reply(&message) => {
                *heard = monotonic();
                if let Some(interim) = interim
                    && let Some(message) = wire::parse_interim(&message)
                {
                    interim.send(message);
                }
            }
            Some(InboxEntry::Waits { .. }) => {
                let Some(InboxEntry::Waits { reply, .. }) = entries.remove(&number) else {
                    return;
                };
                drop(entries);
                let _ = reply.send(message);
            }
            Some(InboxEntry::Holds(..)) if message.payload.is_empty() => {
                entries.remove(&number);
            }
            Some(InboxEntry::Holds(body, size)) => {
                let chunk = chunked::chunk(body, &message.payload, *size);
                drop(entries);
                if let (Some(payload), Some(reply)) = (chunk, message.reply) {
                    self.connection.send(OutboundMessage {
                        subject: reply,
                        reply: None,
                        payload,
                        headers: None,
                    });
                }
            }
            // The waiter of a late reply has left.
            None => {}
        }
    }

    /// Registers a waiter for one message.
    pub(super) fn wait(self: &Arc<Self>) -> ReplyWaiter {
        self.wait_with(None)
    }

    /// Registers a waiter for one message, and a receiver for the messages before it.
    pub(super) fn wait_with(self: &Arc<Self>, interim: Option<InterimSender>) -> ReplyWaiter {
        let (reply, receiver) = oneshot::channel();
        let number = self.insert(InboxEntry::Waits {
            heard: monotonic(),
            reply,
            interim,
        });
        ReplyWaiter {
            inbox: self.clone(),
            number,
            reply: receiver,
        }
    }

    /// Holds a body until its receiver has fetched it or the guard is dropped.
    pub(super) fn hold(self: &Arc<Self>, body: Bytes, size: usize) -> HeldBody {
        HeldBody {
            inbox: self.clone(),
            number: self.insert(InboxEntry::Holds(body, size)),
        }
    }

    fn insert(&self, entry: InboxEntry) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.entries.lock().insert(number, entry);
        number
    }

    fn subject(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }

    /// Returns a new subject under the inbox that the inbox does not read itself.
    pub(super) fn new_subject(&self, kind: &str) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}{kind}.{number}", self.prefix)
    }

    /// Sends a request and waits for its reply. Returns `None` after the time limit.
    pub(super) async fn request(
        self: &Arc<Self>,
        mut request: OutboundMessage,
        limit: Duration,
    ) -> Option<Message> {
        let mut waiter = self.wait();
        request.reply = Some(waiter.subject().into());
        self.connection.send(request);
        let reply = tokio::time::timeout(limit, waiter.reply()).await;
        reply.ok().flatten()
    }

    /// Waits until the NATS server has processed all messages so far, and until the messages that the
    /// server had sent before have arrived.
    pub(super) async fn round_trip(self: &Arc<Self>, limit: Duration) {
        let mut waiter = self.wait();
        let until = monotonic() + limit;
        let message = OutboundMessage {
            subject: waiter.subject().into(),
            reply: None,
            payload: Bytes::new(),
            headers: None,
        };
        self.connection.send_before(message, until).await;
        let _ = tokio::time::timeout_at(until, waiter.reply()).await;
    }
}

/// Waits for one message. Dropping it removes its entry.
pub(super) struct ReplyWaiter {
    inbox: Arc<Inbox>,
    number: u64,
    reply: oneshot::Receiver<Message>,
}

impl ReplyWaiter {
    pub(super) fn subject(&self) -> String {
        self.inbox.subject(self.number)
    }

    /// Waits for the message. Returns `None` if no message can arrive.
    pub(super) async fn reply(&mut self) -> Option<Message> {
        (&mut self.reply).await.ok()
    }

    /// Returns the time of the last sign of life. Returns `None` after the message has arrived.
    pub(super) fn heard(&self) -> Option<Instant> {
        match self.inbox.entries.lock().get(&self.number) {
            Some(InboxEntry::Waits { heard, .. }) => Some(*heard),
            _ => None,
        }
    }
}

impl Drop for ReplyWaiter {
    fn drop(&mut self) {
        self.inbox.entries.lock().remove(&self.number);
    }
}

/// Holds a body for another process. Dropping it removes the body.
pub(super) struct HeldBody {
    inbox: Arc<Inbox>,
    number: u64,
}

impl HeldBody {
    pub(super) fn subject(&self) -> String {
        self.inbox.subject(self.number)
    }

    /// Waits until the body has been fetched, at most 30 seconds.
    pub(super) async fn fetched(self) {
        let end = monotonic() + FETCH_LIMIT;
        while monotonic() < end && self.inbox.entries.lock().contains_key(&self.number) {
            tokio::time::sleep(FETCH_CHECK).await;
        }
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.inbox.entries.lock().remove(&self.number);
    }
}
