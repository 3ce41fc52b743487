//! The bus inside one process. An ask runs on the task of its sender, so dropping the request cancels the
//! ask, and no body is copied.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, broadcast};

use crate::ports::bus::{
    Ask, AskHandler, Bus, BusError, Busy, Hint, JobAck, JobConsumer, JobDelivery, JobMessage,
    Reply, SubscriptionGuard, Target,
};

/// The number of hints that a listener may lag behind. A listener with more lag reads the log itself.
const MAX_LAG: usize = 1024;
/// The largest number of unacknowledged jobs.
const MAX_JOBS: usize = 10_000;

type Handlers = HashMap<Target, Vec<(u64, Arc<dyn AskHandler>)>>;

/// The bus inside one process.
pub struct LocalBus {
    handlers: ArcSwap<Handlers>,
    hints: broadcast::Sender<Hint>,
    jobs: Arc<LocalJobQueue>,
    next: AtomicUsize,
    own: Weak<Self>,
}

impl LocalBus {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            handlers: ArcSwap::default(),
            hints: broadcast::Sender::new(MAX_LAG),
            jobs: Arc::default(),
            next: AtomicUsize::new(0),
            own: own.clone(),
        })
    }

    /// Returns whether this process serves a target.
    pub fn serves(&self, target: Target) -> bool {
        self.handlers.load().contains_key(&target)
    }

    fn remove(&self, target: Target, number: u64) {
        self.handlers.rcu(|handlers| {
            let mut handlers = Handlers::clone(handlers);
            if let Some(serving) = handlers.get_mut(&target) {
                serving.retain(|(other, _)| *other != number);
                if serving.is_empty() {
                    handlers.remove(&target);
                }
            }
            handlers
        });
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn request(&self, ask: Ask) -> Result<Reply, BusError> {
        let handlers = self.handlers.load();
        let Some(serving) = handlers.get(&ask.to).filter(|serving| !serving.is_empty()) else {
            return Err(BusError::NoResponders);
        };
        // The handlers take turns, as in a queue group. A busy handler is not replaced by another handler:
        // the sender decides whether it retries.
        let index = if serving.len() > 1 {
            self.next.fetch_add(1, Ordering::Relaxed) % serving.len()
        } else {
            0
        };
        let handler = serving[index].1.clone();
        drop(handlers);
        match tokio::time::timeout(ask.time_left, handler.handle(ask)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Busy)) => Err(BusError::Busy),
            Err(_) => Err(BusError::TimedOut),
        }
    }

    fn subscribe(&self, target: Target, handler: Arc<dyn AskHandler>) -> SubscriptionGuard {
        let number = self.next.fetch_add(1, Ordering::Relaxed) as u64;
        self.handlers.rcu(|handlers| {
            let mut handlers = Handlers::clone(handlers);
            let serving = handlers.entry(target).or_default();
            serving.push((number, handler.clone()));
            handlers
        });
        let bus = self.own.clone();
        SubscriptionGuard(Box::new(move || {
            if let Some(bus) = bus.upgrade() {
                bus.remove(target, number);
            }
        }))
    }

    async fn publish_job(&self, job: JobMessage) -> Result<(), BusError> {
        self.jobs.push(job)
    }

    fn consume_jobs(&self) -> Box<dyn JobConsumer> {
        Box::new(LocalJobConsumer(self.jobs.clone()))
    }

    async fn publish_outcome(&self, _: &str, _: Result<Bytes, Bytes>) {
        // A producer of this process reads the outcome from the log.
    }

    async fn publish_dead_letter(&self, _: String, _: Bytes) {}

    fn publish(&self, hint: Hint) {
        // Without listeners the hint is lost, which is allowed.
        let _ = self.hints.send(hint);
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    async fn pending_jobs(&self) -> usize {
        self.jobs.state.lock().pending.len()
    }
}

/// The jobs of this process.
#[derive(Default)]
struct LocalJobQueue {
    state: Mutex<QueueState>,
    /// Wakes a consumer after a job has become pending.
    added: Notify,
}

#[derive(Default)]
struct QueueState {
    /// The jobs that no worker holds, with the number of their next delivery.
    pending: VecDeque<(JobMessage, u32)>,
    /// The ids of all jobs that are not acknowledged.
    unacked: HashSet<String>,
}

impl LocalJobQueue {
    fn push(&self, job: JobMessage) -> Result<(), BusError> {
        let mut state = self.state.lock();
        if state.unacked.contains(&job.id) {
            return Ok(());
        }
        if state.unacked.len() >= MAX_JOBS {
            return Err(BusError::Unavailable);
        }
        state.unacked.insert(job.id.clone());
        state.pending.push_back((job, 1));
        self.added.notify_one();
        Ok(())
    }

    /// Returns the oldest pending job, and wakes the next consumer if more jobs are pending.
    fn pop(&self) -> Option<(JobMessage, u32)> {
        let mut state = self.state.lock();
        let first = state.pending.pop_front();
        if !state.pending.is_empty() {
            self.added.notify_one();
        }
        first
    }

    fn push_back(&self, job: JobMessage, attempt: u32) {
        self.state.lock().pending.push_back((job, attempt));
        self.added.notify_one();
    }
}

struct LocalJobConsumer(Arc<LocalJobQueue>);

#[async_trait]
impl JobConsumer for LocalJobConsumer {
    async fn next(&mut self) -> Option<JobDelivery> {
        let jobs = &self.0;
        loop {
            let added = jobs.added.notified();
            if let Some((job, attempt)) = jobs.pop() {
                let unacked = LocalUnackedJob {
                    jobs: jobs.clone(),
                    job: Some((job.clone(), attempt)),
                };
                return Some(JobDelivery {
                    job,
                    attempt,
                    ack: Box::new(unacked),
                });
            }
            added.await;
        }
    }
}

/// A job that a worker holds. Dropping it returns the job to the end of the queue.
struct LocalUnackedJob {
    jobs: Arc<LocalJobQueue>,
    job: Option<(JobMessage, u32)>,
}

#[async_trait]
impl JobAck for LocalUnackedJob {
    async fn ack(mut self: Box<Self>, _: Option<Result<Bytes, Bytes>>) {
        if let Some((job, _)) = self.job.take() {
            self.jobs.state.lock().unacked.remove(&job.id);
        }
    }

    async fn nak_after(mut self: Box<Self>, after: Duration) {
        let Some((job, attempt)) = self.job.take() else {
            return;
        };
        let jobs = self.jobs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            jobs.push_back(job, attempt + 1);
        });
    }
}

impl Drop for LocalUnackedJob {
    fn drop(&mut self) {
        if let Some((job, attempt)) = self.job.take() {
            self.jobs.push_back(job, attempt + 1);
        }
    }
}
