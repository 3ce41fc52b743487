//! One server's place in a worker: what calls find there, and how others tell its supervisor.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::mask::Masker;
use super::pool::Pool;
use super::ring::Ring;
use super::stdio::Stdio;
use super::supervisor::Supervisor;
use crate::core::catalog::Server;
use crate::core::failure::{Code, Failure};
use crate::core::names::{ServerId, ServerName};
use crate::core::server::{Live, Status};
use crate::workers::guard;

/// Orders that may wait for a supervisor.
const ORDERS: usize = 64;

/// One server in this worker.
pub struct Slot {
    pub id: ServerId,
    pub name: ServerName,
    pub permits: Arc<Semaphore>,
    pub ring: Arc<Ring>,
    pub masker: Arc<Masker>,
    pub child: Arc<guard::Current>,
    pub(super) connection: ArcSwapOption<Stdio>,
    pub(super) state: watch::Sender<State>,
    pub(super) live: ArcSwap<Live>,
    orders: mpsc::Sender<Order>,
}

/// What a call finds.
#[derive(Clone)]
pub(super) enum State {
    /// Wait for it.
    Starting,
    Up(Arc<Stdio>),
    /// Fail at once.
    Broken(Box<Failure>),
    /// It is not to run.
    Off,
}

/// Something has changed, or is to.
pub(super) struct Order {
    /// Start anew even when nothing has changed.
    pub restart: bool,
    /// End for good, whatever the catalogue says.
    pub shut_down: bool,
    pub done: oneshot::Sender<Live>,
}

impl Slot {
    /// Makes the slot and starts its supervisor.
    pub fn start(pool: &Arc<Pool>, server: &Server) -> Arc<Self> {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let slot = Arc::new(Self {
            id: server.id,
            name: server.name.clone(),
            permits: Arc::new(Semaphore::new(pool.limits.calls_per_server)),
            ring: Arc::default(),
            masker: Arc::default(),
            child: Arc::default(),
            connection: ArcSwapOption::empty(),
            state: watch::Sender::new(State::Starting),
            live: ArcSwap::from_pointee(Live::of(Status::Connecting)),
            orders,
        });
        pool.tasks.spawn(Supervisor::new(slot.clone(), pool.clone(), inbox).run());
        slot
    }

    /// The connection for a call; waits while the server is being started. The caller limits the time.
    pub async fn connection(&self) -> Result<Arc<Stdio>, Failure> {
        if let Some(connection) = self.connection.load_full()
            && !connection.is_closed()
        {
            return Ok(connection);
        }
        let mut states = self.state.subscribe();
        loop {
            let state = states.borrow_and_update().clone();
            match state {
                State::Up(connection) if !connection.is_closed() => return Ok(connection),
                State::Up(_) | State::Starting => {}
                State::Broken(failure) => return Err(*failure),
                State::Off => return Err(off(&self.name)),
            }
            if states.changed().await.is_err() {
                return Err(off(&self.name));
            }
        }
    }

    pub fn live(&self) -> Live {
        Live::clone(&self.live.load())
    }

    /// Makes the server as the catalogue says, and waits for its next start where it is to run.
    pub async fn settle(&self, restart: bool) -> Live {
        self.order(restart, false).await
    }

    pub async fn shut_down(&self) {
        self.order(false, true).await;
    }

    async fn order(&self, restart: bool, shut_down: bool) -> Live {
        let (done, settled) = oneshot::channel();
        let sent = self.orders.send(Order { restart, shut_down, done }).await;
        match (sent, settled.await) {
            (Ok(()), Ok(live)) => live,
            // The supervisor has ended: the server is gone.
            _ => Live::of(Status::Disconnected),
        }
    }
}

fn off(name: &ServerName) -> Failure {
    Failure::new(
        Code::ServerDisabled,
        format!("Server {name} is disabled; enable it with PUT /mcp/servers/{name}/enable"),
    )
}
