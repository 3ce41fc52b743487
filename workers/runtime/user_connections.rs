//! Connections of users who have given access of their own: each has a session that nobody else uses.
//!
//! They are made when they are first needed, and end with the server's configuration, with the grant, or unused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::connect::{ConnectionDeps, open_connection};
use super::handle::ServerHandle;
use super::manager::ServerManager;
use super::tool_sync::record;
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;
use crate::core::model::grant::Grant;
use crate::core::names::UserName;
use crate::time::clock::now_ms;
use crate::workers::mcp::{ConnectError, Connection};

/// Users of one server that are connected at once; the one not heard of for longest goes first.
const USERS: usize = 1000;
/// How long a connection is kept that nobody uses.
const IDLE: Duration = Duration::from_secs(600);
/// Who waited for an attempt that failed fails with it.
const FAILED: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct UserConnections(Mutex<HashMap<UserName, Arc<UserConnection>>>);

/// One user's connection.
struct UserConnection {
    /// The server as it was configured, and the grant.
    of: (Position, Position),
    connection: ArcSwapOption<Connection>,
    /// Held by the one who connects; how that failed last.
    connecting: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    /// Milliseconds since 1970.
    used: AtomicU64,
}

impl UserConnections {
    /// The user's connection, which is made where there is none. The caller limits the time.
    pub async fn connection(
        &self,
        manager: &ServerManager,
        handle: &ServerHandle,
        server: &Server,
        user: &UserName,
        grant: Grant,
    ) -> Result<Arc<Connection>, Failure> {
        let own = self.own(user, (server.changed, grant.since));
        if let Some(connection) = own.connected() {
            return Ok(connection);
        }
        let mut failed = own.connecting.lock().await;
        if let Some(connection) = own.connected() {
            return Ok(connection);
        }
        if let Some((at, failure)) = &*failed
            && at.elapsed() < FAILED
        {
            return Err(failure.clone());
        }
        let connected = connect(manager, handle, server, user).await;
        match &connected {
            Ok(connection) => own.connection.store(Some(connection.clone())),
            Err(failure) => *failed = Some((Instant::now(), failure.clone())),
        }
        connected
    }

    fn own(&self, user: &UserName, of: (Position, Position)) -> Arc<UserConnection> {
        let mut users = self.lock();
        if let Some(own) = users.get(user).filter(|own| own.of == of) {
            own.used.store(now_ms(), Ordering::Relaxed);
            return own.clone();
        }
        if users.len() >= USERS
            && let Some(oldest) = users
                .iter()
                .min_by_key(|(_, own)| own.used.load(Ordering::Relaxed))
        {
            let oldest = oldest.0.clone();
            users.remove(&oldest);
        }
        let (connection, connecting) = (ArcSwapOption::empty(), tokio::sync::Mutex::default());
        let own = Arc::new(UserConnection {
            of,
            connection,
            connecting,
            used: AtomicU64::new(now_ms()),
        });
        users.insert(user.clone(), own.clone());
        own
    }

    /// Drops what nobody uses. To be called now and then.
    pub fn forget(&self) {
        let old = now_ms().saturating_sub(IDLE.as_millis() as u64);
        self.lock()
            .retain(|_, own| own.used.load(Ordering::Relaxed) > old);
    }

    /// Another worker is to run the server. Calls under way end with their answers.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserName, Arc<UserConnection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserConnection {
    fn connected(&self) -> Option<Arc<Connection>> {
        self.connection
            .load_full()
            .filter(|connection| !connection.is_closed())
    }
}

async fn connect(
    manager: &ServerManager,
    handle: &ServerHandle,
    server: &Server,
    user: &UserName,
) -> Result<Arc<Connection>, Failure> {
    let shared = ConnectionDeps {
        log_buffer: handle.log_buffer.clone(),
        redactor: handle.redactor.clone(),
        tools_changed: Arc::default(),
        result_limit: manager.limits.result,
        child: handle.child.clone(),
        ttl: handle.lease.left(),
        remote: manager.memory(server, handle, Some(user.clone())),
    };
    let limit = Duration::from_millis(server.config.startup_timeout_ms());
    let connected = tokio::time::timeout(limit, open_connection(server, None, &shared)).await;
    match connected {
        Ok(Ok((connection, tools))) => {
            // Where nobody else can list them, a user's tools are better than none.
            if server.tools.tools.is_empty() {
                record(manager, handle, tools).await;
            }
            Ok(Arc::new(connection))
        }
        Ok(Err(ConnectError {
            denied: Some(denied),
            ..
        })) => Err(*denied),
        Ok(Err(ConnectError {
            reason,
            denied: None,
        })) => {
            let reason = handle.redactor.mask(&reason);
            handle.log_buffer.push(
                "transport",
                &format!("a user could not be connected: {reason}"),
            );
            let failed = format!(
                "Server {} could not be connected for user {user}: {reason}",
                server.name
            );
            Err(Failure::new(Code::UpstreamError, failed))
        }
        Err(_) => {
            let late = format!(
                "Server {} was not ready within {} ms (startupTimeout)",
                server.name,
                limit.as_millis()
            );
            Err(Failure::new(Code::UpstreamError, late))
        }
    }
}
