//! One server in this worker: the entry for calls, and the way to its supervisor.

use std::sync::Arc;
use tokio::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::description_sync::DescriptionRecorder;
use super::lease::LocalLease;
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::supervisor::Supervisor;
use super::tool_sync::ToolRecorder;
use super::user_connections::UserConnections;
use super::watches::ResourceWatches;
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::names::ServerName;
use crate::ports::bus::SubscriptionGuard;
use crate::time::clock::monotonic;
use crate::workers::credentials::being_changed;
use crate::workers::guard;
use crate::workers::mcp::Connection;
use crate::workers::redact::Redactor;

/// Commands that may wait in the queue of a supervisor.
const COMMANDS: usize = 64;
/// Requests that may wait for the start of one server. A request above the limit gets the present status at once.
const START_WAITS: usize = 64;

/// One server in this worker.
pub struct ServerHandle {
    pub id: ServerId,
    pub name: ServerName,
    /// The permits of the calls to this server.
    pub permits: Arc<Semaphore>,
    pub log_buffer: Arc<LogBuffer>,
    pub redactor: Arc<Redactor>,
    pub child: Arc<guard::ChildSet>,
    /// The id of the session with a server behind a URL.
    pub session_id: Arc<ArcSwapOption<String>>,
    /// The processes and connections of single users.
    pub users: UserConnections,
    /// The resources that clients watch.
    pub watches: ResourceWatches,
    pub lease: Arc<LocalLease>,
    pub(super) tools: ToolRecorder,
    pub(super) description: DescriptionRecorder,
    /// The subscription to asks for this server. Only the owner has one.
    subscription: Mutex<Option<SubscriptionGuard>>,
    takeover: Mutex<TakeoverState>,
    start_waits: Semaphore,
    /// Notified when the catalog has changed this server, or when its lease may be free.
    pub(super) catalog_changed: Notify,
    pub(super) connection: ArcSwapOption<Connection>,
    pub(super) state: watch::Sender<RunState>,
    pub(super) live: ArcSwap<ServerStatus>,
    commands: mpsc::Sender<SupervisorCommand>,
}

/// Since when another worker owns the server, and when this worker last tried to take it over.
#[derive(Clone, Copy)]
pub(super) struct TakeoverState {
    pub(super) since: Instant,
    pub(super) last_attempt: Option<Instant>,
}

/// The state of a server as a call sees it.
#[derive(Clone)]
pub(super) enum RunState {
    /// A call waits for the start.
    Starting,
    Running(Arc<Connection>),
    /// Only users have processes or connections, or a shared credential is not set yet.
    ForUsers,
    /// A call fails at once.
    Failed(Box<Failure>),
    /// Another worker owns the server, or no worker owns it yet.
    OwnedElsewhere,
    /// The server is disabled.
    Stopped,
    /// The server is deleted, or the worker stops. No other state follows.
    Ended(Box<Failure>),
}

/// A request to the supervisor to compare its server with the catalog.
pub(super) struct SupervisorCommand {
    /// The supervisor stops the server and ignores the catalog.
    pub(super) shut_down: bool,
    /// Gets the status at the next settled state. `None`: another worker owns the server.
    pub(super) reply: oneshot::Sender<Option<ServerStatus>>,
}

impl ServerHandle {
    /// Creates the handle and starts its supervisor. An `eager` supervisor starts the server at once. Any other
    /// supervisor starts it after a command.
    pub(super) fn start(manager: &Arc<ServerManager>, server: &Server, eager: bool) -> Arc<Self> {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let state = if eager {
            RunState::Starting
        } else {
            RunState::OwnedElsewhere
        };
        let handle = Arc::new(Self {
            id: server.id,
            name: server.name.clone(),
            permits: Arc::new(Semaphore::new(manager.limits.calls_per_server)),
            log_buffer: Arc::default(),
            redactor: Arc::default(),
            child: Arc::default(),
            session_id: Arc::default(),
            users: UserConnections::default(),
            watches: ResourceWatches::default(),
            lease: Arc::default(),
            tools: ToolRecorder::default(),
            description: DescriptionRecorder::default(),
            subscription: Mutex::default(),
            takeover: Mutex::new(TakeoverState {
                since: monotonic(),
                last_attempt: None,
            }),
            start_waits: Semaphore::new(START_WAITS),
            catalog_changed: Notify::new(),
            connection: ArcSwapOption::empty(),
            state: watch::Sender::new(state),
            live: ArcSwap::from_pointee(ServerStatus::without_error(ConnectionStatus::Connecting)),
            commands,
        });
        let supervisor = Supervisor::new(handle.clone(), manager.clone(), inbox, eager);
        manager.tasks.spawn(supervisor.run());
        handle
    }

    /// Returns the connection for a call, and waits while the server starts. The caller limits the time.
    ///
    /// # Errors
    /// The failure of the last start, or a failure if the server is disabled or another worker owns it.
    pub async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        if let Some(connection) = self.connection.load_full()
            && !connection.is_closed()
            && self.lease.is_held()
        {
            return Ok(connection);
        }
        let mut states = self.state.subscribe();
        let mut has_asked = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                RunState::Running(connection)
                    if !connection.is_closed() && self.lease.is_held() =>
                {
                    return Ok(connection);
                }
                // The supervisor notices the end of the connection too, and sets another state.
                RunState::Running(_) | RunState::Starting => {}
                RunState::Failed(failure) | RunState::Ended(failure) => return Err(*failure),
                RunState::ForUsers if has_asked => return Err(being_changed()),
                RunState::OwnedElsewhere if has_asked => {
                    return Err(Failure::elsewhere(&self.name));
                }
                // The ask came through the pool, so perhaps no worker owns the server. Or the catalog has changed, so that
                // the server has a connection for all users now.
                RunState::OwnedElsewhere | RunState::ForUsers => {
                    self.command(false).await;
                    has_asked = true;
                    continue;
                }
                RunState::Stopped => return Err(server_disabled(&self.name)),
            }
            if states.changed().await.is_err() {
                return Err(server_disabled(&self.name));
            }
        }
    }

    /// Waits until this worker owns the server, connected or not. The caller limits the time.
    ///
    /// # Errors
    /// A failure if the server is disabled, if another worker owns it, or if the store is unavailable.
    pub async fn ensure_owned(&self) -> Result<(), Failure> {
        let mut states = self.state.subscribe();
        let mut asked_supervisor = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                RunState::Stopped => return Err(server_disabled(&self.name)),
                // The lease may be held until the supervisor has stopped all processes.
                RunState::Ended(failure) => return Err(*failure),
                RunState::OwnedElsewhere if asked_supervisor => {
                    return Err(Failure::elsewhere(&self.name));
                }
                RunState::OwnedElsewhere => {
                    self.command(false).await;
                    asked_supervisor = true;
                    continue;
                }
                _ if self.lease.is_held() => return Ok(()),
                RunState::Failed(failure) => return Err(*failure),
                RunState::Running(_) | RunState::Starting | RunState::ForUsers => {}
            }
            if states.changed().await.is_err() {
                return Err(server_disabled(&self.name));
            }
        }
    }

    /// Returns the present status.
    pub fn live(&self) -> ServerStatus {
        ServerStatus::clone(&self.live.load())
    }

    pub fn is_owned_elsewhere(&self) -> bool {
        matches!(*self.state.borrow(), RunState::OwnedElsewhere)
    }

    /// Whether the server is being started, so that another request to start it can join.
    pub fn is_starting(&self) -> bool {
        matches!(*self.state.borrow(), RunState::Starting)
    }

    pub(super) fn takeover_state(&self) -> TakeoverState {
        *self.takeover.lock()
    }

    /// Asks the supervisor to compare the catalog and the lease again.
    pub(super) fn retry_takeover(&self) {
        self.takeover.lock().last_attempt = Some(monotonic());
        self.catalog_changed.notify_one();
    }

    /// Records that another worker owns the server from now on.
    pub(super) fn start_takeover_wait(&self) {
        *self.takeover.lock() = TakeoverState {
            since: monotonic(),
            last_attempt: None,
        };
    }

    /// Starts or ends the subscription to asks for this server.
    pub(super) fn set_subscription(&self, subscription: Option<SubscriptionGuard>) {
        *self.subscription.lock() = subscription;
    }

    pub(super) fn has_subscription(&self) -> bool {
        self.subscription.lock().is_some()
    }

    /// Makes the server as the catalog says, and returns the status after its next start. If too many requests wait for
    /// the start already, the present status returns at once. `None`: another worker owns the server.
    pub async fn reconcile(&self) -> Option<ServerStatus> {
        match self.start_waits.try_acquire() {
            Ok(_wait) => self.command(false).await,
            Err(_) => Some(self.live()),
        }
    }

    /// Stops the server for good.
    pub async fn shut_down(&self) {
        self.command(true).await;
    }

    /// Accepts no more calls and waits for the running calls. `all_calls` is the number of permits of a server.
    pub async fn drain_calls(&self, all_calls: usize) {
        self.set_subscription(None);
        // The permits are never returned: a later call gets `busy` and goes to another worker.
        if let Ok(permits) = self.permits.acquire_many(all_calls as u32).await {
            permits.forget();
        }
    }

    async fn command(&self, shut_down: bool) -> Option<ServerStatus> {
        let (reply, settled) = oneshot::channel();
        let sent = self
            .commands
            .send(SupervisorCommand { shut_down, reply })
            .await;
        match (sent, settled.await) {
            (Ok(()), Ok(status)) => status,
            // The supervisor has ended, because the server is deleted or the worker stops.
            _ => Some(ServerStatus::without_error(ConnectionStatus::Disconnected)),
        }
    }
}

/// Returns the failure of a call to a disabled server.
pub fn server_disabled(name: &ServerName) -> Failure {
    Failure::new(
        Code::ServerDisabled,
        format!("Server {name} is disabled; enable it with PUT /mcp/servers/{name}/enable"),
    )
}
