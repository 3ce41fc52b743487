//! The stream and the consumer of the job lane: made where they are missing, and what is put in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::message::OutboundMessage;
use async_nats::{StatusCode, Subject};
use bytes::Bytes;
use serde::Deserialize;

use super::inbox::Inbox;
use super::subjects::Subjects;
use super::wire;
use crate::ports::bus::{BusError, JobMessage};

/// The durable consumer of all workers.
const TAKERS: &str = "workers";
/// Messages that were set aside, and how long it is shown.
const DEAD: i64 = 10_000;
const DEAD_AGE: Duration = Duration::from_secs(7 * 86_400);
/// Jobs that are not settled.
const JOBS: i64 = 10_000;
/// A worker that shows no sign of life for so long has lost its job.
pub const ACK_WAIT: Duration = Duration::from_secs(30);
/// How long the server may take for one thing.
const LIMIT: Duration = Duration::from_secs(3);

pub struct JobStream {
    pub inbox: Arc<Inbox>,
    subjects: Subjects,
    context: Context,
    /// One makes what is missing, the others wait.
    making: tokio::sync::Mutex<()>,
    complained: AtomicBool,
}

impl JobStream {
    pub fn new(inbox: Arc<Inbox>, subjects: Subjects) -> Self {
        let context = ContextBuilder::new()
            .timeout(LIMIT)
            .build(inbox.link.client.clone());
        Self {
            inbox,
            subjects,
            context,
            making: tokio::sync::Mutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// Makes the stream and its consumer where they are missing. Who has made them himself, with more
    /// replicas say, keeps what he has made.
    pub async fn ensure(&self) -> Result<(), BusError> {
        let _making = self.making.lock().await;
        if !self.inbox.link.is_connected() {
            return Err(BusError::Unavailable);
        }
        match self.make().await {
            Ok(()) => {
                self.complained.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, stream = self.subjects.stream(),
                        "jobs cannot be taken: JetStream must be on, and the stream ours to make");
                }
                Err(BusError::Unavailable)
            }
        }
    }

    async fn make(&self) -> Result<(), String> {
        let config = Config {
            name: self.subjects.stream(),
            subjects: vec![self.subjects.all_jobs()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_messages: JOBS,
            // A subject ends with the job's id: the same id again is refused until it is settled.
            max_messages_per_subject: 1,
            discard_new_per_subject: true,
            ..Config::default()
        };
        let stream = self
            .context
            .get_or_create_stream(config)
            .await
            .map_err(|error| error.to_string())?;
        let config = pull::Config {
            durable_name: Some(TAKERS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_deliver: -1,
            // Those that rest must not keep others from being handed out.
            max_ack_pending: JOBS,
            ..pull::Config::default()
        };
        stream
            .get_or_create_consumer(TAKERS, config)
            .await
            .map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Puts a job in. Whoever hears that the lane is away may submit it again under its id: should the
    /// first have arrived after all, it is the same job.
    pub async fn put(&self, job: JobMessage) -> Result<(), BusError> {
        if !self.inbox.link.is_connected() {
            return Err(BusError::Unavailable);
        }
        let mut message = wire::job(&self.subjects, &job);
        message
            .headers
            .get_or_insert_default()
            .insert(async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, "0");
        message.payload = job.body;
        // A job waits for longer than its sender lives, so its body cannot stay behind.
        if message.payload.len() > super::chunked::size(&self.inbox.link) {
            tracing::error!(
                job = job.id,
                bytes = message.payload.len(),
                "a job is too large for NATS"
            );
            return Err(BusError::Unavailable);
        }
        for first in [true, false] {
            let answer = self
                .inbox
                .request(message.clone(), LIMIT)
                .await
                .ok_or(BusError::Unavailable)?;
            if answer.status != Some(StatusCode::NO_RESPONDERS) {
                return stored(&answer.payload);
            }
            if first {
                self.ensure().await?;
            }
        }
        Err(BusError::Unavailable)
    }

    /// Shows that a message was set aside: its reason, id and size lie in a stream of their own for a week.
    pub async fn set_aside(&self, letter: &str, note: Bytes) {
        if !self.inbox.link.is_connected() {
            return;
        }
        let config = Config {
            name: self.subjects.dead_stream(),
            subjects: vec![self.subjects.dead("*")],
            storage: StorageType::File,
            max_messages: DEAD,
            max_age: DEAD_AGE,
            ..Config::default()
        };
        let made = self.context.get_or_create_stream(config).await;
        let subject = self.subjects.dead(letter).into();
        let message = OutboundMessage {
            subject,
            reply: None,
            payload: note,
            headers: None,
        };
        if made.is_err() || self.inbox.request(message, LIMIT).await.is_none() {
            tracing::warn!(
                stream = self.subjects.dead_stream(),
                "NATS was not told of a message that was set aside"
            );
        }
    }

    /// The message that asks for one job.
    pub fn pull(&self, expires: Duration, inbox: Subject) -> OutboundMessage {
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            self.subjects.stream(),
            TAKERS
        )
        .into();
        let payload = format!("{{\"batch\": 1, \"expires\": {}}}", expires.as_nanos()).into();
        OutboundMessage {
            subject,
            reply: Some(inbox),
            payload,
            headers: None,
        }
    }

    /// Jobs that nobody has in hand.
    pub async fn waiting(&self) -> usize {
        if !self.inbox.link.is_connected() {
            return 0;
        }
        tokio::time::timeout(LIMIT, self.count())
            .await
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    async fn count(&self) -> Option<usize> {
        let stream = self.context.get_stream(self.subjects.stream()).await.ok()?;
        let stored = usize::try_from(stream.cached_info().state.messages).ok()?;
        let in_hand = stream
            .consumer_info(TAKERS)
            .await
            .map_or(0, |consumer| consumer.num_ack_pending);
        Some(stored.saturating_sub(in_hand))
    }
}

/// The error codes of JetStream for a subject whose last sequence is not the expected one. The job expects
/// sequence 0, so a message with its id is in the stream already.
const SAME_JOB: [u64; 2] = [10_071, 10_164];

/// The acknowledgement of a published job.
#[derive(Deserialize)]
struct Stored {
    error: Option<Refused>,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

fn stored(answer: &[u8]) -> Result<(), BusError> {
    let stored: Stored = serde_json::from_slice(answer).map_err(|_| BusError::Unavailable)?;
    match stored.error {
        None => Ok(()),
        Some(refused) if SAME_JOB.contains(&refused.err_code) => Ok(()),
        Some(refused) => {
            tracing::warn!(
                code = refused.err_code,
                reason = refused.description,
                "NATS refuses a job"
            );
            Err(BusError::Unavailable)
        }
    }
}
