//! The sender's side of asks: sends one message, waits for one reply, and detects a dead worker.

use std::sync::Arc;
use std::time::Duration;

use async_nats::message::OutboundMessage;
use tokio::time::{Instant, timeout_at};

use super::inbox::{Inbox, ReplyWaiter};
use super::subjects::Subjects;
use super::{NatsBus, chunked, wire};
use crate::ports::bus::{Ask, BusError, Reply};
use crate::time::clock::monotonic;

/// The time after which a silent worker counts as dead. A living worker sends `working` every second.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

impl NatsBus {
    /// Sends an ask over NATS and waits for its reply.
    pub(super) async fn send_ask(&self, ask: Ask) -> Result<Reply, BusError> {
        // The client would send the message after a reconnect, and a worker would start an ask
        // whose sender has an error that says that nothing has started.
        if !self.inbox.connection.is_connected() {
            return Err(BusError::Unavailable);
        }
        let until = monotonic() + ask.time_left;
        let mut message = wire::ask(&self.subjects, &ask, self.clocks.stamp());
        let _held = chunked::add_body(&self.inbox, &mut message, ask.body);
        let mut pending = PendingAsk {
            waiter: self.inbox.wait_with(ask.interim),
            inbox: &self.inbox,
            subjects: &self.subjects,
            has_ended: false,
        };
        message.reply = Some(pending.waiter.subject().into());
        if !self.inbox.connection.send_before(message, until).await {
            // The message waited for room and was not sent.
            pending.has_ended = true;
            return Err(BusError::Unavailable);
        }
        let (reply, chunked) = pending.wait(until, self.max_body).await?;
        let Some(chunked) = chunked else {
            return Ok(reply);
        };
        let body = timeout_at(until, chunked.fetch(&self.inbox))
            .await
            .map_err(|_| BusError::TimedOut)?
            .ok_or(BusError::WorkerLost)?;
        let outcome = if reply.outcome.is_ok() {
            Ok(body)
        } else {
            Err(body)
        };
        Ok(Reply { outcome, ..reply })
    }
}

/// An ask that was sent. Dropping it before its end cancels the ask.
struct PendingAsk<'a> {
    waiter: ReplyWaiter,
    inbox: &'a Arc<Inbox>,
    subjects: &'a Subjects,
    has_ended: bool,
}

impl PendingAsk<'_> {
    /// Waits for the reply until the time is over or the worker is silent for too long.
    async fn wait(
        &mut self,
        until: Instant,
        max_body: usize,
    ) -> Result<(Reply, Option<chunked::ChunkedBody>), BusError> {
        let mut heard = monotonic();
        loop {
            match timeout_at(until.min(heard + SILENCE), self.waiter.reply()).await {
                Ok(Some(message)) => {
                    self.has_ended = true;
                    return wire::parse_reply(message, max_body);
                }
                Ok(None) => return Err(BusError::WorkerLost),
                Err(_) if monotonic() >= until => return Err(BusError::TimedOut),
                Err(_) => {}
            }
            heard = heard.max(self.waiter.heard().unwrap_or(heard));
            if monotonic() - heard >= SILENCE {
                return Err(BusError::WorkerLost);
            }
        }
    }
}

impl Drop for PendingAsk<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.inbox.connection.send(OutboundMessage {
                subject: self.subjects.cancel().into(),
                reply: None,
                payload: self.waiter.subject().into(),
                headers: None,
            });
        }
    }
}
