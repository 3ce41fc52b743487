//! The messages that wait for the NATS client.
//!
//! The client writes as soon as it has a message, and each write wakes the NATS server and the reader behind it. The outbox
//! passes its messages on after the other tasks that are ready have run, so that messages of many calls are one write.

use std::mem;
use std::sync::Arc;

use async_nats::Client;
use async_nats::client::traits::Publisher;
use async_nats::message::OutboundMessage;
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The most messages in an outbox.
const MAX_MESSAGES: usize = 1024;
/// The bytes of payloads above which an outbox takes no further message.
const MAX_BYTES: usize = 4 << 20;

/// The messages of one connection, in order.
#[derive(Default)]
pub(super) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    /// The client has no room for the message that comes before these.
    is_blocked: bool,
    messages: Vec<OutboundMessage>,
    bytes: usize,
}

impl Outbox {
    /// Takes a message. Returns it if the outbox is full or the client has no room.
    #[must_use]
    pub(super) fn push(&self, message: OutboundMessage) -> Option<OutboundMessage> {
        let mut queue = self.queue.lock();
        let is_full = queue.messages.len() >= MAX_MESSAGES || queue.bytes >= MAX_BYTES;
        if queue.is_blocked || is_full {
            return Some(message);
        }
        queue.bytes += message.payload.len();
        queue.messages.push(message);
        let is_first = queue.messages.len() == 1;
        drop(queue);
        if is_first {
            self.filled.notify_one();
        }
        None
    }

    /// Passes all messages to the client. Never returns.
    pub(super) async fn pass_on(self: Arc<Self>, client: Client) {
        loop {
            self.filled.notified().await;
            // The runtime continues this task when no other task is ready, or after a bounded number of them.
            tokio::task::yield_now().await;
            for message in self.take() {
                self.pass(&client, message).await;
            }
        }
    }

    async fn pass(&self, client: &Client, message: OutboundMessage) {
        let mut sending = std::pin::pin!(client.publish_message(message));
        let first = tokio::task::unconstrained(sending.as_mut()).now_or_never();
        let sent = match first {
            Some(sent) => sent,
            None => {
                self.queue.lock().is_blocked = true;
                let sent = sending.await;
                self.queue.lock().is_blocked = false;
                sent
            }
        };
        if let Err(error) = sent {
            tracing::warn!(%error, "cannot send a message over NATS");
        }
    }

    fn take(&self) -> Vec<OutboundMessage> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        mem::take(&mut queue.messages)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(payload: usize) -> OutboundMessage {
        OutboundMessage {
            subject: "a".into(),
            reply: None,
            payload: Bytes::from(vec![0; payload]),
            headers: None,
        }
    }

    #[test]
    fn a_full_outbox_returns_the_message() {
        let outbox = Outbox::default();
        for _ in 0..MAX_MESSAGES {
            assert!(outbox.push(message(1)).is_none(), "room");
        }
        assert_eq!(outbox.push(message(7)).expect("full").payload.len(), 7);
        assert_eq!(outbox.take().len(), MAX_MESSAGES);
        assert!(
            outbox.push(message(MAX_BYTES)).is_none(),
            "room for one large message"
        );
        assert!(outbox.push(message(1)).is_some());
        assert_eq!(outbox.take().len(), 1);
        assert!(outbox.push(message(1)).is_none());
    }
}
