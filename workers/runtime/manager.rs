//! The servers this worker runs: a slot each, their leases, and what facades are told about them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::failover;
use super::handle::ServerHandle;
use super::lease::LocalLease;
use super::remote_state::RemoteState;
use crate::cluster::command_client::CommandClient;
use crate::cluster::membership::WorkerRegistry;
use crate::config::Limits;
use crate::core::catalog::server::Server;
use crate::core::command::ServerLogs;
use crate::core::model::server::{ConnectionStatus, ServerStatus, WorkerStatus};
use crate::core::names::{LeaseId, ServerId, UserName, WorkerId};
use crate::eventlog::appender::Appender;
use crate::eventlog::projection::Projection;
use crate::ports::bus::{AskHandler, Bus, Hint, SubscriptionGuard, Target};
use crate::ports::leases::Leases;
use crate::telemetry::metrics::Metrics;
use crate::workers::install::Installer;
use crate::workers::oauth::token_source::TokenSourceDeps;
use crate::workers::sealed_store::SealedStore;

/// How often facades are told what runs here.
const TELL: Duration = Duration::from_secs(2);
/// Servers in one word, so that it stays smaller than a bus may take.
const AT_ONCE: usize = 50;
/// How often maskers forget what is not needed any more.
const FORGET: Duration = Duration::from_secs(5);

pub struct ServerManager {
    pub worker: WorkerId,
    pub follow: Arc<Projection>,
    pub execute: Appender,
    pub bus: Arc<dyn Bus>,
    pub board: Arc<WorkerRegistry>,
    pub leases: Arc<dyn Leases>,
    /// This worker's own lease: what stands for all its jobs.
    pub own: LocalLease,
    /// Where secrets of servers are kept.
    pub keep: SealedStore,
    pub grants: Arc<TokenSourceDeps>,
    /// Builds what servers were installed from.
    pub installer: Arc<Installer>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// No other worker can be there.
    pub alone: bool,
    pub tasks: TaskTracker,
    slots: ArcSwap<HashMap<ServerId, Arc<ServerHandle>>>,
    /// Held by the one who adds or removes a slot.
    changing: Mutex<()>,
    /// Takes the asks for the servers that run here.
    desk: OnceLock<Arc<dyn AskHandler>>,
    /// Cancelled when others are to take the servers over: none is started any more.
    pub leaving: CancellationToken,
    /// Cancelled when all servers are to stop: one that is added later does not start.
    pub ending: CancellationToken,
}

/// What a pool works with.
pub struct ManagerDeps {
    pub worker: WorkerId,
    pub follow: Arc<Projection>,
    pub execute: Appender,
    pub bus: Arc<dyn Bus>,
    pub board: Arc<WorkerRegistry>,
    pub leases: Arc<dyn Leases>,
    /// Where secrets of servers are kept.
    pub keep: SealedStore,
    pub installer: Arc<Installer>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub alone: bool,
}

impl ServerManager {
    pub fn new(parts: ManagerDeps) -> Arc<Self> {
        let ManagerDeps { worker, follow, execute, bus, board, leases, keep, installer, metrics, limits, alone } =
            parts;
        let asker = CommandClient { bus: bus.clone(), follow: follow.clone(), board: board.clone() };
        let grants = Arc::new(TokenSourceDeps::new(follow.clone(), asker));
        Arc::new(Self {
            worker,
            follow,
            execute,
            bus,
            board,
            leases,
            own: LocalLease::default(),
            keep,
            grants,
            installer,
            metrics,
            limits,
            alone,
            tasks: TaskTracker::new(),
            slots: ArcSwap::default(),
            changing: Mutex::default(),
            desk: OnceLock::new(),
            leaving: CancellationToken::new(),
            ending: CancellationToken::new(),
        })
    }

    /// Starts the enabled servers, side by side, and returns at once. `desk` takes the asks for them. Without servers
    /// only its lease is kept.
    pub fn start(self: &Arc<Self>, desk: Arc<dyn AskHandler>, runs_servers: bool) {
        let _ = self.desk.set(desk);
        tokio::spawn(renew_all(self.clone()));
        if !runs_servers {
            // Nobody is told of it, so nobody asks it for servers.
            return;
        }
        tokio::spawn(publish_statuses(self.clone()));
        tokio::spawn(expire_idle(self.clone()));
        tokio::spawn(failover::watch(self.clone()));
        tokio::spawn(follow_catalog(self.clone()));
    }

    /// What the worker's own lease is called in the store.
    pub fn own_id(&self) -> LeaseId {
        self.worker.into()
    }

    /// Gives the worker's own lease back: its jobs are anybody's.
    pub async fn release_worker_lease(&self) {
        self.own.end();
        if let Err(error) = self.leases.release(self.own_id(), self.worker).await {
            tracing::warn!(%error, "the worker's lease was not given back; it will expire");
        }
    }

    /// The slot of a server; it is made, and the server started, where there is none.
    pub fn slot(self: &Arc<Self>, server: &Server) -> Arc<ServerHandle> {
        self.slot_or(server, true)
    }

    fn slot_or(self: &Arc<Self>, server: &Server, eager: bool) -> Arc<ServerHandle> {
        if let Some(slot) = self.slots.load().get(&server.id) {
            return slot.clone();
        }
        let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = self.slots.load().get(&server.id) {
            return slot.clone();
        }
        let slot = ServerHandle::start(self, server, eager);
        let mut slots = HashMap::clone(&self.slots.load());
        slots.insert(server.id, slot.clone());
        self.slots.store(Arc::new(slots));
        slot
    }

    pub fn slots(&self) -> Guard<Arc<HashMap<ServerId, Arc<ServerHandle>>>> {
        self.slots.load()
    }

    /// Makes a server as the catalogue says it is to be, and tells how it then looks. `None`: another worker
    /// runs it.
    pub async fn reconcile(self: &Arc<Self>, server: &Server) -> Option<ServerStatus> {
        let known = self.slots.load().get(&server.id).cloned();
        match known {
            Some(slot) => slot.settle().await,
            None if !server.enabled => Some(ServerStatus::of(ConnectionStatus::Disconnected)),
            None => self.slot(server).settle().await,
        }
    }

    /// Takes the asks for one server.
    pub fn serve(&self, server: ServerId) -> SubscriptionGuard {
        match self.desk.get() {
            Some(desk) => self.bus.subscribe(Target::Holder(server), desk.clone()),
            None => SubscriptionGuard(Box::new(|| {})),
        }
    }

    /// What is remembered of a server behind a URL, or of one user's connection to it.
    pub fn memory(&self, server: &Server, slot: &ServerHandle, user: Option<UserName>) -> RemoteState {
        RemoteState {
            keep: self.keep.clone(),
            execute: self.execute.clone(),
            grants: self.grants.clone(),
            server: server.id,
            user,
            url: server.remote().map_or("", |remote| &remote.url).into(),
            session_id: slot.session_id.clone(),
        }
    }

    /// Removes a slot whose supervisor has ended.
    pub fn forget(&self, slot: &ServerHandle) {
        let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut slots = HashMap::clone(&self.slots.load());
        slots.remove(&slot.id);
        self.slots.store(Arc::new(slots));
    }

    /// Hands the servers over: each is stopped as soon as its own calls are done.
    pub async fn hand_over(&self) {
        let slots: Vec<_> = {
            let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.leaving.cancel();
            self.slots.load().values().cloned().collect()
        };
        self.publish(vec![], true);
        futures::future::join_all(slots.iter().map(async |slot| {
            slot.drain_calls(self.limits.calls_per_server).await;
            slot.shut_down().await;
        }))
        .await;
    }

    /// Stops all servers, side by side.
    pub async fn shut_down(&self) {
        let slots: Vec<_> = {
            // A change that nobody waits for may add a slot even now: it is seen here, or sees the end itself.
            let _changing = self.changing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            self.leaving.cancel();
            self.ending.cancel();
            self.slots.load().values().cloned().collect()
        };
        futures::future::join_all(slots.iter().map(|slot| slot.shut_down())).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.publish(vec![], true);
    }

    pub fn logs(&self, servers: &[ServerId]) -> Vec<ServerLogs> {
        let slots = self.slots.load();
        let known = servers.iter().filter_map(|id| slots.get(id));
        known
            .map(|slot| ServerLogs {
                server: slot.id,
                logs: slot.ring.lines(),
                session_id: slot.session_id.load().as_deref().cloned(),
            })
            .collect()
    }

    /// Tells facades and other workers how one server looks now.
    pub fn publish_status(&self, slot: &ServerHandle) {
        self.publish(vec![(slot.id, slot.live())], self.leaving.is_cancelled());
    }

    fn publish(&self, servers: Vec<(ServerId, ServerStatus)>, leaving: bool) {
        let key = Some(self.keep.sealer.key_id());
        match serde_json::to_vec(&WorkerStatus { worker: self.worker, servers, leaving, key }) {
            Ok(status) => self.bus.publish(Hint::Status(status.into())),
            Err(error) => tracing::error!(%error, "a status could not be written"),
        }
    }
}

async fn publish_statuses(pool: Arc<ServerManager>) {
    let mut every = tokio::time::interval(TELL);
    loop {
        every.tick().await;
        let told: Vec<_> = {
            let slots = pool.slots.load();
            slots.values().filter(|slot| !slot.is_elsewhere()).map(|slot| (slot.id, slot.live())).collect()
        };
        let leaving = pool.leaving.is_cancelled();
        // The empty word is a word too: that this worker is there.
        if told.is_empty() {
            pool.publish(vec![], leaving);
        }
        told.chunks(AT_ONCE).for_each(|some| pool.publish(some.to_vec(), leaving));
    }
}

/// Makes slots for the servers that others have registered, and tells the supervisors of changes.
async fn follow_catalog(pool: Arc<ServerManager>) {
    let mut moves = pool.follow.subscribe();
    if !pool.alone {
        // Whoever runs something has told of it by then.
        tokio::time::sleep(TELL + Duration::from_millis(300)).await;
    }
    let mut known = None;
    loop {
        let changed = pool.follow.catalog().servers_changed;
        if known != Some(changed) {
            known = Some(changed);
            let servers: Vec<_> = pool.follow.catalog().servers().into_iter().cloned().collect();
            for server in servers.iter().filter(|server| server.enabled && !pool.leaving.is_cancelled()) {
                pool.slot_or(server, pool.alone || server.held().is_none());
            }
            // One that is elsewhere stays there, whatever has changed.
            let here = |slot: &Arc<ServerHandle>| !slot.is_elsewhere() || !pool.follow.catalog().is_enabled(slot.id);
            pool.slots().values().filter(|slot| here(slot)).for_each(|slot| slot.news.notify_one());
        }
        if moves.changed().await.is_err() {
            return;
        }
    }
}

/// Renews the leases of this worker, and with them the lives of its children. Whose lease is not
/// renewed is killed by its guard before the lease ends.
async fn renew_all(pool: Arc<ServerManager>) {
    let ttl = pool.limits.lease_ttl;
    let mut every = tokio::time::interval(ttl / 4);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        // The lease began when it was asked for, at the latest.
        let asked = tokio::time::Instant::now();
        let renewed = pool.leases.renew(pool.worker, ttl).await;
        if let Err(error) = &renewed {
            tracing::warn!(%error, "leases could not be renewed");
        }
        match &renewed {
            Ok(held) if held.contains(&pool.own_id()) => pool.own.extend(asked, ttl),
            Ok(_) => pool.own.denied(asked),
            Err(_) => {}
        }
        for slot in pool.slots().values() {
            match &renewed {
                // It needs no lease, only a worker that does not stand still.
                _ if slot.lease.is_free() && slot.lease.is_held() => slot.lease.extend(asked, ttl),
                Ok(held) if held.contains(&slot.id.into()) => slot.lease.extend(asked, ttl),
                Ok(_) => slot.lease.denied(asked),
                Err(_) => continue,
            }
            slot.child.renew(slot.lease.left());
        }
    }
}

async fn expire_idle(pool: Arc<ServerManager>) {
    let mut every = tokio::time::interval(FORGET);
    loop {
        every.tick().await;
        pool.slots.load().values().for_each(|slot| {
            slot.masker.forget();
            slot.users.forget();
        });
    }
}
