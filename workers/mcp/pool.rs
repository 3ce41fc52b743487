//! The servers this worker runs: a slot each, their leases, and what facades are told about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::slot::Slot;
use crate::config::Limits;
use crate::core::catalog::Server;
use crate::core::command::ServerLogs;
use crate::core::names::{ServerId, WorkerId};
use crate::core::server::{Live, Status, WorkerStatus};
use crate::execute::Execute;
use crate::follow::Follow;
use crate::metrics::Metrics;
use crate::ports::{Bus, Hint, Leases};

/// How often facades are told what runs here.
const TELL: Duration = Duration::from_secs(2);
/// How often maskers forget what is not needed any more.
const FORGET: Duration = Duration::from_secs(5);

pub struct Pool {
    pub worker: WorkerId,
    pub follow: Arc<Follow>,
    pub execute: Execute,
    pub bus: Arc<dyn Bus>,
    pub leases: Arc<dyn Leases>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub tasks: TaskTracker,
    slots: ArcSwap<HashMap<ServerId, Arc<Slot>>>,
    /// Held by the one who adds or removes a slot.
    changing: Mutex<()>,
    /// Cancelled when all servers are to stop: one that is added later does not start.
    pub ending: CancellationToken,
}

/// What a pool works with.
pub struct PoolParts {
    pub worker: WorkerId,
    pub follow: Arc<Follow>,
    pub execute: Execute,
    pub bus: Arc<dyn Bus>,
    pub leases: Arc<dyn Leases>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
}

impl Pool {
    /// Starts all enabled servers, side by side, and returns at once.
    pub fn start(parts: PoolParts) -> Arc<Self> {
        let PoolParts { worker, follow, execute, bus, leases, metrics, limits } = parts;
        let (tasks, ending) = (TaskTracker::new(), CancellationToken::new());
        let (slots, changing) = (ArcSwap::default(), Mutex::default());
        let pool =
            Arc::new(Self { worker, follow, execute, bus, leases, metrics, limits, tasks, slots, changing, ending });
        let enabled: Vec<_> = pool.follow.catalog().servers().into_iter().filter(|s| s.enabled).cloned().collect();
        for server in &enabled {
            pool.slot(server);
        }
        tokio::spawn(tell_all(pool.clone()));
        tokio::spawn(renew_all(pool.clone()));
        tokio::spawn(forget_all(pool.clone()));
        pool
    }

    /// The slot of a server; it is made, and the server started, where there is none.
    pub fn slot(self: &Arc<Self>, server: &Server) -> Arc<Slot> {
        if let Some(slot) = self.slots.load().get(&server.id) {
            return slot.clone();
        }
        let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = self.slots.load().get(&server.id) {
            return slot.clone();
        }
        let slot = Slot::start(self, server);
        let mut slots = HashMap::clone(&self.slots.load());
        slots.insert(server.id, slot.clone());
        self.slots.store(Arc::new(slots));
        slot
    }

    /// Makes a server as the catalogue says it is to be, and tells how it then looks.
    pub async fn settle(self: &Arc<Self>, server: &Server, restart: bool) -> Live {
        let known = self.slots.load().get(&server.id).cloned();
        match known {
            Some(slot) => slot.settle(restart).await,
            None if !server.enabled => Live::of(Status::Disconnected),
            None => self.slot(server).settle(false).await,
        }
    }

    /// Removes a slot whose supervisor has ended.
    pub async fn forget(&self, slot: &Slot) {
        {
            let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut slots = HashMap::clone(&self.slots.load());
            slots.remove(&slot.id);
            self.slots.store(Arc::new(slots));
        }
        if let Err(error) = self.leases.release(slot.id, self.worker).await {
            tracing::warn!(server = %slot.name, %error, "a lease was not given back; it will expire");
        }
    }

    /// Stops all servers, side by side.
    pub async fn shut_down(&self) {
        let slots: Vec<_> = {
            // A change that nobody waits for may add a slot even now: it is seen here, or sees the end itself.
            let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.ending.cancel();
            self.slots.load().values().cloned().collect()
        };
        futures::future::join_all(slots.iter().map(|slot| slot.shut_down())).await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub fn logs(&self, servers: &[ServerId]) -> Vec<ServerLogs> {
        let slots = self.slots.load();
        let known = servers.iter().filter_map(|id| slots.get(id));
        known.map(|slot| ServerLogs { server: slot.id, logs: slot.ring.lines() }).collect()
    }

    /// Takes the right to run a server, or says why not.
    pub async fn take_lease(&self, server: ServerId) -> Result<(), String> {
        match self.leases.take(server, self.worker, self.limits.lease_ttl).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("another worker runs it".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Tells facades how one server looks now.
    pub fn tell(&self, slot: &Slot) {
        self.publish(vec![(slot.id, slot.live())]);
    }

    fn publish(&self, servers: Vec<(ServerId, Live)>) {
        match serde_json::to_vec(&WorkerStatus { worker: self.worker, servers }) {
            Ok(status) => self.bus.publish(Hint::Status(status.into())),
            Err(error) => tracing::error!(%error, "a status could not be written"),
        }
    }
}

async fn tell_all(pool: Arc<Pool>) {
    let mut every = tokio::time::interval(TELL);
    loop {
        every.tick().await;
        pool.publish(pool.slots.load().values().map(|slot| (slot.id, slot.live())).collect());
    }
}

/// Renews the leases of this worker, and with them the lives of its children. Whose lease is not
/// renewed is killed by its guard before the lease ends.
async fn renew_all(pool: Arc<Pool>) {
    let ttl = pool.limits.lease_ttl;
    let mut every = tokio::time::interval(ttl / 4);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        // The lease began when it was asked for, at the latest.
        let asked = tokio::time::Instant::now();
        match pool.leases.renew(pool.worker, ttl).await {
            Ok(held) => {
                let slots = pool.slots.load();
                let left = ttl.saturating_sub(asked.elapsed());
                let held = held.iter().filter_map(|id| slots.get(id));
                held.for_each(|slot| slot.child.renew(left));
            }
            Err(error) => tracing::warn!(%error, "leases could not be renewed"),
        }
    }
}

async fn forget_all(pool: Arc<Pool>) {
    let mut every = tokio::time::interval(FORGET);
    loop {
        every.tick().await;
        pool.slots.load().values().for_each(|slot| slot.masker.forget());
    }
}
