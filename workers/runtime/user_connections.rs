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
use parking_lot::Mutex;

use super::connect::{ConnectionDeps, open_connection};
use super::description_sync::record_description;
use super::handle::{ServerHandle, server_disabled};
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::shutdown::finish_calls;
use super::tool_sync::{ListOrigin, record_tools};
use super::upgrade::build_package;
use super::user_pool::{UserConnectionKind, UserPermit, UserPool};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::connection_values;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{Position, ValueId};
use crate::core::model::tool::Tools;
use crate::core::names::UserName;
use crate::time::clock::{monotonic, now_ms};
use crate::workers::mcp::{ConnectError, Connection};

/// How long a failed attempt counts for other calls of the user that waited for it.
const FAILURE_AGE: Duration = Duration::from_secs(1);

/// The connections of the users of one server.
#[derive(Default)]
pub struct UserConnections {
    by_user: Mutex<HashMap<UserName, Arc<UserConnection>>>,
    /// The change of the server since which the tool list of a user was recorded.
    listed: Mutex<Option<Position>>,
}

/// The process or the connection of one user.
struct UserConnection {
    version: ConnectionVersion,
    kind: UserConnectionKind,
    connection: ArcSwapOption<Connection>,
    /// Locked by the call that connects. Contains the last failure.
    last_failure: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    permit: Mutex<Option<UserPermit>>,
    /// The lines of this connection alone.
    own_lines: Arc<LogBuffer>,
    /// Calls that have the connection or wait for it.
    calls: AtomicUsize,
    /// The start or the end of the last call in milliseconds since 1970.
    last_use_ms: AtomicU64,
}

/// All that a connection was made for.
#[derive(Clone, PartialEq, Eq)]
struct ConnectionVersion {
    server: Position,
    grant: Option<Position>,
    /// The values of the credentials that belong to the process or to the connection.
    values: Vec<ValueId>,
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
        let (call, server) = self.begin_call(manager, handle, user)?;
        let entry = call.0.clone();
        if let Some(connection) = entry.open_connection() {
            return Ok(UserCall {
                entry: call,
                connection,
            });
        }
        let mut last_failure = entry.last_failure.lock().await;
        if let Some(connection) = entry.open_connection() {
            return Ok(UserCall {
                entry: call,
                connection,
            });
        }
        if let Some((at, failure)) = &*last_failure
            && at.elapsed() < FAILURE_AGE
        {
            return Err(failure.clone());
        }
        match connect(manager, handle, &server, user, &entry).await {
            Ok(connection) => {
                entry.connection.store(Some(connection.clone()));
                Ok(UserCall {
                    entry: call,
                    connection,
                })
            }
            Err(failure) => {
                entry.permit.lock().take();
                *last_failure = Some((monotonic(), failure.clone()));
                Err(failure)
            }
        }
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
            last_failure: tokio::sync::Mutex::default(),
            permit: Mutex::default(),
            own_lines: Arc::default(),
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
    ) -> Option<impl Future<Output = ()> + use<>> {
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

    /// Stops all connections, because this worker does not own the server any more.
    pub(super) async fn stop_all(&self, handle: &ServerHandle) {
        let entries: Vec<_> = self
            .by_user
            .lock()
            .drain()
            .map(|(_, entry)| entry)
            .collect();
        let stopping = entries.iter().map(async |entry| {
            let Some(connection) = entry.connection.swap(None) else {
                return;
            };
            if handle.lease.is_held() {
                finish_calls(&connection).await;
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
    let _ending = manager.users.ending(entry.kind);
    let Some(connection) = entry.connection.load_full() else {
        return;
    };
    tokio::select! {
        () = connection.idle() => connection.end().await,
        () = connection.closed() => connection.end().await,
        () = handle.lease.ended() => connection.kill().await,
        () = manager.ending.cancelled() => {
            finish_calls(&connection).await;
            connection.end().await;
        }
    }
    entry.connection.store(None);
    entry.permit.lock().take();
}

async fn connect(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    server: &Arc<Server>,
    user: &UserName,
    entry: &UserConnection,
) -> Result<Arc<Connection>, Failure> {
    if entry.permit.lock().is_none() {
        let permit = UserPool::acquire(manager, entry.kind).await?;
        *entry.permit.lock() = Some(permit);
    }
    let package = match &server.package {
        Some(installed) => build_package(manager, handle, &installed.package)
            .await
            .map_err(|failure| {
                connect_failure(handle, user, failure.cause)
                    .with_details_for_admins(failure.details)
            })?,
        None => None,
    };
    let deps = ConnectionDeps {
        log_buffer: handle.log_buffer.clone(),
        own_lines: Some(entry.own_lines.clone()),
        redactor: handle.redactor.clone(),
        tools_changed: Arc::default(),
        result_limit: manager.limits.result,
        child: handle.child.clone(),
        ttl: handle.lease.left(),
        remote: manager.memory(server, handle, Some(user.clone())),
    };
    entry.own_lines.begin_run();
    let limit = Duration::from_millis(server.config.startup_timeout_ms());
    let opening = open_connection(server, package, &deps);
    match tokio::time::timeout(limit, opening).await {
        Ok(Ok((connection, tools))) => {
            record_findings(manager, handle, server, &connection, tools).await;
            Ok(Arc::new(connection))
        }
        Ok(Err(error)) => {
            let output = entry.own_lines.output_of_run(0);
            Err(connect_failure(handle, user, error).with_details(output))
        }
        Err(_) => {
            let limit = limit.as_millis();
            let late = format!(
                "Server {} was not ready within {limit} ms (startupTimeout)",
                server.name
            );
            let output = entry.own_lines.output_of_run(0);
            Err(Failure::new(Code::UpstreamError, late).with_details(output))
        }
    }
}

/// Records what the connection of a user says of the server, for all users: the tools if they are not known for this
/// version of the server, and the description if there is none.
async fn record_findings(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    server: &Server,
    connection: &Connection,
    tools: Tools,
) {
    let is_first = handle.users.is_first_list(server);
    if server.tools.tools.is_empty() || is_first {
        if repeats_a_secret(handle, &tools) {
            let line = "the tools of a user are not recorded, because they repeat a credential";
            handle.log_buffer.push("transport", line);
        } else {
            record_tools(manager, handle, ListOrigin::Start, tools).await;
        }
    }
    if server.description.is_none() || is_first {
        record_description(manager, handle, connection).await;
    }
}

impl UserConnections {
    /// Returns whether no user has listed the tools of this version of the server yet.
    fn is_first_list(&self, server: &Server) -> bool {
        let version = Some(server.changed);
        server.config.separates_users()
            && std::mem::replace(&mut *self.listed.lock(), version) != version
    }
}

/// Other users see the recorded tools, so a tool must not repeat the credential of the user who listed it.
fn repeats_a_secret(handle: &ServerHandle, tools: &Tools) -> bool {
    let texts = tools.tools.iter().map(|tool| tool.raw().get());
    let mut masked = texts.map(|text| (text, handle.redactor.mask_json(text)));
    masked.any(|(text, masked)| text != masked)
}

fn connect_failure(handle: &ServerHandle, user: &UserName, error: ConnectError) -> Failure {
    if let Some(denied) = error.denied {
        return *denied;
    }
    let reason = handle.redactor.mask(&error.reason);
    let line = format!("a user could not be connected: {reason}");
    handle.log_buffer.push("transport", &line);
    let sentence = format!(
        "Server {} could not be connected for user {user}: {reason}",
        handle.name
    );
    Failure::new(Code::UpstreamError, sentence)
}
