//! The processes and connections of single users: of users with grants, and of all users of a server whose credentials
//! belong to a process or to a connection. No other user shares them.
//!
//! The first call of a user starts a connection. It ends when its credentials, the grant or the configuration change, or
//! after a time without calls. The lease of the server covers the connections of all its users.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use arc_swap::ArcSwapOption;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::handle::{ServerHandle, server_disabled};
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::shutdown::finish_calls;
use super::user_pool::{UserConnectionKind, UserPermit};
use super::user_start::connect;
use crate::core::catalog::server::Server;
use crate::core::decide::credential::connection_values;
use crate::core::failure::Failure;
use crate::core::ids::{Position, ValueId};
use crate::core::names::UserName;
use crate::telemetry::error::internal_error;
use crate::time::clock::{monotonic, now_ms};
use crate::workers::credentials::being_changed;
use crate::workers::mcp::{Connection, ResourceWatch};

/// How long a failed attempt counts for other calls of the user that waited for it.
const FAILURE_AGE: Duration = Duration::from_secs(1);
/// Attempts of one call, if the values or the server change again and again.
const ATTEMPTS: usize = 3;

/// The connections of the users of one server.
#[derive(Default)]
pub struct UserConnections {
    by_user: Mutex<HashMap<UserName, Arc<UserConnection>>>,
    /// The change of the server since which the tool list of a user was recorded.
    pub(super) listed: Mutex<Option<Position>>,
}

/// The process or the connection of one user.
pub(super) struct UserConnection {
    pub(super) version: ConnectionVersion,
    pub(super) kind: UserConnectionKind,
    connection: ArcSwapOption<Connection>,
    /// The attempt to connect that runs, or that failed last.
    attempt: Mutex<Option<Attempt>>,
    /// Cancelled when no call may get this connection any more.
    replaced: CancellationToken,
    pub(super) permit: Mutex<Option<UserPermit>>,
    /// The lines of this connection alone.
    pub(super) own_lines: Arc<LogBuffer>,
    /// The resources that the user watches.
    pub(super) watch: Arc<ResourceWatch>,
    /// Calls that have the connection or wait for it.
    calls: AtomicUsize,
    /// The start or the end of the last call in milliseconds since 1970.
    last_use_ms: AtomicU64,
}

/// An attempt to connect. It goes on if a call that waits for it ends, and each call of the user gets its outcome.
#[derive(Clone)]
struct Attempt {
    began: Instant,
    outcome: Shared<BoxFuture<'static, Result<Arc<Connection>, Failure>>>,
}

/// All that a connection was made for.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ConnectionVersion {
    server: Position,
    grant: Option<Position>,
    /// The values of the credentials that belong to the process or to the connection.
    pub(super) values: Vec<ValueId>,
}

impl ConnectionVersion {
    /// Returns the version that the catalog asks for.
    ///
    /// # Errors
    /// `credential_required`.
    fn current(server: &Server, user: &UserName) -> Result<Self, Failure> {
        Ok(Self {
            server: server.changed,
            grant: server.grant(Some(user)).map(|grant| grant.since),
            values: connection_values(server, Some(user))?,
        })
    }
}

/// The connection of a user for one call. While it exists, the connection does not end for lack of calls.
pub struct UserCall {
    entry: CountedCall,
    pub connection: Arc<Connection>,
}

impl UserCall {
    /// Returns the lines that the process or the server of this user printed since a moment.
    pub fn output_since(&self, since_ms: u64) -> Option<String> {
        self.entry.0.own_lines.output_since(since_ms)
    }
}

/// Counts a call until it is dropped.
struct CountedCall(Arc<UserConnection>);

impl CountedCall {
    fn new(entry: &Arc<UserConnection>) -> Self {
        entry.calls.fetch_add(1, Ordering::AcqRel);
        entry.last_use_ms.store(now_ms(), Ordering::Relaxed);
        Self(entry.clone())
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.0.last_use_ms.store(now_ms(), Ordering::Relaxed);
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UserConnections {
    /// Returns whether a user of this server has a connection of their own.
    pub fn serve(server: &Server, user: &UserName) -> bool {
        server.config.separates_users() || server.grant(Some(user)).is_some()
    }

    /// Returns the connection of a user, and connects if there is none. The caller limits the time.
    ///
    /// # Errors
    /// `credential_required`, or the failure of the attempt. A call that waited for the attempt of another call gets the
    /// same failure.
    pub async fn connection(
        &self,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        user: &UserName,
    ) -> Result<UserCall, Failure> {
        for _ in 0..ATTEMPTS {
            let (call, server) = self.begin_call(manager, handle, user)?;
            let entry = call.0.clone();
            if let Some(connection) = entry.open_connection() {
                return Ok(UserCall {
                    entry: call,
                    connection,
                });
            }
            let outcome = entry.attempt(manager, handle, &server, user).await;
            match outcome {
                Ok(connection) => {
                    return Ok(UserCall {
                        entry: call,
                        connection,
                    });
                }
                // A value or the server has changed during the attempt.
                Err(_) if entry.replaced.is_cancelled() => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(being_changed())
    }

    /// Counts a call for the entry of the user. An outdated entry is replaced, and its connection ends.
    fn begin_call(
        &self,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        user: &UserName,
    ) -> Result<(CountedCall, Arc<Server>), Failure> {
        let mut by_user = self.by_user.lock();
        // The catalog is read under the lock, so an older catalog never brings older credentials back.
        let server = manager
            .projection
            .catalog()
            .server_by_id(handle.id)
            .cloned()
            .ok_or_else(|| Failure::server_not_found(&handle.name))?;
        if !server.enabled {
            return Err(server_disabled(&server.name));
        }
        let version = ConnectionVersion::current(&server, user)?;
        if let Some(entry) = by_user.get(user).filter(|entry| entry.version == version) {
            return Ok((CountedCall::new(entry), server));
        }
        let entry = Arc::new(UserConnection {
            version,
            kind: UserConnectionKind::for_config(&server.config),
            connection: ArcSwapOption::empty(),
            attempt: Mutex::default(),
            replaced: CancellationToken::new(),
            permit: Mutex::default(),
            own_lines: Arc::default(),
            watch: Arc::new(ResourceWatch::new(handle.watches.uris_of(user))),
            calls: AtomicUsize::new(0),
            last_use_ms: AtomicU64::new(now_ms()),
        });
        let call = CountedCall::new(&entry);
        if let Some(outdated) = by_user.insert(user.clone(), entry) {
            let ending = end(manager.clone(), handle.clone(), outdated);
            manager.tasks.spawn(ending);
        }
        Ok((call, server))
    }

    /// Publishes a new connection. Returns false if the catalog asks for another one or for none since the attempt began.
    fn publish(
        &self,
        manager: &Arc<ServerManager>,
        handle: &ServerHandle,
        user: &UserName,
        entry: &Arc<UserConnection>,
        connection: &Arc<Connection>,
    ) -> bool {
        let by_user = self.by_user.lock();
        let is_listed = by_user
            .get(user)
            .is_some_and(|listed| Arc::ptr_eq(listed, entry));
        let catalog = manager.projection.catalog();
        let server = catalog
            .server_by_id(handle.id)
            .filter(|server| server.enabled);
        let wanted = server.and_then(|server| ConnectionVersion::current(server, user).ok());
        if is_listed && wanted.as_ref() == Some(&entry.version) && handle.lease.is_held() {
            entry.connection.store(Some(connection.clone()));
            return true;
        }
        entry.replaced.cancel();
        false
    }

    /// Returns the user whose connection was idle for longest, and since when.
    pub(super) fn longest_idle(&self, kind: UserConnectionKind) -> Option<(UserName, u64)> {
        let by_user = self.by_user.lock();
        let idle = by_user
            .iter()
            .filter(|(_, entry)| entry.kind == kind && entry.is_idle());
        let idle = idle.filter(|(_, entry)| entry.permit.lock().is_some());
        idle.map(|(user, entry)| (user, entry.last_use_ms.load(Ordering::Relaxed)))
            .min_by_key(|(_, since)| *since)
            .map(|(user, since)| (user.clone(), since))
    }

    /// Ends the connection of a user that is idle since `since`. The future waits for its end.
    pub(super) fn end_if_idle(
        &self,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        user: &UserName,
        since: u64,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let mut by_user = self.by_user.lock();
        let entry = by_user.get(user)?;
        if !entry.is_idle() || entry.last_use_ms.load(Ordering::Relaxed) != since {
            return None;
        }
        let entry = by_user.remove(user)?;
        Some(end(manager.clone(), handle.clone(), entry))
    }

    /// Ends the connections that the catalog does not ask for any more. Running calls may end.
    pub(super) fn end_outdated(&self, manager: &Arc<ServerManager>, handle: &Arc<ServerHandle>) {
        if self.by_user.lock().is_empty() {
            return;
        }
        self.end_those(manager, handle, |server, user, entry| {
            let server = server.filter(|server| server.enabled && Self::serve(server, user));
            let wanted = server.and_then(|server| ConnectionVersion::current(server, user).ok());
            wanted.as_ref() != Some(&entry.version)
        });
    }

    /// Ends the connections without a call for this time, and those whose process or server has ended.
    pub(super) fn end_idle(
        &self,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        limit: Duration,
    ) {
        let oldest = now_ms().saturating_sub(limit.as_millis() as u64);
        self.end_those(manager, handle, |_, _, entry| {
            let is_old = entry.last_use_ms.load(Ordering::Relaxed) <= oldest;
            entry.is_idle() && (is_old || entry.has_ended())
        });
    }

    fn end_those(
        &self,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        must_end: impl Fn(Option<&Server>, &UserName, &UserConnection) -> bool,
    ) {
        let mut by_user = self.by_user.lock();
        let catalog = manager.projection.catalog();
        let server = catalog.server_by_id(handle.id).map(Arc::as_ref);
        let ending: Vec<_> = by_user
            .extract_if(|user, entry| must_end(server, user, entry))
            .collect();
        for (_, entry) in ending {
            let ending = end(manager.clone(), handle.clone(), entry);
            manager.tasks.spawn(ending);
        }
    }

    /// Returns the watched resources of every user with a connection.
    pub(super) fn watches(&self) -> Vec<(UserName, Arc<ResourceWatch>)> {
        let by_user = self.by_user.lock();
        let watches = by_user.iter();
        watches
            .map(|(user, entry)| (user.clone(), entry.watch.clone()))
            .collect()
    }

    /// Returns the watched resources of the open connections.
    pub(super) fn open_watches(&self) -> Vec<Arc<ResourceWatch>> {
        let by_user = self.by_user.lock();
        let open = by_user.values().filter(|entry| !entry.has_ended());
        open.map(|entry| entry.watch.clone()).collect()
    }

    /// Stops all connections, because this worker does not own the server any more.
    pub(super) async fn stop_all(&self, manager: &ServerManager, handle: &ServerHandle) {
        let entries: Vec<_> = self
            .by_user
            .lock()
            .drain()
            .map(|(_, entry)| entry)
            .collect();
        let stopping = entries.iter().map(async |entry| {
            entry.replaced.cancel();
            let Some(connection) = entry.connection.swap(None) else {
                return;
            };
            if handle.lease.is_held() {
                finish_calls(&connection).await;
            }
            let _ending = manager.users.ending(entry.kind);
            if handle.lease.is_held() {
                connection.end().await;
            } else {
                // Another worker may start the processes at any moment, so this one gets no time for its end.
                connection.kill().await;
            }
            entry.permit.lock().take();
        });
        futures::future::join_all(stopping).await;
    }
}

impl UserConnection {
    /// Joins the attempt that runs, or begins another one. A failure counts for a second.
    async fn attempt(
        self: &Arc<Self>,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        server: &Arc<Server>,
        user: &UserName,
    ) -> Result<Arc<Connection>, Failure> {
        let attempt = {
            let mut current = self.attempt.lock();
            let joins = current.as_ref().filter(|attempt| {
                let has_failed = matches!(attempt.outcome.peek(), Some(Err(_)));
                let has_ended = attempt.outcome.peek().is_some();
                !has_ended || (has_failed && attempt.began.elapsed() < FAILURE_AGE)
            });
            match joins {
                Some(attempt) => attempt.clone(),
                None => {
                    let attempt = Attempt {
                        began: monotonic(),
                        outcome: self.begin_attempt(manager, handle, server, user),
                    };
                    *current = Some(attempt.clone());
                    attempt
                }
            }
        };
        attempt.outcome.await
    }

    /// Connects in a task of its own, so that a call that gives up does not end the start.
    fn begin_attempt(
        self: &Arc<Self>,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        server: &Arc<Server>,
        user: &UserName,
    ) -> Shared<BoxFuture<'static, Result<Arc<Connection>, Failure>>> {
        let call = CountedCall::new(self);
        let (manager, handle) = (manager.clone(), handle.clone());
        let (server, user) = (server.clone(), user.clone());
        let tasks = manager.tasks.clone();
        let connecting = async move {
            let entry = &call.0;
            let connected = entry
                .replaced
                .run_until_cancelled(connect(&manager, &handle, &server, &user, entry))
                .await
                .unwrap_or_else(|| Err(being_changed()));
            let failure = match connected {
                Ok(connection) => {
                    let users = &handle.users;
                    if users.publish(&manager, &handle, &user, entry, &connection) {
                        return Ok(connection);
                    }
                    connection.end().await;
                    being_changed()
                }
                Err(failure) => failure,
            };
            entry.permit.lock().take();
            Err(failure)
        };
        let task = tasks.spawn(connecting);
        async move {
            task.await
                .unwrap_or_else(|error| Err(internal_error(error)))
        }
        .boxed()
        .shared()
    }

    fn open_connection(&self) -> Option<Arc<Connection>> {
        let connection = self.connection.load_full()?;
        (!connection.is_closed()).then_some(connection)
    }

    fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Acquire) == 0
    }

    fn has_ended(&self) -> bool {
        let connection = self.connection.load();
        connection
            .as_ref()
            .is_none_or(|connection| connection.is_closed())
    }
}

/// Ends a connection that no new call reaches. Running calls end within their own times.
async fn end(manager: Arc<ServerManager>, handle: Arc<ServerHandle>, entry: Arc<UserConnection>) {
    entry.replaced.cancel();
    let Some(connection) = entry.connection.load_full() else {
        return;
    };
    let is_lost = tokio::select! {
        () = connection.idle() => false,
        () = connection.closed() => false,
        () = handle.lease.ended() => true,
        () = manager.ending.cancelled() => {
            finish_calls(&connection).await;
            false
        }
    };
    entry.connection.store(None);
    let _ending = manager.users.ending(entry.kind);
    if entry.kind == UserConnectionKind::Connection {
        // Only the server's session is left to end, and another user must not wait for that.
        entry.permit.lock().take();
    }
    if is_lost {
        connection.kill().await;
    } else {
        connection.end().await;
    }
    entry.permit.lock().take();
}
