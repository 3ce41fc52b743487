//! The bus of one process: an ask runs on its caller's own task, so dropping the call cancels it,
//! nothing is copied and nobody has to be woken.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, broadcast};

use crate::ports::bus::{
    Ask, AskHandler, Bus, BusError, Busy, Hint, JobAck, JobConsumer, JobDelivery, JobMessage,
    Reply, SubscriptionGuard, Target,
};

/// Hints a listener may be behind; one that is further behind looks for itself.
const HINTS: usize = 1024;
/// Jobs that may wait.
const JOBS: usize = 10_000;

type Takers = HashMap<Target, Vec<(u64, Arc<dyn AskHandler>)>>;

pub struct LocalBus {
    takers: ArcSwap<Takers>,
    hints: broadcast::Sender<Hint>,
    lane: Arc<LocalJobQueue>,
    turn: AtomicUsize,
    own: Weak<Self>,
}

impl LocalBus {
    pub fn new() -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            takers: ArcSwap::default(),
            hints: broadcast::Sender::new(HINTS),
            lane: Arc::default(),
            turn: AtomicUsize::new(0),
            own: own.clone(),
        })
    }

    /// Whether anybody serves that place.
    pub fn serves(&self, place: Target) -> bool {
        self.takers
            .load()
            .get(&place)
            .is_some_and(|there| !there.is_empty())
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn request(&self, ask: Ask) -> Result<Reply, BusError> {
        let takers = self.takers.load();
        let Some(there) = takers.get(&ask.to).filter(|there| !there.is_empty()) else {
            return Err(BusError::NoResponders);
        };
        // One after the other, as a queue group does; a busy one passes it on by saying so to the caller.
        let turn = if there.len() > 1 {
            self.turn.fetch_add(1, Ordering::Relaxed) % there.len()
        } else {
            0
        };
        let taker = there[turn].1.clone();
        drop(takers);
        match tokio::time::timeout(ask.time_left, taker.handle(ask)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(Busy)) => Err(BusError::Busy),
            Err(_) => Err(BusError::TimedOut),
        }
    }

    fn subscribe(&self, place: Target, taker: Arc<dyn AskHandler>) -> SubscriptionGuard {
        let number = self.turn.fetch_add(1, Ordering::Relaxed) as u64;
        self.takers.rcu(|takers| {
            let mut takers = Takers::clone(takers);
            takers
                .entry(place)
                .or_default()
                .push((number, taker.clone()));
            takers
        });
        let bus = self.own.clone();
        SubscriptionGuard(Box::new(move || {
            let Some(bus) = bus.upgrade() else { return };
            bus.takers.rcu(|takers| {
                let mut takers = Takers::clone(takers);
                if let Some(there) = takers.get_mut(&place) {
                    there.retain(|(n, _)| *n != number);
                    if there.is_empty() {
                        takers.remove(&place);
                    }
                }
                takers
            });
        }))
    }

    async fn publish_job(&self, job: JobMessage) -> Result<(), BusError> {
        self.lane.push(job)
    }

    fn consume_jobs(&self) -> Box<dyn JobConsumer> {
        Box::new(LocalJobConsumer(self.lane.clone()))
    }

    async fn publish_outcome(&self, _: &str, _: Result<Bytes, Bytes>) {
        // Senders in this process read their outcomes from the log.
    }

    async fn publish_dead_letter(&self, _: String, _: Bytes) {}

    fn publish(&self, hint: Hint) {
        // Nobody listening is no loss: hints are hints.
        let _ = self.hints.send(hint);
    }

    fn hints(&self) -> broadcast::Receiver<Hint> {
        self.hints.subscribe()
    }

    async fn pending_jobs(&self) -> usize {
        self.lane.lock().waiting.len()
    }
}

/// The jobs: those that wait, and the ids of all that are not settled.
#[derive(Default)]
struct LocalJobQueue {
    state: Mutex<LaneState>,
    more: Notify,
}

#[derive(Default)]
struct LaneState {
    waiting: VecDeque<(JobMessage, u32)>,
    unsettled: HashSet<String>,
}

impl LocalJobQueue {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: JobMessage) -> Result<(), BusError> {
        let mut state = self.lock();
        if state.unsettled.contains(&job.id) {
            return Ok(());
        }
        if state.unsettled.len() >= JOBS {
            return Err(BusError::Unavailable);
        }
        state.unsettled.insert(job.id.clone());
        state.waiting.push_back((job, 1));
        self.more.notify_one();
        Ok(())
    }

    fn back(&self, job: JobMessage, attempt: u32) {
        self.lock().waiting.push_back((job, attempt));
        self.more.notify_one();
    }
}

struct LocalJobConsumer(Arc<LocalJobQueue>);

#[async_trait]
impl JobConsumer for LocalJobConsumer {
    async fn next(&mut self) -> Option<JobDelivery> {
        loop {
            let more = self.0.more.notified();
            let (first, left) = {
                let mut state = self.0.lock();
                (state.waiting.pop_front(), state.waiting.len())
            };
            if left > 0 {
                self.0.more.notify_one();
            }
            if let Some((job, attempt)) = first {
                let settle = Box::new(LocalUnackedJob {
                    lane: self.0.clone(),
                    job: Some((job.clone(), attempt)),
                });
                return Some(JobDelivery {
                    job,
                    attempt,
                    settle,
                });
            }
            more.await;
        }
    }
}

/// A delivery nobody has settled yet; dropped so, it goes back to the end of the lane.
struct LocalUnackedJob {
    lane: Arc<LocalJobQueue>,
    job: Option<(JobMessage, u32)>,
}

#[async_trait]
impl JobAck for LocalUnackedJob {
    async fn ack(mut self: Box<Self>, _: Option<Result<Bytes, Bytes>>) {
        if let Some((job, _)) = self.job.take() {
            self.lane.lock().unsettled.remove(&job.id);
        }
    }

    async fn nak_after(mut self: Box<Self>, after: Duration) {
        let Some((job, attempt)) = self.job.take() else {
            return;
        };
        let lane = self.lane.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            lane.back(job, attempt + 1);
        });
    }
}

impl Drop for LocalUnackedJob {
    fn drop(&mut self) {
        if let Some((job, attempt)) = self.job.take() {
            self.lane.back(job, attempt + 1);
        }
    }
}
