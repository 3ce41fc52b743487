//! The worker's side of the job stream: pulls one job at a time and acknowledges it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message as JetStreamMessage};
use async_nats::{Message, Subject, Subscriber};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::inbox::Inbox;
use super::job_stream::{ACK_WAIT, JobStream};
use super::subscription::{NO_MORE, ROUND};
use super::{chunked, wire};
use crate::core::ids::Position;
use crate::ports::bus::{JobAck, JobConsumer, JobDelivery, Reply};
use crate::time::clock::monotonic;

/// The time that NATS keeps a pull request.
const PULL: Duration = Duration::from_secs(5);
/// The time after the end of a pull request without a message, after which NATS has lost the request.
const PULL_LOST: Duration = Duration::from_secs(1);
/// The pause after the stream could not be reached.
const UNREACHABLE: Duration = Duration::from_secs(1);
/// The pause after the consumer has vanished or the request was lost.
const CONSUMER_LOST: Duration = Duration::from_millis(250);
/// The time between two signs of life for a job.
const PROGRESS: Duration = ACK_WAIT.checked_div(3).expect("not zero");

/// Receives jobs for one worker.
pub(super) struct JobPuller {
    stream: Arc<JobStream>,
    /// The number of the connection on which the stream was seen.
    seen: Option<u64>,
    pull: Option<Pull>,
}

impl JobPuller {
    pub(super) fn new(stream: Arc<JobStream>) -> Self {
        Self {
            stream,
            seen: None,
            pull: None,
        }
    }

    /// Requests one job, under an inbox of its own: NATS delivers nothing to an inbox without a
    /// subscription, so a pull request ends with its subscription. Returns `None` if the stream cannot be
    /// reached.
    async fn pull(&mut self) -> Option<&mut Pull> {
        let stream = self.stream.clone();
        let connection = &stream.inbox.connection;
        let number = connection.number();
        if self.seen != Some(number) {
            stream.ensure().await.ok()?;
            self.seen = Some(number);
            self.pull = None;
        }
        if self.pull.is_none() {
            let inbox = stream.inbox.new_subject("job");
            let subscriber = connection.subscribe(inbox.clone()).await.ok()?;
            self.pull = Some(Pull {
                stream: stream.clone(),
                inbox,
                subscriber: Some(subscriber),
                until: None,
            });
        }
        let pull = self.pull.as_mut()?;
        if pull.until.is_none() {
            let request = stream.pull_request(PULL, pull.inbox.as_str().into());
            connection.send(request);
            pull.until = Some(monotonic() + PULL + PULL_LOST);
        }
        Some(pull)
    }

    fn delivery(&self, message: Message) -> Option<JobDelivery> {
        let inbox = self.stream.inbox.clone();
        let message = self.stream.delivered(message);
        let attempt = u32::try_from(message.info().ok()?.delivered).ok()?;
        let job = wire::parse_job(&message);
        let reply = job.reply.as_deref().and_then(wire::inbox);
        let unacked = UnackedJob::new(inbox, message, reply);
        Some(JobDelivery {
            job,
            attempt,
            ack: Box::new(unacked),
        })
    }
}

#[async_trait]
impl JobConsumer for JobPuller {
    async fn next(&mut self) -> Option<JobDelivery> {
        // If the caller drops this future, no pull request stays behind.
        let guard = PullGuard(self);
        loop {
            let puller = &mut *guard.0;
            let mut connected = puller.stream.inbox.connection.connected.clone();
            connected.mark_unchanged();
            let Some(pull) = puller.pull().await else {
                tokio::time::sleep(UNREACHABLE).await;
                continue;
            };
            let message = tokio::select! {
                message = pull.next() => message,
                Ok(()) = connected.changed() => continue,
            };
            match message {
                Some(message) if message.status.is_none() => {
                    if let Some(delivery) = puller.delivery(message) {
                        return Some(delivery);
                    }
                }
                // The pull request has ended without a job.
                Some(message) if message.status.is_some_and(|status| status.as_u16() == 408) => {}
                // The consumer has vanished, or NATS has lost the request.
                _ => {
                    puller.seen = None;
                    tokio::time::sleep(CONSUMER_LOST).await;
                }
            }
        }
    }
}

/// Ends the open pull request when it is dropped.
struct PullGuard<'a>(&'a mut JobPuller);

impl Drop for PullGuard<'_> {
    fn drop(&mut self) {
        let pull = self.0.pull.as_ref();
        if pull.is_some_and(|pull| pull.until.is_some()) {
            self.0.pull = None;
        }
    }
}

/// The subscription for pulled jobs.
struct Pull {
    stream: Arc<JobStream>,
    inbox: String,
    subscriber: Option<Subscriber>,
    /// The end of the open pull request.
    until: Option<Instant>,
}

impl Pull {
    /// Waits for the next message. Returns `None` if no message arrives, not even the end of the request.
    async fn next(&mut self) -> Option<Message> {
        let message = timeout_at(self.until?, self.subscriber.as_mut()?.next()).await;
        self.until = None;
        message.ok().flatten()
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let Some(mut subscriber) = self.subscriber.take() else {
            return;
        };
        // A job that is on its way to this worker goes back at once.
        let stream = self.stream.clone();
        let is_sent = tokio::task::unconstrained(subscriber.unsubscribe_after(NO_MORE))
            .now_or_never()
            .is_some();
        self.stream.inbox.connection.spawn(async move {
            if !is_sent {
                let _ = subscriber.unsubscribe_after(NO_MORE).await;
            }
            stream.inbox.round_trip(ROUND).await;
            let _ = subscriber.unsubscribe().await;
            while let Some(message) = subscriber.next().await {
                if message.status.is_none() {
                    let _ = stream.delivered(message).ack_with(AckKind::Nak(None)).await;
                }
            }
        });
    }
}

/// Sends the outcome of a job to its producer, if the producer named an address.
pub(super) fn send_outcome(inbox: &Arc<Inbox>, to: Option<Subject>, outcome: Result<Bytes, Bytes>) {
    let Some(to) = to else { return };
    let reply = Reply {
        position: Position(0),
        outcome,
    };
    let mut message = wire::reply(to, &reply, Position(0));
    let (Ok(body) | Err(body)) = reply.outcome;
    let held = chunked::add_body(inbox, &mut message, body);
    // The acknowledgement of the job follows, and it does not pass through the outbox.
    inbox.connection.send_past_outbox(message);
    if let Some(held) = held {
        inbox.connection.spawn(held.fetched());
    }
}

/// A job that this worker holds. Dropping it returns the job at once.
struct UnackedJob {
    inbox: Arc<Inbox>,
    message: Option<Arc<JetStreamMessage>>,
    reply: Option<Subject>,
    progress: JoinHandle<()>,
}

impl UnackedJob {
    fn new(inbox: Arc<Inbox>, message: JetStreamMessage, reply: Option<Subject>) -> Self {
        let message = Arc::new(message);
        let working = message.clone();
        let progress = inbox.connection.spawn(async move {
            loop {
                tokio::time::sleep(PROGRESS).await;
                ack(&working, AckKind::Progress).await;
            }
        });
        Self {
            inbox,
            message: Some(message),
            reply,
            progress,
        }
    }

    /// Returns the job to NATS, which delivers it again after the delay.
    fn nak(&mut self, delay: Option<Duration>) {
        if let Some(message) = self.message.take() {
            self.inbox
                .connection
                .now_or_later(async move { ack(&message, AckKind::Nak(delay)).await });
        }
    }
}

async fn ack(message: &JetStreamMessage, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::warn!(error, "cannot acknowledge a job over NATS");
    }
}

#[async_trait]
impl JobAck for UnackedJob {
    async fn ack(mut self: Box<Self>, outcome: Option<Result<Bytes, Bytes>>) {
        let Some(message) = self.message.take() else {
            return;
        };
        if let Some(outcome) = outcome {
            send_outcome(&self.inbox, self.reply.take(), outcome);
        }
        // NATS confirms the acknowledgement, so that a producer can submit a new job under the id.
        if let Err(error) = message.double_ack().await {
            tracing::warn!(
                error,
                "NATS has not confirmed the end of a job; it may deliver the job again"
            );
        }
    }

    async fn nak_after(mut self: Box<Self>, after: Duration) {
        self.nak(Some(after));
    }
}

impl Drop for UnackedJob {
    fn drop(&mut self) {
        self.progress.abort();
        self.nak(None);
    }
}
