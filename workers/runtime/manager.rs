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
use crate::core::ids::{LeaseId, ServerId, WorkerId};
use crate::core::model::server::{ConnectionStatus, ServerStatus, WorkerStatus};
use crate::core::names::UserName;
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
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub leases: Arc<dyn Leases>,
    /// This worker's own lease: what stands for all its jobs.
    pub own: LocalLease,
    /// Where secrets of servers are kept.
    pub sealed_store: SealedStore,
    pub grants: Arc<TokenSourceDeps>,
    /// Builds what servers were installed from.
    pub installer: Arc<Installer>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// No other worker can be there.
    pub alone: bool,
    pub tasks: TaskTracker,
    handles: ArcSwap<HashMap<ServerId, Arc<ServerHandle>>>,
    /// Held by the one who adds or removes a slot.
    changing: Mutex<()>,
    /// Takes the asks for the servers that run here.
    dispatcher: OnceLock<Arc<dyn AskHandler>>,
    /// Cancelled when others are to take the servers over: none is started any more.
    pub leaving: CancellationToken,
    /// Cancelled when all servers are to stop: one that is added later does not start.
    pub ending: CancellationToken,
}

/// What a pool works with.
pub struct ManagerDeps {
    pub worker: WorkerId,
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub leases: Arc<dyn Leases>,
    /// Where secrets of servers are kept.
    pub sealed_store: SealedStore,
    pub installer: Arc<Installer>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub alone: bool,
}

impl ServerManager {
    pub fn new(parts: ManagerDeps) -> Arc<Self> {
        let ManagerDeps {
            worker,
            projection,
            appender,
            bus,
            registry,
            leases,
            sealed_store,
            installer,
            metrics,
            limits,
            alone,
        } = parts;
        let commands = CommandClient::new(bus.clone(), projection.clone(), registry.clone());
        let grants = Arc::new(TokenSourceDeps::new(projection.clone(), commands));
        Arc::new(Self {
            worker,
            projection,
            appender,
            bus,
            registry,
            leases,
            own: LocalLease::default(),
            sealed_store,
            grants,
            installer,
            metrics,
            limits,
            alone,
            tasks: TaskTracker::new(),
            handles: ArcSwap::default(),
            changing: Mutex::default(),
            dispatcher: OnceLock::new(),
            leaving: CancellationToken::new(),
            ending: CancellationToken::new(),
        })
    }

    /// Starts the enabled servers, side by side, and returns at once. `desk` takes the asks for them. Without servers
    /// only its lease is kept.
    pub fn start(self: &Arc<Self>, dispatcher: Arc<dyn AskHandler>, runs_servers: bool) {
        let _ = self.dispatcher.set(dispatcher);
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
    pub fn handle(self: &Arc<Self>, server: &Server) -> Arc<ServerHandle> {
        self.handle_or(server, true)
    }

    fn handle_or(self: &Arc<Self>, server: &Server, eager: bool) -> Arc<ServerHandle> {
        if let Some(handle) = self.handles.load().get(&server.id) {
            return handle.clone();
        }
        let _changing = self
            .changing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(handle) = self.handles.load().get(&server.id) {
            return handle.clone();
        }
        let handle = ServerHandle::start(self, server, eager);
        let mut handles = HashMap::clone(&self.handles.load());
        handles.insert(server.id, handle.clone());
        self.handles.store(Arc::new(handles));
        handle
    }

    pub fn handles(&self) -> Guard<Arc<HashMap<ServerId, Arc<ServerHandle>>>> {
        self.handles.load()
    }

    /// Makes a server as the catalogue says it is to be, and tells how it then looks. `None`: another worker
    /// runs it.
    pub async fn reconcile(self: &Arc<Self>, server: &Server) -> Option<ServerStatus> {
        let known = self.handles.load().get(&server.id).cloned();
        match known {
            Some(handle) => handle.settle().await,
            None if !server.enabled => Some(ServerStatus::of(ConnectionStatus::Disconnected)),
            None => self.handle(server).settle().await,
        }
    }

    /// Takes the asks for one server.
    pub fn serve(&self, server: ServerId) -> SubscriptionGuard {
        match self.dispatcher.get() {
            Some(dispatcher) => self
                .bus
                .subscribe(Target::Owner(server), dispatcher.clone()),
            None => SubscriptionGuard(Box::new(|| {})),
        }
    }

    /// What is remembered of a server behind a URL, or of one user's connection to it.
    pub fn memory(
        &self,
        server: &Server,
        handle: &ServerHandle,
        user: Option<UserName>,
    ) -> RemoteState {
        RemoteState {
            sealed_store: self.sealed_store.clone(),
            appender: self.appender.clone(),
            grants: self.grants.clone(),
            server: server.id,
            user,
            url: server.remote().map_or("", |remote| &remote.url).into(),
            session_id: handle.session_id.clone(),
            stored: Arc::default(),
        }
    }

    /// Removes a slot whose supervisor has ended.
    pub fn forget(&self, handle: &ServerHandle) {
        let _changing = self
            .changing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut handles = HashMap::clone(&self.handles.load());
        handles.remove(&handle.id);
        self.handles.store(Arc::new(handles));
    }

    /// Hands the servers over: each is stopped as soon as its own calls are done.
    pub async fn hand_over(&self) {
        let handles: Vec<_> = {
            let _changing = self
                .changing
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            self.leaving.cancel();
            self.handles.load().values().cloned().collect()
        };
        self.publish(vec![], true);
        futures::future::join_all(handles.iter().map(async |handle| {
            handle.drain_calls(self.limits.calls_per_server).await;
            handle.shut_down().await;
        }))
        .await;
    }

    /// Stops all servers, side by side.
    pub async fn shut_down(&self) {
        let handles: Vec<_> = {
            // A change that nobody waits for may add a slot even now: it is seen here, or sees the end itself.
            let _changing = self
                .changing
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            self.leaving.cancel();
            self.ending.cancel();
            self.handles.load().values().cloned().collect()
        };
        futures::future::join_all(handles.iter().map(|handle| handle.shut_down())).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.publish(vec![], true);
    }

    pub fn logs(&self, servers: &[ServerId]) -> Vec<ServerLogs> {
        let handles = self.handles.load();
        let known = servers.iter().filter_map(|id| handles.get(id));
        known
            .map(|handle| ServerLogs {
                server: handle.id,
                logs: handle.log_buffer.lines(),
                session_id: handle.session_id.load().as_deref().cloned(),
            })
            .collect()
    }

    /// Tells facades and other workers how one server looks now.
    pub fn publish_status(&self, handle: &ServerHandle) {
        self.publish(
            vec![(handle.id, handle.live())],
            self.leaving.is_cancelled(),
        );
    }

    fn publish(&self, servers: Vec<(ServerId, ServerStatus)>, leaving: bool) {
        let key = Some(self.sealed_store.sealer.key_id());
        match serde_json::to_vec(&WorkerStatus {
            worker: self.worker,
            servers,
            leaving,
            key,
        }) {
            Ok(status) => self.bus.publish(Hint::Status(status.into())),
            Err(error) => tracing::error!(%error, "a status could not be written"),
        }
    }
}

async fn publish_statuses(manager: Arc<ServerManager>) {
    let mut every = tokio::time::interval(TELL);
    loop {
        every.tick().await;
        let told: Vec<_> = {
            let handles = manager.handles.load();
            handles
                .values()
                .filter(|handle| !handle.is_elsewhere())
                .map(|handle| (handle.id, handle.live()))
                .collect()
        };
        let leaving = manager.leaving.is_cancelled();
        // The empty word is a word too: that this worker is there.
        if told.is_empty() {
            manager.publish(vec![], leaving);
        }
        told.chunks(AT_ONCE)
            .for_each(|some| manager.publish(some.to_vec(), leaving));
    }
}

/// Makes slots for the servers that others have registered, and tells the supervisors of changes.
async fn follow_catalog(manager: Arc<ServerManager>) {
    let mut moves = manager.projection.subscribe();
    if !manager.alone {
        // Whoever runs something has told of it by then.
        tokio::time::sleep(TELL + Duration::from_millis(300)).await;
    }
    let mut known = None;
    loop {
        let changed = manager.projection.catalog().servers_changed;
        if known != Some(changed) {
            known = Some(changed);
            let servers: Vec<_> = manager
                .projection
                .catalog()
                .servers()
                .into_iter()
                .cloned()
                .collect();
            for server in servers
                .iter()
                .filter(|server| server.enabled && !manager.leaving.is_cancelled())
            {
                manager.handle_or(server, manager.alone || server.exclusive_id().is_none());
            }
            // One that is elsewhere stays there, whatever has changed.
            let here = |handle: &Arc<ServerHandle>| {
                !handle.is_elsewhere() || !manager.projection.catalog().is_enabled(handle.id)
            };
            manager
                .handles()
                .values()
                .filter(|handle| here(handle))
                .for_each(|handle| handle.news.notify_one());
        }
        if moves.changed().await.is_err() {
            return;
        }
    }
}

/// Renews the leases of this worker, and with them the lives of its children. Whose lease is not
/// renewed is killed by its guard before the lease ends.
async fn renew_all(manager: Arc<ServerManager>) {
    let ttl = manager.limits.lease_ttl;
    let mut every = tokio::time::interval(ttl / 4);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        // The lease began when it was asked for, at the latest.
        let asked = tokio::time::Instant::now();
        let renewed = manager.leases.renew(manager.worker, ttl).await;
        if let Err(error) = &renewed {
            tracing::warn!(%error, "leases could not be renewed");
        }
        match &renewed {
            Ok(held) if held.contains(&manager.own_id()) => manager.own.extend(asked, ttl),
            Ok(_) => manager.own.denied(asked),
            Err(_) => {}
        }
        for handle in manager.handles().values() {
            match &renewed {
                // It needs no lease, only a worker that does not stand still.
                _ if handle.lease.is_free() && handle.lease.is_held() => {
                    handle.lease.extend(asked, ttl)
                }
                Ok(held) if held.contains(&handle.id.into()) => handle.lease.extend(asked, ttl),
                Ok(_) => handle.lease.denied(asked),
                Err(_) => continue,
            }
            handle.child.renew(handle.lease.left());
        }
    }
}

async fn expire_idle(manager: Arc<ServerManager>) {
    let mut every = tokio::time::interval(FORGET);
    loop {
        every.tick().await;
        manager.handles.load().values().for_each(|handle| {
            handle.redactor.forget();
            handle.users.forget();
        });
    }
}
