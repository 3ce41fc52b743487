//! One server's place in a worker: what calls find there, and how others tell its supervisor.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::lease::LocalLease;
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::supervisor::Supervisor;
use super::user_connections::UserConnections;
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::names::ServerName;
use crate::ports::bus::SubscriptionGuard;
use crate::workers::guard;
use crate::workers::mcp::Connection;
use crate::workers::redact::Redactor;

/// Orders that may wait for a supervisor.
const ORDERS: usize = 64;

/// One server in this worker.
pub struct ServerHandle {
    pub id: ServerId,
    pub name: ServerName,
    pub permits: Arc<Semaphore>,
    pub log_buffer: Arc<LogBuffer>,
    pub redactor: Arc<Redactor>,
    pub child: Arc<guard::ChildSet>,
    /// The id of the session with a server behind a URL.
    pub session_id: Arc<ArcSwapOption<String>>,
    /// Connections of users with access of their own.
    pub users: UserConnections,
    pub lease: LocalLease,
    /// Whether it is asked for by its id, because it alone runs the server.
    serving: Mutex<Option<SubscriptionGuard>>,
    waiting: Mutex<Waiting>,
    /// The catalogue has changed, or the lease may be free.
    pub(super) news: Notify,
    pub(super) connection: ArcSwapOption<Connection>,
    pub(super) state: watch::Sender<RunState>,
    pub(super) live: ArcSwap<ServerStatus>,
    orders: mpsc::Sender<SupervisorCommand>,
}

/// Since when another worker has the server, and when it was last tried to take it.
struct Waiting {
    since: Instant,
    tried: Option<Instant>,
}

/// What a call finds.
#[derive(Clone)]
pub(super) enum RunState {
    /// Wait for it.
    Starting,
    Running(Arc<Connection>),
    /// Fail at once.
    Failed(Box<Failure>),
    /// Another worker runs it, or nobody does yet.
    OwnedElsewhere,
    /// It is not to run.
    Stopped,
}

/// Something has changed, or is to.
pub(super) struct SupervisorCommand {
    /// End for good, whatever the catalogue says.
    pub shut_down: bool,
    pub done: oneshot::Sender<Option<ServerStatus>>,
}

impl ServerHandle {
    /// Makes the slot and its supervisor, which starts the server at once if it is `eager`; otherwise when
    /// it is asked to.
    pub fn start(manager: &Arc<ServerManager>, server: &Server, eager: bool) -> Arc<Self> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let handle = Arc::new(Self {
            id: server.id,
            name: server.name.clone(),
            permits: Arc::new(Semaphore::new(manager.limits.calls_per_server)),
            log_buffer: Arc::default(),
            redactor: Arc::default(),
            child: Arc::default(),
            session_id: Arc::default(),
            users: UserConnections::default(),
            lease: LocalLease::default(),
            serving: Mutex::default(),
            waiting: Mutex::new(Waiting {
                since: Instant::now(),
                tried: None,
            }),
            news: Notify::new(),
            connection: ArcSwapOption::empty(),
            state: watch::Sender::new(if eager {
                RunState::Starting
            } else {
                RunState::OwnedElsewhere
            }),
            live: ArcSwap::from_pointee(ServerStatus::of(ConnectionStatus::Connecting)),
            orders,
        });
        manager
            .tasks
            .spawn(Supervisor::new(handle.clone(), manager.clone(), inbox, eager).run());
        handle
    }

    /// The connection for a call; waits while the server is being started. The caller limits the time.
    pub async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        if let Some(connection) = self.connection.load_full()
            && !connection.is_closed()
            && self.lease.is_held()
        {
            return Ok(connection);
        }
        let mut states = self.state.subscribe();
        let mut tried = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                RunState::Running(connection)
                    if !connection.is_closed() && self.lease.is_held() =>
                {
                    return Ok(connection);
                }
                // Its supervisor sees it too, and shows another state.
                RunState::Running(_) | RunState::Starting => {}
                RunState::Failed(failure) => return Err(*failure),
                RunState::OwnedElsewhere if tried => return Err(Failure::elsewhere(&self.name)),
                // It was asked of anybody: perhaps nobody runs it.
                RunState::OwnedElsewhere => {
                    self.order(false).await;
                    tried = true;
                    continue;
                }
                RunState::Stopped => return Err(off(&self.name)),
            }
            if states.changed().await.is_err() {
                return Err(off(&self.name));
            }
        }
    }

    /// Waits until this worker runs the server, whether or not that is connected. The caller limits the time.
    pub async fn ensure_owned(&self) -> Result<(), Failure> {
        let mut states = self.state.subscribe();
        let mut tried = false;
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                RunState::Stopped => return Err(off(&self.name)),
                RunState::OwnedElsewhere if tried => return Err(Failure::elsewhere(&self.name)),
                RunState::OwnedElsewhere => {
                    self.order(false).await;
                    tried = true;
                    continue;
                }
                _ if self.lease.is_held() => return Ok(()),
                RunState::Failed(failure) => return Err(*failure),
                RunState::Running(_) | RunState::Starting => {}
            }
            if states.changed().await.is_err() {
                return Err(off(&self.name));
            }
        }
    }

    pub fn live(&self) -> ServerStatus {
        ServerStatus::clone(&self.live.load())
    }

    pub fn is_elsewhere(&self) -> bool {
        matches!(*self.state.borrow(), RunState::OwnedElsewhere)
    }

    /// Since when somebody else was to have it, and when that was last doubted.
    pub fn waiting_since(&self) -> (Instant, Option<Instant>) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        (waiting.since, waiting.tried)
    }

    /// The supervisor looks at the catalogue and the lease again.
    pub fn retry_takeover(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tried = Some(Instant::now());
        self.news.notify_one();
    }

    pub(super) fn wait_from_now(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Waiting {
            since: Instant::now(),
            tried: None,
        };
    }

    /// Takes the asks for this server from now on, or nobody's any more.
    pub(super) fn serve(&self, serving: Option<SubscriptionGuard>) {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = serving;
    }

    pub(super) fn serves(&self) -> bool {
        self.serving
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Makes the server as the catalogue says, and waits for its next start where it is to run. `None`:
    /// another worker runs it.
    pub async fn settle(&self) -> Option<ServerStatus> {
        self.order(false).await
    }

    pub async fn shut_down(&self) {
        self.order(true).await;
    }

    /// Takes no more calls, and waits for those it has.
    pub async fn drain_calls(&self, all_calls: usize) {
        self.serve(None);
        // Kept: who asks now is told that it is busy, and asks elsewhere.
        if let Ok(permits) = self.permits.acquire_many(all_calls as u32).await {
            permits.forget();
        }
    }

    async fn order(&self, shut_down: bool) -> Option<ServerStatus> {
        let (done, settled) = oneshot::channel();
        let sent = self
            .orders
            .send(SupervisorCommand { shut_down, done })
            .await;
        match (sent, settled.await) {
            (Ok(()), Ok(live)) => live,
            // The supervisor has ended: the server is gone.
            _ => Some(ServerStatus::of(ConnectionStatus::Disconnected)),
        }
    }
}

fn off(name: &ServerName) -> Failure {
    Failure::new(
        Code::ServerDisabled,
        format!("Server {name} is disabled; enable it with PUT /mcp/servers/{name}/enable"),
    )
}
