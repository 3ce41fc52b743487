//! The bus between processes: NATS. Asks are core messages, and one inbox per process receives the
//! replies. Jobs are messages of a JetStream work queue. Hints go to all processes. `wire` has the
//! format of the messages.
//!
//! An ask to a target that only this process serves (a server that it runs, the worker itself) stays
//! in the process. While NATS is disconnected, asks to the pools of this process also stay in it, so
//! that a process with all roles continues to work.

mod cancellation;
mod chunked;
mod clock_skew;
mod connection;
mod error;
mod hint_message;
mod hints;
mod inbox;
mod interim_kinds;
mod interim_relay;
mod job_consumer;
mod job_stream;
mod outbox;
mod pending_ask;
mod sender_watch;
mod subjects;
mod subscription;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use uuid::Uuid;

use self::cancellation::RunningAsks;
use self::clock_skew::SenderClocks;
use self::connection::NatsConnection;
pub use self::connection::NatsOptions;
pub use self::error::NatsError;
use self::hints::Hints;
use self::inbox::Inbox;
use self::job_consumer::JobPuller;
use self::job_stream::JobStream;
use self::subjects::Subjects;
use self::subscription::ROUND;
use super::bus_local::LocalBus;
use crate::ports::bus::{
    Ask, AskHandler, Bus, BusError, Hint, JobConsumer, JobMessage, Reply, SubscriptionGuard, Target,
};

/// The bus between processes.
pub struct NatsBus {
    inbox: Arc<Inbox>,
    subjects: Subjects,
    running: Arc<RunningAsks>,
    hints: Hints,
    job_stream: Arc<JobStream>,
    clocks: Arc<SenderClocks>,
    max_body: usize,
    /// The number of asks whose command did not belong to their subject.
    refused_asks: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
    local: Arc<LocalBus>,
}

impl NatsBus {
    /// Connects to NATS. Later, the client reconnects whenever the connection is lost.
    ///
    /// # Errors
    /// [`NatsError`] if an address is invalid, if no server accepts the connection within 5 seconds,
    /// or if the server refuses a subscription.
    pub async fn connect(options: NatsOptions) -> Result<Arc<Self>, NatsError> {
        let connection = NatsConnection::connect(&options).await?;
        let subjects = Subjects::new(&options.prefix);
        let (inbox, messages) = Inbox::open(connection).await?;
        let cancels = inbox.connection.subscribe(subjects.cancel()).await?;
        let ticks = inbox.connection.subscribe(subjects.clock()).await?;
        let (hints, forwarder) = Hints::open(&inbox, &subjects).await?;
        let running = Arc::new(RunningAsks::default());
        let process = Uuid::new_v4().simple().to_string();
        let clocks = Arc::new(SenderClocks::new(process.clone()));
        let tasks = vec![
            tokio::spawn(inbox.connection.pass_on()),
            tokio::spawn(
                clocks
                    .clone()
                    .publish_ticks(inbox.clone(), subjects.clock()),
            ),
            tokio::spawn(clocks.clone().read_ticks(ticks)),
            tokio::spawn(inbox.clone().read(messages)),
            tokio::spawn(running.clone().read_cancels(cancels)),
            tokio::spawn(forwarder.run(inbox.clone(), subjects.clone(), process)),
        ];
        let job_stream = Arc::new(JobStream::new(inbox.clone(), subjects.clone()));
        Ok(Arc::new(Self {
            inbox,
            subjects,
            running,
            hints,
            job_stream,
            clocks,
            max_body: options.max_body,
            refused_asks: Arc::default(),
            tasks,
            local: LocalBus::new(),
        }))
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn request(&self, ask: Ask) -> Result<Reply, BusError> {
        let is_pool = matches!(ask.to, Target::AnyWorker(_));
        if self.local.serves(ask.to) && !(is_pool && self.inbox.connection.is_connected()) {
            return self.local.request(ask).await;
        }
        self.send_ask(ask).await
    }

    async fn flush(&self) {
        self.inbox.round_trip(ROUND).await;
    }

    fn subscribe(&self, target: Target, handler: Arc<dyn AskHandler>) -> SubscriptionGuard {
        let local = self.local.subscribe(target, handler.clone());
        let remote = self.subscribe_target(target, handler);
        SubscriptionGuard(Box::new(move || {
            drop(local);
            drop(remote);
        }))
    }

    async fn publish_job(&self, job: JobMessage) -> Result<(), BusError> {
        self.job_stream.publish(job).await
    }

    fn consume_jobs(&self) -> Box<dyn JobConsumer> {
        Box::new(JobPuller::new(self.job_stream.clone()))
    }

    async fn publish_outcome(&self, reply: &str, outcome: Result<Bytes, Bytes>) {
        job_consumer::send_outcome(&self.inbox, wire::inbox(reply), outcome);
    }

    async fn publish_dead_letter(&self, dead_letter: String, note: Bytes) {
        self.job_stream.publish_note(&dead_letter, note).await;
    }

    fn publish(&self, hint: Hint) {
        self.hints.publish(hint);
    }

    fn reaches_processes(&self) -> bool {
        true
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    async fn pending_jobs(&self) -> usize {
        self.job_stream.pending().await
    }

    fn refused_asks(&self) -> u64 {
        self.refused_asks.load(Ordering::Relaxed)
    }
}
