//! The job lane: a JetStream work queue from which workers pull, one job at a time.

use std::sync::Arc;
use std::time::Duration;

use async_nats::message::OutboundMessage;
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

/// How long the server keeps a pull; one that it forgot is noticed a little later.
const PULL: Duration = Duration::from_secs(5);
const FORGOTTEN: Duration = Duration::from_secs(1);
/// The pause after the lane could not be had.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the server hears that a job is still worked on.
const PROGRESS: Duration = ACK_WAIT.checked_div(3).expect("not zero");
/// How long the server may take to confirm that a job is done.
const CONFIRM: Duration = Duration::from_secs(5);

/// A worker's side of the lane.
pub struct JobPuller {
    lane: Arc<JobStream>,
    /// Whether the lane has been seen since the connection was made.
    seen: Option<u64>,
    pull: Option<Pull>,
}

impl JobPuller {
    pub fn new(lane: Arc<JobStream>) -> Self {
        Self {
            lane,
            seen: None,
            pull: None,
        }
    }

    /// Asks for one job, under an inbox of its own: the server gives nothing to an inbox that nobody
    /// listens to, so a pull ends with its subscription.
    async fn pull(&mut self) -> Option<&mut Pull> {
        let (lane, connection) = (self.lane.clone(), self.lane.inbox.link.connection());
        if self.seen != Some(connection) {
            lane.ensure().await.ok()?;
            self.seen = Some(connection);
            self.pull = None;
        }
        if self.pull.is_none() {
            let inbox = lane.inbox.new_subject("job");
            let subscriber = lane.inbox.link.client.subscribe(inbox.clone()).await.ok()?;
            self.pull = Some(Pull {
                lane,
                inbox,
                subscriber: Some(subscriber),
                until: None,
            });
        }
        let pull = self.pull.as_mut()?;
        if pull.until.is_none() {
            pull.lane
                .inbox
                .link
                .send(pull.lane.pull(PULL, pull.inbox.as_str().into()));
            pull.until = Some(Instant::now() + PULL + FORGOTTEN);
        }
        Some(pull)
    }

    fn delivery(&self, message: Message) -> Option<JobDelivery> {
        let lane = &self.lane;
        let attempt = attempt(&message)?;
        let token = message.reply.clone()?;
        let job = wire::read_job(&message);
        let reply = job.reply.as_deref().and_then(wire::inbox);
        let settle = UnackedJob::new(lane.inbox.clone(), token, reply);
        Some(JobDelivery {
            job,
            attempt,
            settle: Box::new(settle),
        })
    }
}

#[async_trait]
impl JobConsumer for JobPuller {
    async fn next(&mut self) -> Option<JobDelivery> {
        // Whoever leaves while he waits leaves no pull behind.
        let waiting = Leaving(self);
        loop {
            let puller = &mut *waiting.0;
            let mut connected = puller.lane.inbox.link.connected.clone();
            connected.mark_unchanged();
            let Some(pull) = puller.pull().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let message = tokio::select! {
                message = pull.next() => message,
                Ok(()) = connected.changed() => continue,
            };
            match message {
                // A job.
                Some(message) if message.status.is_none() => {
                    if let Some(delivery) = puller.delivery(message) {
                        return Some(delivery);
                    }
                }
                // Time is up; it is asked again.
                Some(message) if message.status.is_some_and(|status| status.as_u16() == 408) => {}
                // The consumer has gone, or the server has forgotten: look whether the lane is there.
                _ => {
                    puller.seen = None;
                    tokio::time::sleep(PAUSE / 4).await;
                }
            }
        }
    }
}

/// Ends the pull of somebody who goes away.
struct Leaving<'a>(&'a mut JobPuller);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self
            .0
            .pull
            .as_ref()
            .is_some_and(|pull| pull.until.is_some())
        {
            self.0.pull = None;
        }
    }
}

/// A subscription that jobs are pulled into.
struct Pull {
    lane: Arc<JobStream>,
    inbox: String,
    subscriber: Option<Subscriber>,
    /// When the pull under way is over.
    until: Option<Instant>,
}

impl Pull {
    /// What comes; `None`: nothing has come, not even that time is up.
    async fn next(&mut self) -> Option<Message> {
        let message = timeout_at(self.until?, self.subscriber.as_mut()?.next())
            .await
            .ok()
            .flatten();
        self.until = None;
        message
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let (Some(mut subscriber), inbox) = (self.subscriber.take(), self.lane.inbox.clone())
        else {
            return;
        };
        // A job that is on its way here goes back at once.
        let link = &self.lane.inbox.link;
        let said = tokio::task::unconstrained(subscriber.unsubscribe_after(NO_MORE))
            .now_or_never()
            .is_some();
        link.spawn(async move {
            if !said {
                let _ = subscriber.unsubscribe_after(NO_MORE).await;
            }
            inbox.round_trip(ROUND).await;
            let _ = subscriber.unsubscribe().await;
            while let Some(message) = subscriber.next().await {
                if let Some(token) = message.reply.filter(|_| message.status.is_none()) {
                    inbox.link.send(ack(token, "-NAK"));
                }
            }
        });
    }
}

/// How often a message was handed out: the fifth word of its token, or the seventh of a longer one,
/// which names a domain and an account too.
fn attempt(message: &Message) -> Option<u32> {
    let words: Vec<_> = message
        .reply
        .as_ref()?
        .strip_prefix("$JS.ACK.")?
        .split('.')
        .collect();
    words.get(if words.len() > 7 { 4 } else { 2 })?.parse().ok()
}

fn ack(token: Subject, what: impl Into<Bytes>) -> OutboundMessage {
    OutboundMessage {
        subject: token,
        reply: None,
        payload: what.into(),
        headers: None,
    }
}

/// Tells the outcome to a sender who wants it.
pub fn answer(inbox: &Arc<Inbox>, to: Option<Subject>, outcome: Result<Bytes, Bytes>) {
    let Some(to) = to else { return };
    let reply = Reply {
        position: Position(0),
        outcome,
    };
    let mut message = wire::reply(to, &reply, Position(0));
    let (Ok(body) | Err(body)) = reply.outcome;
    let held = chunked::load(inbox, &mut message, body);
    inbox.link.send(message);
    if let Some(held) = held {
        inbox.link.spawn(held.fetched());
    }
}

/// A delivery nobody has settled yet; dropped so, it comes back at once.
struct UnackedJob {
    inbox: Arc<Inbox>,
    token: Option<Subject>,
    reply: Option<Subject>,
    progress: JoinHandle<()>,
}

impl UnackedJob {
    fn new(inbox: Arc<Inbox>, token: Subject, reply: Option<Subject>) -> Self {
        let (telling, to) = (inbox.clone(), token.clone());
        let progress = inbox.link.spawn(async move {
            loop {
                tokio::time::sleep(PROGRESS).await;
                telling.link.send(ack(to.clone(), "+WPI"));
            }
        });
        Self {
            inbox,
            token: Some(token),
            reply,
            progress,
        }
    }
}

#[async_trait]
impl JobAck for UnackedJob {
    async fn ack(mut self: Box<Self>, outcome: Option<Result<Bytes, Bytes>>) {
        let Some(token) = self.token.take() else {
            return;
        };
        if let Some(outcome) = outcome {
            answer(&self.inbox, self.reply.take(), outcome);
        }
        // Confirmed, so that whoever submits the id again submits a new job.
        if self
            .inbox
            .request(ack(token, "+ACK"), CONFIRM)
            .await
            .is_none()
        {
            tracing::warn!("NATS has not confirmed that a job is done; it may come again");
        }
    }

    async fn nak_after(mut self: Box<Self>, after: Duration) {
        let Some(token) = self.token.take() else {
            return;
        };
        self.inbox.link.send(ack(
            token,
            format!("-NAK {{\"delay\": {}}}", after.as_nanos()),
        ));
    }
}

impl Drop for UnackedJob {
    fn drop(&mut self) {
        self.progress.abort();
        if let Some(token) = self.token.take() {
            self.inbox.link.send(ack(token, "-NAK"));
        }
    }
}
