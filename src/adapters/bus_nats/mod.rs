//! The bus between processes: NATS. Asks are core messages, answered into one inbox per process; jobs
//! lie in a JetStream work queue; hints go to everybody. The wire format is in [`wire`].
//!
//! What this process serves alone (a server it runs, the worker it is) is asked without a detour; so is
//! every pool while NATS is away, which is how one process goes on by itself.

pub mod cancellation;
pub mod chunked;
pub mod clock_skew;
pub mod connection;
mod hints;
mod inbox;
pub mod job_consumer;
pub mod job_stream;
pub mod pending_ask;
mod subjects;
pub mod subscription;
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

pub struct NatsBus {
    inbox: Arc<Inbox>,
    subjects: Subjects,
    running: Arc<RunningAsks>,
    hints: Hints,
    lane: Arc<JobStream>,
    clocks: Arc<SenderClocks>,
    max_body: usize,
    /// Asks whose command did not belong to their subject.
    refused_asks: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
    local: Arc<LocalBus>,
}

impl NatsBus {
    /// Connects, or says in a sentence why that cannot be. Once made, the connection is made again
    /// whenever it is lost.
    pub async fn connect(options: NatsOptions) -> Result<Arc<Self>, String> {
        let link = NatsConnection::connect(&options).await?;
        let subjects = Subjects::new(&options.prefix);
        let (inbox, letters) = Inbox::open(link).await?;
        let cancels = inbox
            .link
            .client
            .subscribe(subjects.cancel())
            .await
            .map_err(|error| error.to_string())?;
        let ticks = inbox
            .link
            .client
            .subscribe(subjects.clock())
            .await
            .map_err(|error| error.to_string())?;
        let (hints, wire) = Hints::open(&inbox, &subjects).await?;
        let running = Arc::new(RunningAsks::default());
        let process = Uuid::new_v4().simple().to_string();
        let clocks = Arc::new(SenderClocks::new(process.clone()));
        let tasks = vec![
            tokio::spawn(clocks.clone().tick(inbox.clone(), subjects.clock())),
            tokio::spawn(clocks.clone().listen(ticks)),
            tokio::spawn(inbox.clone().read(letters)),
            tokio::spawn(running.clone().listen(cancels)),
            tokio::spawn(wire.run(inbox.clone(), subjects.clone(), process)),
        ];
        let lane = Arc::new(JobStream::new(inbox.clone(), subjects.clone()));
        let (local, max_body) = (LocalBus::new(), options.max_body);
        Ok(Arc::new(Self {
            inbox,
            subjects,
            running,
            hints,
            lane,
            clocks,
            max_body,
            refused_asks: Arc::default(),
            tasks,
            local,
        }))
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn request(&self, ask: Ask) -> Result<Reply, BusError> {
        let of_many = matches!(ask.to, Target::AnyWorker(_));
        if self.local.serves(ask.to) && !(of_many && self.inbox.link.is_connected()) {
            return self.local.request(ask).await;
        }
        self.ask(ask).await
    }

    async fn flush(&self) {
        self.inbox.round_trip(ROUND).await;
    }

    fn subscribe(&self, place: Target, taker: Arc<dyn AskHandler>) -> SubscriptionGuard {
        let (near, far) = (
            self.local.subscribe(place, taker.clone()),
            self.subscribe_target(place, taker),
        );
        SubscriptionGuard(Box::new(move || drop((near, far))))
    }

    async fn publish_job(&self, job: JobMessage) -> Result<(), BusError> {
        self.lane.put(job).await
    }

    fn consume_jobs(&self) -> Box<dyn JobConsumer> {
        Box::new(JobPuller::new(self.lane.clone()))
    }

    async fn publish_outcome(&self, reply: &str, outcome: Result<Bytes, Bytes>) {
        job_consumer::answer(&self.inbox, wire::inbox(reply), outcome);
    }

    async fn publish_dead_letter(&self, letter: String, note: Bytes) {
        self.lane.set_aside(&letter, note).await;
    }

    fn publish(&self, hint: Hint) {
        self.hints.publish(hint);
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.listen()
    }

    async fn pending_jobs(&self) -> usize {
        self.lane.waiting().await
    }

    fn refused_asks(&self) -> u64 {
        self.refused_asks.load(Ordering::Relaxed)
    }
}
