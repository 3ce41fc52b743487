//! The connections of users with grants of their own. Each of them has a session that no other user shares.
//!
//! The worker connects when a user needs the connection. The connection ends when the configuration or the grant
//! changes, or after a time without calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::connect::{ConnectionDeps, open_connection};
use super::description_sync::record_description;
use super::handle::ServerHandle;
use super::manager::ServerManager;
use super::tool_sync::{ListOrigin, record_tools};
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::core::model::grant::Grant;
use crate::core::names::UserName;
use crate::time::clock::{monotonic, now_ms};
use crate::workers::mcp::Connection;

/// Connected users of one server. Above the limit, the user that was idle for longest is disconnected.
const MAX_USERS: usize = 1000;
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(600);
/// How long a failed attempt counts for other calls of the user that waited for it.
const FAILURE_AGE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct UserConnections(Mutex<HashMap<UserName, Arc<UserConnection>>>);

/// The connection of one user.
struct UserConnection {
    version: ConnectionVersion,
    connection: ArcSwapOption<Connection>,
    /// Locked by the call that connects. Contains the last failure.
    last_failure: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    /// Last use in milliseconds since 1970.
    last_use_ms: AtomicU64,
}

/// The configuration and the grant that a connection was made for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct ConnectionVersion {
    server: Position,
    grant: Position,
}

impl UserConnections {
    /// Returns the connection of a user, and connects if there is none. The caller limits the time.
    ///
    /// # Errors
    /// The failure of the attempt. A call that waited for the attempt of another call gets the same failure.
    pub async fn connection(
        &self,
        manager: &Arc<ServerManager>,
        handle: &Arc<ServerHandle>,
        server: &Server,
        user: &UserName,
        grant: Grant,
    ) -> Result<Arc<Connection>, Failure> {
        let version = ConnectionVersion {
            server: server.changed,
            grant: grant.since,
        };
        let user_connection = self.user_connection(user, version);
        if let Some(connection) = user_connection.open_connection() {
            return Ok(connection);
        }
        let mut last_failure = user_connection.last_failure.lock().await;
        if let Some(connection) = user_connection.open_connection() {
            return Ok(connection);
        }
        if let Some((at, failure)) = &*last_failure
            && at.elapsed() < FAILURE_AGE
        {
            return Err(failure.clone());
        }
        match connect_user(manager, handle, server, user).await {
            Ok(connection) => {
                user_connection.connection.store(Some(connection.clone()));
                Ok(connection)
            }
            Err(failure) => {
                *last_failure = Some((monotonic(), failure.clone()));
                Err(failure)
            }
        }
    }

    fn user_connection(&self, user: &UserName, version: ConnectionVersion) -> Arc<UserConnection> {
        let mut users = self.0.lock();
        let existing = users.get(user);
        if let Some(existing) = existing.filter(|existing| existing.version == version) {
            existing.last_use_ms.store(now_ms(), Ordering::Relaxed);
            return existing.clone();
        }
        if users.len() >= MAX_USERS {
            let last_use =
                |connection: &UserConnection| connection.last_use_ms.load(Ordering::Relaxed);
            let oldest = users
                .iter()
                .min_by_key(|(_, connection)| last_use(connection));
            if let Some(oldest) = oldest.map(|(user, _)| user.clone()) {
                users.remove(&oldest);
            }
        }
        let created = Arc::new(UserConnection {
            version,
            connection: ArcSwapOption::empty(),
            last_failure: tokio::sync::Mutex::default(),
            last_use_ms: AtomicU64::new(now_ms()),
        });
        users.insert(user.clone(), created.clone());
        created
    }

    /// Closes the connections that were not used for ten minutes.
    pub fn expire(&self) {
        let oldest = now_ms().saturating_sub(IDLE.as_millis() as u64);
        self.0
            .lock()
            .retain(|_, connection| connection.last_use_ms.load(Ordering::Relaxed) > oldest);
    }

    /// Closes all connections, because this worker does not own the server any more. Running calls get their replies.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl UserConnection {
    fn open_connection(&self) -> Option<Arc<Connection>> {
        let connection = self.connection.load_full()?;
        (!connection.is_closed()).then_some(connection)
    }
}

async fn connect_user(
    manager: &Arc<ServerManager>,
    handle: &Arc<ServerHandle>,
    server: &Server,
    user: &UserName,
) -> Result<Arc<Connection>, Failure> {
    let deps = ConnectionDeps {
        log_buffer: handle.log_buffer.clone(),
        redactor: handle.redactor.clone(),
        tools_changed: Arc::default(),
        result_limit: manager.limits.result,
        child: handle.child.clone(),
        ttl: handle.lease.left(),
        remote: manager.memory(server, handle, Some(user.clone())),
    };
    let limit = Duration::from_millis(server.config.startup_timeout_ms());
    match tokio::time::timeout(limit, open_connection(server, None, &deps)).await {
        Ok(Ok((connection, tools))) => {
            // If no connection lists the tools for all users, the list of one user is recorded.
            if server.tools.tools.is_empty() {
                record_tools(manager, handle, ListOrigin::Start, tools).await;
            }
            if server.description.is_none() {
                record_description(manager, handle, &connection).await;
            }
            Ok(Arc::new(connection))
        }
        Ok(Err(error)) => match error.denied {
            Some(denied) => Err(*denied),
            None => Err(connection_failure(handle, user, &error.reason)),
        },
        Err(_) => {
            let limit = limit.as_millis();
            let late = format!(
                "Server {} was not ready within {limit} ms (startupTimeout)",
                server.name
            );
            Err(Failure::new(Code::UpstreamError, late))
        }
    }
}

fn connection_failure(handle: &ServerHandle, user: &UserName, reason: &str) -> Failure {
    let reason = handle.redactor.mask(reason);
    let line = format!("a user could not be connected: {reason}");
    handle.log_buffer.push("transport", &line);
    let sentence = format!(
        "Server {} could not be connected for user {user}: {reason}",
        handle.name
    );
    Failure::new(Code::UpstreamError, sentence)
}
