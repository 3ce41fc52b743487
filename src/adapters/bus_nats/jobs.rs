//! The lane of jobs: a work queue of JetStream, and a pull consumer for each pool.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::pull::Config as PullConfig;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer as Consumer};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, AckKind};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::wire::{self, Head};
use crate::core::command::{Area, CallTool, Command, Delivery as Promise};
use crate::core::names::Position;
use crate::ports::{BusError, Delivery, Job, Jobs, Settle};

/// Jobs that may wait in all areas together.
const JOBS: i64 = 10_000;
/// A job that nobody has said anything of for so long is handed out again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// How often a worker says that it still has a job.
const PROGRESS: Duration = Duration::from_secs(10);
/// How long a pool's question for the next job lies with the server.
const PULL: Duration = Duration::from_secs(1);
/// How long a job is kept for one who has stopped waiting and may come again.
const HELD: Duration = Duration::from_millis(100);
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

pub struct Lane {
    shared: Arc<Shared>,
    context: jetstream::Context,
    stream: String,
}

impl Lane {
    pub fn new(shared: Arc<Shared>) -> Self {
        let mut context = jetstream::new(shared.client.clone());
        context.set_timeout(ANSWER);
        // `mcp.v1` has the stream MCP_JOBS.
        let name = shared.prefix.trim_end_matches(".v1").replace('.', "_").to_uppercase();
        Self { shared, context, stream: format!("{name}_JOBS") }
    }

    /// Puts a job into the stream; one that lies there already is the same one.
    pub async fn submit(&self, job: Job) -> Result<(), BusError> {
        if !self.shared.is_connected() {
            return Err(BusError::Away);
        }
        let mut headers = HeaderMap::new();
        headers.insert(wire::JOB, &*job.id);
        if let Some(call) = &job.call {
            headers.insert(wire::CALL, wire::ascii_json(call).unwrap_or_default());
        }
        // An id may hold what a subject may not.
        let token = hex::encode(&Sha256::digest(&job.id)[..16]);
        let subject = format!("{}.job.{}.{token}", self.shared.prefix, job.command);
        match self.publish(&subject, headers.clone(), job.body.clone()).await {
            Err(Refused::NoStream) => {
                self.create().await?;
                self.publish(&subject, headers, job.body).await.map_err(|_| BusError::Away)
            }
            told => told.map_err(|_| BusError::Away),
        }
    }

    async fn publish(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Result<(), Refused> {
        let sent = self.context.publish_with_headers(subject.to_owned(), headers, body).await;
        let acked = async { sent?.await };
        let error = match tokio::time::timeout(ANSWER, acked).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => return Err(Refused::Away),
        };
        use async_nats::jetstream::context::PublishErrorKind;
        if error.kind() == PublishErrorKind::StreamNotFound {
            return Err(Refused::NoStream);
        }
        // The server's own words are the only way to tell the two limits apart.
        let words = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        if words.contains("per subject") { Ok(()) } else { Err(Refused::Away) }
    }

    async fn create(&self) -> Result<Stream, BusError> {
        let config = Config {
            name: self.stream.clone(),
            subjects: vec![format!("{}.job.>", self.shared.prefix)],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages: JOBS,
            // One subject a job: the same id again, while the first is not settled, is the same job.
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            ..Config::default()
        };
        self.context.get_or_create_stream(config).await.map_err(|error| {
            tracing::warn!(%error, "the stream of jobs cannot be had");
            BusError::Away
        })
    }

    pub async fn waiting(&self) -> usize {
        let asked =
            async { self.context.get_stream(&self.stream).await.ok()?.info().await.ok().map(|i| i.state.messages) };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten().unwrap_or_default() as usize
    }

    pub fn take(self: &Arc<Self>, area: Area) -> Taker {
        let (wants, wanted) = mpsc::channel(1);
        let pulling = tokio::spawn(pull_all(self.clone(), area, wanted));
        Taker { wants, _pulling: AbortOnDropHandle::new(pulling) }
    }

    async fn consumer(&self, area: Area) -> Result<Consumer, BusError> {
        let stream = self.create().await?;
        let name = format!("pool-{}", area.as_str());
        let config = PullConfig {
            durable_name: Some(name.clone()),
            filter_subject: format!("{}.job.{}.>", self.shared.prefix, area.as_str()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            ..PullConfig::default()
        };
        stream.get_or_create_consumer(&name, config).await.map_err(|error| {
            tracing::warn!(%error, "the consumer of jobs cannot be had");
            BusError::Away
        })
    }
}

/// Why a job was not taken in.
enum Refused {
    NoStream,
    Away,
}

/// One of a pool's takers. What was pulled for one who has left goes back at once.
pub struct Taker {
    wants: mpsc::Sender<oneshot::Sender<Delivery>>,
    _pulling: AbortOnDropHandle<()>,
}

#[async_trait]
impl Jobs for Taker {
    async fn next(&mut self) -> Option<Delivery> {
        let (deliver, delivered) = oneshot::channel();
        self.wants.send(deliver).await.ok()?;
        delivered.await.ok()
    }
}

async fn pull_all(lane: Arc<Lane>, area: Area, mut wanted: mpsc::Receiver<oneshot::Sender<Delivery>>) {
    let mut consumer = None;
    while let Some(deliver) = wanted.recv().await {
        // A pull is not given up halfway: what it brings would be lost until its time is over.
        while !deliver.is_closed() {
            if consumer.is_none() {
                consumer = lane.consumer(area).await.ok();
            }
            let Some(known) = &consumer else {
                tokio::time::sleep(ANSWER).await;
                continue;
            };
            match pull(known).await {
                Ok(Some(message)) => {
                    if let Some(delivery) = read(&lane, area, message).await {
                        hand_over(delivery, deliver, &mut wanted).await;
                        break;
                    }
                }
                Ok(None) => {}
                Err(()) => {
                    consumer = None;
                    tokio::time::sleep(PULL).await;
                }
            }
        }
    }
}

/// Gives a job to the one who waits, or to the next who soon does. Else it goes back, for another process.
async fn hand_over(
    mut delivery: Delivery,
    mut deliver: oneshot::Sender<Delivery>,
    wanted: &mut mpsc::Receiver<oneshot::Sender<Delivery>>,
) {
    while let Err(back) = deliver.send(delivery) {
        match tokio::time::timeout(HELD, wanted.recv()).await {
            Ok(Some(next)) => (deliver, delivery) = (next, back),
            _ => return,
        }
    }
}

/// The next message, if one comes in time. An error: the consumer is gone, or NATS is.
async fn pull(consumer: &Consumer) -> Result<Option<jetstream::Message>, ()> {
    let pulled = async {
        let mut messages = consumer.batch().max_messages(1).expires(PULL).messages().await.map_err(|_| ())?;
        messages.next().await.transpose().map_err(|_| ())
    };
    tokio::time::timeout(PULL + ANSWER * 2, pulled).await.map_err(|_| ())?
}

/// What nobody could ever carry out is taken out of the lane.
async fn read(lane: &Lane, area: Area, message: jetstream::Message) -> Option<Delivery> {
    let attempt = message.info().map(|info| info.delivered).unwrap_or(1).max(1) as u32;
    let headers = message.headers.as_ref();
    // `<prefix>.job.<area>.<verb>.<id>`
    let (subject, token) = message.subject.rsplit_once('.').unwrap_or((&message.subject, ""));
    let text = |name: &str| headers.and_then(|headers| headers.get(name)).map(|value| value.as_str().to_owned());
    let reply = text(wire::REPLY).filter(|reply| reply.starts_with("_INBOX."));
    let id = text(wire::JOB).unwrap_or_else(|| token.to_owned());
    let head = Head::read(subject, &lane.shared.prefix, headers);
    let head = head.and_then(|head| match head.delivery {
        Promise::Job => Ok(head),
        Promise::Ask if head.command == CallTool::NAME => Ok(head),
        _ => Err(crate::core::failure::Failure::invalid(format!("{} is no job", head.command))),
    });
    let settle = Unsettled::new(lane.shared.clone(), message, reply);
    match head {
        Ok(head) => {
            let body = settle.body();
            let job = Job { id, area, command: head.command, call: head.call, body };
            Some(Delivery { job, attempt, settle: Box::new(settle) })
        }
        Err(failure) => {
            tracing::warn!(job = id, %failure, "a job that cannot be read is given up");
            Box::new(settle).done(Err(wire::failed(&failure))).await;
            None
        }
    }
}

/// A delivery nobody has settled yet; dropped so, it goes back.
struct Unsettled {
    shared: Arc<Shared>,
    message: Option<Arc<jetstream::Message>>,
    reply: Option<String>,
    progress: AbortOnDropHandle<()>,
}

impl Unsettled {
    fn new(shared: Arc<Shared>, message: jetstream::Message, reply: Option<String>) -> Self {
        let message = Arc::new(message);
        let held = message.clone();
        let progress = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PROGRESS).await;
                let _ = held.ack_with(AckKind::Progress).await;
            }
        });
        Self { shared, message: Some(message), reply, progress: AbortOnDropHandle::new(progress) }
    }

    fn body(&self) -> Bytes {
        self.message.as_ref().map(|message| message.payload.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl Settle for Unsettled {
    async fn done(mut self: Box<Self>, outcome: Result<Bytes, Bytes>) {
        let Some(message) = self.message.take() else { return };
        self.progress.abort();
        if let Some(reply) = self.reply.take() {
            let (headers, body) = wire::answer(Position(0), outcome);
            if let Err(error) = self.shared.client.publish_with_headers(reply, headers, body).await {
                tracing::warn!(%error, "a job's outcome could not be told");
            }
        }
        match tokio::time::timeout(ANSWER * 2, message.double_ack()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a job is done, and will come again all the same"),
            Err(_) => tracing::warn!("a job is done, and may come again all the same"),
        }
    }

    async fn again(mut self: Box<Self>, after: Duration) {
        let Some(message) = self.message.take() else { return };
        self.progress.abort();
        let _ = message.ack_with(AckKind::Nak(Some(after))).await;
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            tokio::spawn(async move { message.ack_with(AckKind::Nak(None)).await });
        }
    }
}
