//! The servers of this worker: one handle each, their leases, and the status reports to facades and other workers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::changes::publish_changes;
use super::failover;
use super::handle::ServerHandle;
use super::lease::LocalLease;
use super::stored_state::StoredState;
use super::user_pool::{UserPool, follow_credentials};
use crate::cluster::command_client::CommandClient;
use crate::cluster::membership::WorkerRegistry;
use crate::config::Limits;
use crate::core::catalog::server::Server;
use crate::core::command::ServerLogs;
use crate::core::decide::connection::ConnectionTarget;
use crate::core::ids::{LeaseId, Position, ServerId, ValueId, WorkerId};
use crate::core::model::server::{ConnectionStatus, ServerStatus, WorkerStatus};
use crate::core::names::UserName;
use crate::eventlog::appender::Appender;
use crate::eventlog::projection::Projection;
use crate::ports::bus::{AskHandler, Bus, Hint, SubscriptionGuard, Target};
use crate::ports::change_queue::ChangeQueue;
use crate::ports::leases::Leases;
use crate::telemetry::error::error_chain;
use crate::telemetry::metrics::Metrics;
use crate::time::clock::monotonic;
use crate::workers::install::Installer;
use crate::workers::oauth::token_source::TokenSourceDeps;
use crate::workers::sealed_store::SealedStore;

/// Time between two status reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// How long a starting worker listens before it looks for servers without an owner. Every live worker has sent a report
/// by then. The absence of a worker cannot be notified, so this is a time.
const FIRST_REPORTS: Duration = Duration::from_millis(2300);
/// Servers in one report, so that the report fits into a message of the bus.
const SERVERS_PER_REPORT: usize = 50;
/// Time between two expiries of masked values and unused connections.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);

pub struct ServerManager {
    pub worker: WorkerId,
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub leases: Arc<dyn Leases>,
    /// The lease of this worker itself, which covers all its jobs.
    pub own: LocalLease,
    pub sealed_store: SealedStore,
    pub grants: Arc<TokenSourceDeps>,
    pub installer: Arc<Installer>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// The places for processes and connections of single users.
    pub users: UserPool,
    /// The changes that the servers report.
    pub changes: Arc<ChangeQueue>,
    /// No other worker can exist.
    pub alone: bool,
    pub tasks: TaskTracker,
    handles: ArcSwap<HashMap<ServerId, Arc<ServerHandle>>>,
    /// Locked while a handle is added or removed.
    handles_lock: Mutex<()>,
    /// Handles the asks for the servers of this worker.
    dispatcher: OnceLock<Arc<dyn AskHandler>>,
    /// Cancelled when other workers must take the servers over. No server starts any more.
    pub leaving: CancellationToken,
    /// Cancelled when all servers must stop. A server that is added later does not start.
    pub ending: CancellationToken,
}

/// The services that a manager works with.
pub struct ManagerDeps {
    pub worker: WorkerId,
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub leases: Arc<dyn Leases>,
    pub sealed_store: SealedStore,
    pub installer: Arc<Installer>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// No other worker can exist.
    pub alone: bool,
}

impl ServerManager {
    pub fn new(deps: ManagerDeps) -> Arc<Self> {
        let commands = CommandClient::new(
            deps.bus.clone(),
            deps.projection.clone(),
            deps.registry.clone(),
        );
        let grants = Arc::new(TokenSourceDeps::new(deps.projection.clone(), commands));
        let users = UserPool::new(&deps.limits, &deps.metrics);
        Arc::new(Self {
            worker: deps.worker,
            projection: deps.projection,
            appender: deps.appender,
            bus: deps.bus,
            registry: deps.registry,
            leases: deps.leases,
            own: LocalLease::default(),
            sealed_store: deps.sealed_store,
            grants,
            installer: deps.installer,
            metrics: deps.metrics,
            limits: deps.limits,
            users,
            changes: Arc::default(),
            alone: deps.alone,
            tasks: TaskTracker::new(),
            handles: ArcSwap::default(),
            handles_lock: Mutex::default(),
            dispatcher: OnceLock::new(),
            leaving: CancellationToken::new(),
            ending: CancellationToken::new(),
        })
    }

    /// Starts the enabled servers side by side, and returns at once. `dispatcher` handles the asks for them. A worker
    /// without `runs_servers` renews its own lease only.
    pub fn start(self: &Arc<Self>, dispatcher: Arc<dyn AskHandler>, runs_servers: bool) {
        let _ = self.dispatcher.set(dispatcher);
        tokio::spawn(renew_leases(self.clone()));
        if !runs_servers {
            return;
        }
        tokio::spawn(report_statuses(self.clone()));
        tokio::spawn(publish_changes(self.changes.clone(), self.bus.clone()));
        tokio::spawn(expire_unused(self.clone()));
        tokio::spawn(failover::watch_servers(self.clone()));
        tokio::spawn(follow_catalog(self.clone()));
        tokio::spawn(follow_credentials(self.clone()));
    }

    /// Returns the id of the worker's own lease in the store.
    pub fn own_id(&self) -> LeaseId {
        self.worker.into()
    }

    /// Releases the worker's own lease, so that other workers may take its jobs over.
    pub async fn release_worker_lease(&self) {
        self.own.end();
        if let Err(error) = self.leases.release(self.own_id(), self.worker).await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot release the lease of this worker; it will expire"
            );
        }
    }

    /// Returns the handle of a server. If there is none, it is created and the server starts.
    pub fn handle(self: &Arc<Self>, server: &Server) -> Arc<ServerHandle> {
        self.handle_or_create(server, true)
    }

    fn handle_or_create(self: &Arc<Self>, server: &Server, eager: bool) -> Arc<ServerHandle> {
        if let Some(handle) = self.handles.load().get(&server.id) {
            return handle.clone();
        }
        let _changing = self.handles_lock.lock();
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

    /// Returns the handle of a server if there is one.
    pub fn existing_handle(&self, server: ServerId) -> Option<Arc<ServerHandle>> {
        self.handles.load().get(&server).cloned()
    }

    /// Makes a server as the catalog says, and returns its status. `None`: another worker owns the server.
    pub async fn reconcile(self: &Arc<Self>, server: &Server) -> Option<ServerStatus> {
        match self.existing_handle(server.id) {
            Some(handle) => handle.reconcile().await,
            None if !server.enabled => {
                Some(ServerStatus::without_error(ConnectionStatus::Disconnected))
            }
            None => self.handle(server).reconcile().await,
        }
    }

    /// Subscribes to the asks for the owner of a server.
    pub(super) fn subscribe_owner(&self, server: ServerId) -> SubscriptionGuard {
        match self.dispatcher.get() {
            Some(dispatcher) => self
                .bus
                .subscribe(Target::Owner(server), dispatcher.clone()),
            None => SubscriptionGuard(Box::new(|| {})),
        }
    }

    /// Returns the stored state of a server, or of one user's connection to it.
    pub fn stored_state(
        &self,
        server: &Server,
        handle: &ServerHandle,
        user: Option<UserName>,
    ) -> StoredState {
        StoredState {
            sealed_store: self.sealed_store.clone(),
            appender: self.appender.clone(),
            grants: self.grants.clone(),
            server: server.id,
            user,
            target: ConnectionTarget::current(server),
            session_id: handle.session_id.clone(),
            stored: Arc::default(),
            lease: handle.lease.clone(),
        }
    }

    /// Removes the handle of a server whose supervisor has ended.
    pub(super) fn remove_handle(&self, handle: &ServerHandle) {
        let _changing = self.handles_lock.lock();
        let mut handles = HashMap::clone(&self.handles.load());
        handles.remove(&handle.id);
        self.handles.store(Arc::new(handles));
    }

    /// Hands the servers over to other workers: each server stops as soon as its own calls are done.
    pub async fn hand_over(&self) {
        let handles: Vec<_> = {
            let _changing = self.handles_lock.lock();
            self.leaving.cancel();
            self.handles.load().values().cloned().collect()
        };
        self.publish(vec![], true);
        let draining = handles.iter().map(async |handle| {
            handle.drain_calls(self.limits.calls_per_server).await;
            handle.shut_down().await;
        });
        futures::future::join_all(draining).await;
    }

    /// Stops all servers side by side.
    pub async fn shut_down(&self) {
        let handles: Vec<_> = {
            // A change may add a handle at this moment. This list contains it, or its supervisor sees `ending`.
            let _changing = self.handles_lock.lock();
            self.leaving.cancel();
            self.ending.cancel();
            self.handles.load().values().cloned().collect()
        };
        futures::future::join_all(handles.iter().map(|handle| handle.shut_down())).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.publish(vec![], true);
    }

    /// Returns the logs of those servers that this worker has.
    pub fn logs(&self, servers: &[ServerId]) -> Vec<ServerLogs> {
        let handles = self.handles.load();
        let handles = servers.iter().filter_map(|id| handles.get(id));
        handles
            .map(|handle| ServerLogs {
                server: handle.id,
                logs: handle.log_buffer.lines(),
                session_id: handle.session_id.load().as_deref().cloned(),
                tools: handle.tools.unrecorded().as_deref().cloned(),
            })
            .collect()
    }

    /// Reports the status of one server to facades and other workers.
    pub fn publish_status(&self, handle: &ServerHandle) {
        let leaving = self.leaving.is_cancelled();
        self.publish(vec![(handle.id, handle.live())], leaving);
    }

    fn publish(&self, servers: Vec<(ServerId, ServerStatus)>, leaving: bool) {
        let status = WorkerStatus {
            worker: self.worker,
            servers,
            leaving,
            key: Some(self.sealed_store.sealer.key_id()),
        };
        match serde_json::to_vec(&status) {
            Ok(status) => self.bus.publish(Hint::Status(status.into())),
            Err(error) => tracing::error!(%error, "cannot encode a status report"),
        }
    }
}

/// Reports the status of all servers every two seconds. An empty report says that this worker lives.
async fn report_statuses(manager: Arc<ServerManager>) {
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    loop {
        ticks.tick().await;
        let statuses: Vec<_> = {
            let handles = manager.handles.load();
            let owned = handles
                .values()
                .filter(|handle| !handle.is_owned_elsewhere());
            owned.map(|handle| (handle.id, handle.live())).collect()
        };
        let leaving = manager.leaving.is_cancelled();
        if statuses.is_empty() {
            manager.publish(vec![], leaving);
        }
        for page in statuses.chunks(SERVERS_PER_REPORT) {
            manager.publish(page.to_vec(), leaving);
        }
    }
}

/// Creates handles for the servers that other workers have registered, and notifies the supervisors whose servers the
/// catalog has changed.
async fn follow_catalog(manager: Arc<ServerManager>) {
    let mut positions = manager.projection.subscribe();
    if !manager.alone {
        tokio::time::sleep(FIRST_REPORTS).await;
    }
    let mut seen = SeenServers::default();
    loop {
        seen.follow(&manager);
        if positions.changed().await.is_err() {
            return;
        }
    }
}

/// The state of the servers when the manager last compared them.
#[derive(Default)]
struct SeenServers {
    catalog: Option<Position>,
    servers: HashMap<ServerId, Position>,
}

impl SeenServers {
    fn follow(&mut self, manager: &Arc<ServerManager>) {
        let catalog = manager.projection.catalog();
        if self.catalog == Some(catalog.servers_changed) {
            return;
        }
        self.catalog = Some(catalog.servers_changed);
        let servers: Vec<_> = catalog.servers().into_iter().cloned().collect();
        drop(catalog);
        for server in servers.iter().filter(|server| server.enabled) {
            if !manager.leaving.is_cancelled() {
                let eager = manager.alone || server.exclusive_id().is_none();
                manager.handle_or_create(server, eager);
            }
        }
        for server in self.changed_servers(&servers) {
            self.notify_supervisor(manager, server);
        }
    }

    /// Returns the servers that are new, changed or deleted since the last call.
    fn changed_servers(&mut self, servers: &[Arc<Server>]) -> Vec<ServerId> {
        let now: HashMap<_, _> = servers
            .iter()
            .map(|server| (server.id, server.changed))
            .collect();
        let before = std::mem::replace(&mut self.servers, now);
        let now = &self.servers;
        let changed = now
            .iter()
            .filter(|(id, changed)| before.get(id) != Some(changed));
        let deleted = before.keys().filter(|id| !now.contains_key(id));
        changed.map(|(id, _)| *id).chain(deleted.copied()).collect()
    }

    /// Notifies the supervisor of a changed server. If another worker owns the server, only its end matters here.
    fn notify_supervisor(&self, manager: &ServerManager, server: ServerId) {
        if let Some(handle) = manager.existing_handle(server)
            && (!handle.is_owned_elsewhere() || !manager.projection.catalog().is_enabled(server))
        {
            handle.catalog_changed.notify_one();
        }
    }
}

/// Renews the leases of this worker and the lives of its children. If a lease is not renewed, the guard kills the child
/// before the lease ends.
async fn renew_leases(manager: Arc<ServerManager>) {
    let ttl = manager.limits.lease_ttl;
    let mut ticks = tokio::time::interval(ttl / 4);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A lease begins with its request at the latest.
        let requested = monotonic();
        let renewed = manager.leases.renew(manager.worker, ttl).await;
        if let Err(error) = &renewed {
            tracing::warn!(error = error_chain(&error), "leases could not be renewed");
        }
        match &renewed {
            Ok(held) if held.contains(&manager.own_id()) => manager.own.extend(requested, ttl),
            Ok(_) => manager.own.refuse(requested),
            Err(_) => {}
        }
        for handle in manager.handles().values() {
            match &renewed {
                // A shared server needs no lease. It needs a worker that is not stopped.
                _ if handle.lease.is_shared() && handle.lease.is_held() => {
                    handle.lease.extend(requested, ttl);
                }
                Ok(held) if held.contains(&handle.id.into()) => {
                    handle.lease.extend(requested, ttl);
                }
                Ok(_) => handle.lease.refuse(requested),
                Err(_) => continue,
            }
            handle.child.renew(handle.lease.left());
        }
    }
}

/// Removes unused connections, and masked values that are not stored any more.
async fn expire_unused(manager: Arc<ServerManager>) {
    let idle = manager.limits.user_idle;
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL.min(idle / 2));
    loop {
        ticks.tick().await;
        let handles: Vec<_> = manager.handles.load().values().cloned().collect();
        for handle in handles {
            handle.users.end_idle(&manager, &handle, idle);
            handle.expire_watches(&manager);
            let manager = manager.clone();
            // A server may have a million values, and calls must not wait for them.
            let expiring = tokio::task::spawn_blocking(move || expire_values(&manager, &handle));
            if let Err(error) = expiring.await {
                tracing::error!(%error, "the masked values of a server could not be expired");
            }
        }
    }
}

/// Removes masked values that are not stored any more.
fn expire_values(manager: &ServerManager, handle: &ServerHandle) {
    let idle = handle.redactor.idle_values();
    if idle.is_empty() {
        return;
    }
    let server = manager
        .projection
        .catalog()
        .server_by_id(handle.id)
        .cloned();
    let values = server.iter().flat_map(|server| server.values());
    let stored: HashSet<ValueId> = values.filter(|value| idle.contains(value)).collect();
    let is_stored = |value| stored.contains(&value) || !idle.contains(&value);
    handle.redactor.expire(is_stored);
}
