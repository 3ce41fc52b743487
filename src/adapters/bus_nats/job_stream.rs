//! The JetStream stream of jobs and its consumer: creates them if they are missing, and publishes jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::context::CreateStreamError;
use async_nats::jetstream::stream::{
    Config, ConsumerError, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{Context, Message as JetStreamMessage};
use async_nats::message::OutboundMessage;
use async_nats::{Message, StatusCode, Subject};
use bytes::Bytes;
use serde::Deserialize;

use super::inbox::Inbox;
use super::subjects::Subjects;
use super::{chunked, wire};
use crate::ports::bus::{BusError, JobMessage};

/// The name of the durable consumer that all workers share.
const CONSUMER: &str = "workers";
/// The largest number of notes about dead letters.
const MAX_NOTES: i64 = 10_000;
/// The time after which NATS removes a note about a dead letter.
const NOTE_AGE: Duration = Duration::from_secs(7 * 86_400);
/// The largest number of unacknowledged jobs.
const MAX_JOBS: i64 = 10_000;
/// The time after which NATS delivers the job of a silent worker again.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(30);
/// The time limit for one request to JetStream.
const LIMIT: Duration = Duration::from_secs(3);
/// The time limit for the confirmation of an acknowledgement.
const CONFIRM: Duration = Duration::from_secs(5);

/// The stream of jobs.
pub(super) struct JobStream {
    pub(super) inbox: Arc<Inbox>,
    subjects: Subjects,
    context: Context,
    acks: Context,
    /// Only one task creates the missing stream.
    creation: tokio::sync::Mutex<()>,
    /// Whether the log shows the current failure already.
    is_logged: AtomicBool,
}

#[derive(Debug, thiserror::Error)]
enum EnsureError {
    #[error("cannot create the stream")]
    Stream(#[from] CreateStreamError),
    #[error("cannot create the consumer")]
    Consumer(#[from] ConsumerError),
}

impl JobStream {
    pub(super) fn new(inbox: Arc<Inbox>, subjects: Subjects) -> Self {
        let context = |limit| {
            let client = inbox.connection.client.clone();
            ContextBuilder::new().timeout(limit).build(client)
        };
        Self {
            context: context(LIMIT),
            acks: context(CONFIRM),
            inbox,
            subjects,
            creation: tokio::sync::Mutex::default(),
            is_logged: AtomicBool::new(false),
        }
    }

    /// Creates the stream and its consumer if they are missing. An existing stream stays as it is, because
    /// the operator may have created it with other settings, such as more replicas.
    pub(super) async fn ensure(&self) -> Result<(), BusError> {
        let _creation = self.creation.lock().await;
        if !self.inbox.connection.is_connected() {
            return Err(BusError::Unavailable);
        }
        let Err(error) = self.create().await else {
            self.is_logged.store(false, Ordering::Relaxed);
            return Ok(());
        };
        if !self.is_logged.swap(true, Ordering::Relaxed) {
            let stream = self.subjects.stream();
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                stream,
                "cannot receive jobs over NATS; enable JetStream and allow the user to create the stream"
            );
        }
        Err(BusError::Unavailable)
    }

    async fn create(&self) -> Result<(), EnsureError> {
        let config = Config {
            name: self.subjects.stream(),
            subjects: vec![self.subjects.all_jobs()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages: MAX_JOBS,
            // A subject ends with the id of the job. NATS refuses a second message with this id until the
            // first message is acknowledged.
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            ..Config::default()
        };
        let stream = self.context.get_or_create_stream(config).await?;
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            // Delayed jobs count too. A lower limit would block other jobs.
            max_ack_pending: MAX_JOBS,
            ..pull::Config::default()
        };
        stream.get_or_create_consumer(CONSUMER, config).await?;
        Ok(())
    }

    /// Publishes a job. After `Unavailable`, the sender may publish the job again under the same id: if the
    /// first message did arrive, both messages are the same job.
    pub(super) async fn publish(&self, job: JobMessage) -> Result<(), BusError> {
        if !self.inbox.connection.is_connected() {
            return Err(BusError::Unavailable);
        }
        let mut message = wire::job(&self.subjects, &job);
        message
            .headers
            .get_or_insert_default()
            .insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        message.payload = job.body;
        // A job can outlive its sender, so the sender cannot hold the body.
        if message.payload.len() > chunked::max_inline(&self.inbox.connection) {
            let bytes = message.payload.len();
            tracing::error!(job = job.id, bytes, "a job is too large for NATS");
            return Err(BusError::Unavailable);
        }
        if let Some(result) = self.try_publish(message.clone()).await? {
            return result;
        }
        self.ensure().await?;
        self.try_publish(message)
            .await?
            .unwrap_or(Err(BusError::Unavailable))
    }

    /// Publishes a job once. Returns `None` if the stream does not exist.
    async fn try_publish(
        &self,
        message: OutboundMessage,
    ) -> Result<Option<Result<(), BusError>>, BusError> {
        let reply = self.inbox.request(message, LIMIT).await;
        let reply = reply.ok_or(BusError::Unavailable)?;
        if reply.status == Some(StatusCode::NO_RESPONDERS) {
            return Ok(None);
        }
        Ok(Some(parse_publish_ack(&reply.payload)))
    }

    /// Publishes the note about a dead letter: its reason, id and size. NATS keeps the note for a week.
    pub(super) async fn publish_note(&self, dead_letter: &str, note: Bytes) {
        if !self.inbox.connection.is_connected() {
            return;
        }
        let config = Config {
            name: self.subjects.dead_stream(),
            subjects: vec![self.subjects.dead_letter("*")],
            storage: StorageType::File,
            max_messages: MAX_NOTES,
            max_age: NOTE_AGE,
            ..Config::default()
        };
        let created = self.context.get_or_create_stream(config).await;
        let message = OutboundMessage {
            subject: self.subjects.dead_letter(dead_letter).into(),
            reply: None,
            payload: note,
            headers: None,
        };
        if created.is_err() || self.inbox.request(message, LIMIT).await.is_none() {
            let stream = self.subjects.dead_stream();
            tracing::warn!(stream, "cannot publish the note about a dead letter");
        }
    }

    /// Returns the request for one job.
    pub(super) fn pull_request(&self, expires: Duration, inbox: Subject) -> OutboundMessage {
        let stream = self.subjects.stream();
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{CONSUMER}");
        let payload = format!("{{\"batch\": 1, \"expires\": {}}}", expires.as_nanos());
        OutboundMessage {
            subject: subject.into(),
            reply: Some(inbox),
            payload: payload.into(),
            headers: None,
        }
    }

    /// Returns a message of the stream that can be acknowledged.
    pub(super) fn delivered(&self, message: Message) -> JetStreamMessage {
        JetStreamMessage {
            message,
            context: self.acks.clone(),
        }
    }

    /// Returns the number of jobs that no worker holds, or 0 if NATS does not say it.
    pub(super) async fn pending(&self) -> usize {
        if !self.inbox.connection.is_connected() {
            return 0;
        }
        let count = tokio::time::timeout(LIMIT, self.count_pending()).await;
        count.ok().flatten().unwrap_or(0)
    }

    async fn count_pending(&self) -> Option<usize> {
        let stream = self.context.get_stream(self.subjects.stream()).await.ok()?;
        let stored = usize::try_from(stream.cached_info().state.messages).ok()?;
        let consumer = stream.consumer_info(CONSUMER).await;
        let delivered = consumer.map_or(0, |consumer| consumer.num_ack_pending);
        Some(stored.saturating_sub(delivered))
    }
}

/// The error codes of JetStream for a subject whose last sequence is not the expected one. The job expects
/// sequence 0, so a message with its id is in the stream already.
const SAME_JOB: [u64; 2] = [10_071, 10_164];

/// The acknowledgement of a published job.
#[derive(Deserialize)]
struct PublishAck {
    error: Option<PublishRefusal>,
}

#[derive(Deserialize)]
struct PublishRefusal {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn parse_publish_ack(body: &[u8]) -> Result<(), BusError> {
    let ack: PublishAck = serde_json::from_slice(body).map_err(|_| BusError::Unavailable)?;
    match ack.error {
        None => Ok(()),
        Some(refusal) if SAME_JOB.contains(&refusal.err_code) => Ok(()),
        Some(refusal) => {
            tracing::warn!(
                code = refusal.err_code,
                reason = refusal.description,
                "NATS refuses a job"
            );
            Err(BusError::Unavailable)
        }
    }
}
