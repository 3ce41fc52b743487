//! The asking side: one message out, one answer back, and what is made of silence.

use std::sync::Arc;
use std::time::Duration;

use async_nats::client::traits::Publisher;
use async_nats::message::OutboundMessage;
use tokio::time::{Instant, timeout_at};

use super::inbox::{Inbox, ReplyWaiter};
use super::subjects::Subjects;
use super::{NatsBus, chunked, wire};
use crate::ports::bus::{Ask, BusError, Reply};

/// A worker that says nothing for so long is taken for dead; a living one says `working` every second.
pub const SILENCE: Duration = Duration::from_secs(3);

impl NatsBus {
    pub(super) async fn ask(&self, ask: Ask) -> Result<Reply, BusError> {
        // Nothing is published into a connection that is down: it would be sent when that is up again,
        // and done for somebody who was told that it is not.
        if !self.inbox.link.is_connected() {
            return Err(BusError::Unavailable);
        }
        let until = Instant::now() + ask.time_left;
        let mut message = wire::ask(&self.subjects, &ask, self.clocks.stamp());
        let _held = chunked::load(&self.inbox, &mut message, ask.body);
        let mut call = PendingAsk {
            waiting: self.inbox.wait(),
            inbox: &self.inbox,
            subjects: &self.subjects,
            over: false,
        };
        message.reply = Some(call.waiting.subject().into());
        let sent = timeout_at(until, self.inbox.link.client.publish_message(message)).await;
        match sent {
            Ok(Ok(())) => {}
            // It waited for room and has not left.
            Ok(Err(_)) | Err(_) => {
                call.over = true;
                return Err(BusError::Unavailable);
            }
        }
        let (reply, parts) = call.answer(until, self.max_body).await?;
        let Some(parts) = parts else { return Ok(reply) };
        let body = timeout_at(until, parts.fetch(&self.inbox))
            .await
            .map_err(|_| BusError::TimedOut)?;
        let body = body.ok_or(BusError::WorkerLost)?;
        let outcome = if reply.outcome.is_ok() {
            Ok(body)
        } else {
            Err(body)
        };
        Ok(Reply { outcome, ..reply })
    }
}

/// An ask under way. Dropped without an answer, it is cancelled.
struct PendingAsk<'a> {
    waiting: ReplyWaiter,
    inbox: &'a Arc<Inbox>,
    subjects: &'a Subjects,
    over: bool,
}

impl PendingAsk<'_> {
    async fn answer(
        &mut self,
        until: Instant,
        max_body: usize,
    ) -> Result<(Reply, Option<chunked::ChunkedBody>), BusError> {
        let mut heard = Instant::now();
        loop {
            match timeout_at(until.min(heard + SILENCE), self.waiting.answer()).await {
                Ok(Some(letter)) => {
                    self.over = true;
                    return wire::read_reply(letter, max_body);
                }
                Ok(None) => return Err(BusError::WorkerLost),
                Err(_) if Instant::now() >= until => return Err(BusError::TimedOut),
                Err(_) => {}
            }
            heard = heard.max(self.waiting.heard().unwrap_or(heard));
            if heard.elapsed() >= SILENCE {
                return Err(BusError::WorkerLost);
            }
        }
    }
}

impl Drop for PendingAsk<'_> {
    fn drop(&mut self) {
        if !self.over {
            let (subject, payload) = (self.subjects.cancel().into(), self.waiting.subject().into());
            self.inbox.link.send(OutboundMessage {
                subject,
                reply: None,
                payload,
                headers: None,
            });
        }
    }
}
