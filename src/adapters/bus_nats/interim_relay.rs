//! Publishes the interim messages of one ask to the inbox of its sender, before the reply.

use async_nats::Subject;
use async_nats::client::traits::Publisher;

use super::connection::NatsConnection;
use super::{chunked, wire};
use crate::ports::bus::{Interim, InterimReceiver};

/// The interim messages of one ask. While the queue of the NATS client is full, the channel keeps the newest messages.
pub(super) struct InterimRelay<'a> {
    pub(super) connection: &'a NatsConnection,
    pub(super) to: Subject,
    pub(super) messages: InterimReceiver,
}

impl InterimRelay<'_> {
    /// Publishes each message as it comes. Never returns.
    pub(super) async fn publish_all(&mut self) {
        while let Some(message) = self.messages.recv().await {
            if self.is_too_large(&message) {
                continue;
            }
            let message = wire::interim(self.to.clone(), message);
            if let Err(error) = self.connection.client.publish_message(message).await {
                tracing::warn!(%error, "cannot send an interim message over NATS");
            }
        }
        std::future::pending().await
    }

    /// Publishes the waiting messages, as far as the queue of the client has room. The reply must follow, because a
    /// message that waited for room would arrive after the reply.
    pub(super) fn publish_rest(mut self) {
        while let Some(message) = self.messages.try_recv() {
            if self.is_too_large(&message) {
                continue;
            }
            let kind = message.kind();
            if !self
                .connection
                .try_send(wire::interim(self.to.clone(), message))
            {
                self.messages.count_dropped(kind);
            }
        }
    }

    /// Counts a message that does not fit into a NATS message.
    fn is_too_large(&self, message: &Interim) -> bool {
        let is_too_large = message.params().len() > chunked::max_inline(self.connection);
        if is_too_large {
            self.messages.count_dropped(message.kind());
        }
        is_too_large
    }
}
