//! The resources that the open streams of this facade watch. The facade repeats them to the workers, so that a worker that
//! starts a server later knows them too.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::cluster::command_client::{CommandClient, CommandRequest};
use crate::core::catalog::server::Server;
use crate::core::command::watch::{MAX_WATCHED, WatchResources, WatchedResource};
use crate::core::command::{Area, Command as _};
use crate::core::failure::Failure;
use crate::core::ids::{FacadeId, ServerId};
use crate::eventlog::projection::Projection;
use crate::ports::bus::Target;
use crate::telemetry::error::internal_error;

/// The time between two repeats. A worker drops a list after three times this time.
const REPEAT: Duration = Duration::from_secs(20);
/// The longest time for one list. The worker waits for its server for a shorter time.
const SEND_LIMIT: Duration = Duration::from_secs(12);
/// Lists that are sent at the same time.
const SENT_AT_ONCE: usize = 16;

/// A resource that a user watches at a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct WatchKey {
    pub server: ServerId,
    pub resource: WatchedResource,
}

/// The watched resources of this facade.
pub struct WatchTable {
    facade: FacadeId,
    commands: CommandClient,
    projection: Arc<Projection>,
    state: Mutex<TableState>,
    /// Notified when a list must be sent.
    changed: Notify,
}

#[derive(Default)]
struct TableState {
    servers: HashMap<ServerId, ServerList>,
    /// The number of resources of all servers.
    total: usize,
    /// The number of the newest list.
    number: u64,
    unsent: HashSet<ServerId>,
}

/// The resources of one server, with the number of streams that watch each. A resource without a stream stays until the next
/// repeat, because a client often watches it again at once.
type ServerList = BTreeMap<WatchedResource, usize>;

/// Keeps resources watched until it is dropped.
pub(super) struct WatchGuard {
    table: Arc<WatchTable>,
    keys: Vec<WatchKey>,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        let mut state = self.table.state.lock();
        for key in &self.keys {
            let list = state.servers.get_mut(&key.server);
            if let Some(count) = list.and_then(|list| list.get_mut(&key.resource)) {
                *count -= 1;
            }
        }
    }
}

impl WatchTable {
    pub(super) fn new(commands: CommandClient, projection: Arc<Projection>) -> Arc<Self> {
        Arc::new(Self {
            facade: FacadeId(Uuid::now_v7()),
            commands,
            projection,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Returns the id of this run of the facade.
    pub fn facade(&self) -> FacadeId {
        self.facade
    }

    /// Watches resources until the guard is dropped. The workers learn it soon; [`Self::send_lists`] waits for that.
    ///
    /// # Errors
    /// `unavailable` if the facade watches too many resources.
    pub(super) fn watch(self: &Arc<Self>, keys: Vec<WatchKey>) -> Result<WatchGuard, Failure> {
        let mut state = self.state.lock();
        if state.total + state.new_keys(&keys).len() > MAX_WATCHED {
            state.remove_unwatched();
        }
        let new_keys = state.new_keys(&keys);
        if state.total + new_keys.len() > MAX_WATCHED {
            return Err(Failure::unavailable(format!(
                "This process watches too many resources (at most {MAX_WATCHED}); retry in a moment"
            )));
        }
        let needs_send = !new_keys.is_empty();
        state.total += new_keys.len();
        state.unsent.extend(new_keys.iter().map(|key| key.server));
        for key in &keys {
            let list = state.servers.entry(key.server).or_default();
            *list.entry(key.resource.clone()).or_default() += 1;
        }
        drop(state);
        if needs_send {
            self.changed.notify_one();
        }
        Ok(WatchGuard {
            table: self.clone(),
            keys,
        })
    }

    /// Sends the lists of these servers to their workers, and waits until the workers have them. A list that cannot be sent is
    /// repeated later.
    pub(super) async fn send_lists(&self, servers: impl IntoIterator<Item = ServerId>) {
        futures::stream::iter(servers)
            .map(|server| self.send_list(server))
            .buffer_unordered(SENT_AT_ONCE)
            .collect::<()>()
            .await;
    }

    async fn send_list(&self, id: ServerId) {
        let server = self.projection.catalog().server_by_id(id).cloned();
        let Some(server) = server.filter(|server| server.enabled) else {
            return;
        };
        let Some(command) = self.next_list(&server) else {
            return;
        };
        if let Err(failure) = self.send(&server, &command).await {
            tracing::debug!(server = %server.name, code = failure.code.as_str(), "cannot send the watched resources");
        }
    }

    /// Returns the present list of a server under a new number.
    fn next_list(&self, server: &Server) -> Option<WatchResources> {
        let mut state = self.state.lock();
        state.unsent.remove(&server.id);
        state.number += 1;
        let number = state.number;
        let list = state.servers.get(&server.id)?;
        Some(WatchResources {
            facade: self.facade,
            number,
            server: server.name.clone(),
            resources: list.keys().cloned().collect(),
        })
    }

    /// Sends a list to the owner of the server, or to all workers that run it.
    async fn send(&self, server: &Server, command: &WatchResources) -> Result<(), Failure> {
        let owned = server.exclusive_id();
        let statuses = self.commands.registry().server_statuses(&[server.id]);
        let workers = statuses.into_iter().flat_map(|(_, workers)| workers);
        let workers: Vec<_> = workers.filter(|_| owned.is_none()).collect();
        if workers.is_empty() {
            let body = serde_json::to_vec(command).map_err(internal_error)?;
            let request = CommandRequest {
                area: Area::Tools,
                server: owned,
                command: WatchResources::NAME,
                call: None,
                client: None,
                interim: None,
                body: Bytes::from(body),
                traceparent: None,
                meta: None,
                time: SEND_LIMIT,
            };
            return self.commands.send(&request).await.map(drop);
        }
        let sent = workers.into_iter().map(|worker| {
            let target = Target::Worker(worker);
            self.commands.send_to(target, command, SEND_LIMIT)
        });
        let sent = futures::future::join_all(sent).await;
        sent.into_iter().collect()
    }

    /// Sends new lists soon, and repeats all lists, until the process ends.
    pub(super) async fn repeat(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(REPEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let servers: Vec<_> = tokio::select! {
                _ = ticks.tick() => self.state.lock().begin_repeat(),
                () = self.changed.notified() => self.state.lock().unsent.drain().collect(),
            };
            self.send_lists(servers).await;
            self.state.lock().remove_empty();
        }
    }
}

impl TableState {
    fn contains(&self, key: &WatchKey) -> bool {
        let list = self.servers.get(&key.server);
        list.is_some_and(|list| list.contains_key(&key.resource))
    }

    /// Returns those keys that no stream watches yet, each once.
    fn new_keys(&self, keys: &[WatchKey]) -> HashSet<WatchKey> {
        let new = keys.iter().filter(|key| !self.contains(key));
        new.cloned().collect()
    }

    /// Removes the resources without a stream. Their servers keep an empty list, which is sent once.
    fn remove_unwatched(&mut self) {
        let mut total = 0;
        for list in self.servers.values_mut() {
            list.retain(|_, count| *count > 0);
            total += list.len();
        }
        self.total = total;
    }

    /// Returns the servers whose lists are sent again.
    fn begin_repeat(&mut self) -> Vec<ServerId> {
        self.remove_unwatched();
        self.servers.keys().copied().collect()
    }

    fn remove_empty(&mut self) {
        let unsent = &self.unsent;
        self.servers
            .retain(|server, list| !list.is_empty() || unsent.contains(server));
    }
}
