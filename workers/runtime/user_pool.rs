//! The permits for processes and connections of single users in this worker (`MAX_USER_PROCESSES`,
//! `MAX_USER_CONNECTIONS`). If all permits are taken, the connection that was idle for longest makes room.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::manager::ServerManager;
use crate::config::Limits;
use crate::core::failure::Failure;
use crate::core::model::server::{ServerConfig, Transport};
use crate::telemetry::metrics::{Gauge, Metrics};

/// The time after which a call that waits for a permit looks for an idle connection again.
const IDLE_CHECK: Duration = Duration::from_millis(100);
/// The longest time for which a call waits for a permit. A process that ignores SIGTERM returns its permit within that time.
const PERMIT_LIMIT: Duration = Duration::from_secs(30);
/// The shortest time between two comparisons of the connections of users with the catalog.
const COMPARE_INTERVAL: Duration = Duration::from_millis(50);

/// The kind of connection that a server keeps for each user: a process, or a connection to a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserConnectionKind {
    Process,
    Connection,
}

impl UserConnectionKind {
    pub fn for_config(config: &ServerConfig) -> Self {
        match config.transport {
            Transport::Stdio { .. } => Self::Process,
            Transport::StreamableHttp(_) => Self::Connection,
        }
    }
}

/// All permits of this worker.
pub struct UserPool {
    processes: Permits,
    connections: Permits,
}

struct Permits {
    free: Arc<Semaphore>,
    /// Connections that are being stopped. Their permits become free soon.
    ending: Arc<AtomicUsize>,
    /// The gauges that count a taken permit.
    gauges: Vec<Gauge>,
    /// The variable with the number of permits.
    limit: (&'static str, usize),
}

/// The permit of one process or connection. Dropping it returns the permit.
pub struct UserPermit {
    _permit: OwnedSemaphorePermit,
    gauges: Vec<Gauge>,
}

impl Drop for UserPermit {
    fn drop(&mut self) {
        for gauge in &self.gauges {
            gauge.dec();
        }
    }
}

/// Says that a connection ends and returns its permit soon.
pub struct EndingConnection(Arc<AtomicUsize>);

impl Drop for EndingConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UserPool {
    pub fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let permits = |variable, number, gauges: &[&Gauge]| Permits {
            free: Arc::new(Semaphore::new(number)),
            ending: Arc::default(),
            gauges: gauges.iter().copied().cloned().collect(),
            limit: (variable, number),
        };
        Self {
            processes: permits(
                "MAX_USER_PROCESSES",
                limits.user_processes,
                &[&metrics.user_processes, &metrics.children_alive],
            ),
            connections: permits(
                "MAX_USER_CONNECTIONS",
                limits.user_connections,
                &[&metrics.user_connections],
            ),
        }
    }

    /// Returns a permit. The connection that was idle for longest makes room.
    ///
    /// # Errors
    /// `unavailable` if all connections have running calls, or if no permit becomes free within 30 seconds.
    pub async fn acquire(
        manager: &Arc<ServerManager>,
        kind: UserConnectionKind,
    ) -> Result<UserPermit, Failure> {
        let permits = manager.users.permits(kind);
        let found = tokio::time::timeout(PERMIT_LIMIT, find_permit(manager, kind)).await;
        let permit = found.ok().flatten().ok_or_else(|| permits.all_busy())?;
        Ok(permits.take(permit))
    }

    /// Counts a connection that ends.
    pub fn ending(&self, kind: UserConnectionKind) -> EndingConnection {
        let ending = self.permits(kind).ending.clone();
        ending.fetch_add(1, Ordering::AcqRel);
        EndingConnection(ending)
    }

    fn permits(&self, kind: UserConnectionKind) -> &Permits {
        match kind {
            UserConnectionKind::Process => &self.processes,
            UserConnectionKind::Connection => &self.connections,
        }
    }
}

impl Permits {
    fn take(&self, permit: OwnedSemaphorePermit) -> UserPermit {
        for gauge in &self.gauges {
            gauge.inc();
        }
        UserPermit {
            _permit: permit,
            gauges: self.gauges.clone(),
        }
    }

    fn all_busy(&self) -> Failure {
        let (variable, number) = self.limit;
        Failure::unavailable(format!(
            "All {number} processes or connections of users have running calls ({variable}); retry in a moment"
        ))
    }
}

/// Waits for a free permit. `None`: all connections have running calls.
async fn find_permit(
    manager: &Arc<ServerManager>,
    kind: UserConnectionKind,
) -> Option<OwnedSemaphorePermit> {
    let permits = manager.users.permits(kind);
    // The call keeps its place in the queue, so no later call takes the permit of a connection that makes room for this one.
    let mut freed = pin!(permits.free.clone().acquire_owned());
    if let Some(permit) = freed.as_mut().now_or_never() {
        return permit.ok();
    }
    loop {
        let Some(ending) = end_longest_idle(manager, kind) else {
            if permits.ending.load(Ordering::Acquire) == 0 {
                return freed.now_or_never()?.ok();
            }
            // A connection that is being stopped returns its permit, or another one becomes idle before that.
            match tokio::time::timeout(IDLE_CHECK, freed.as_mut()).await {
                Ok(permit) => return permit.ok(),
                Err(_) => continue,
            }
        };
        // A task, so that the process gets its time to stop even if this call is cancelled.
        let ended = manager.tasks.spawn(ending);
        tokio::select! {
            biased;
            permit = freed.as_mut() => return permit.ok(),
            _ = ended => {}
        }
    }
}

/// Ends the connection that was idle for longest, among all servers of this worker. The future waits for its end. `None`:
/// all connections have running calls.
fn end_longest_idle(
    manager: &Arc<ServerManager>,
    kind: UserConnectionKind,
) -> Option<impl Future<Output = ()> + Send + use<>> {
    loop {
        let handles = manager.handles();
        let idle = handles
            .values()
            .filter_map(|handle| Some((handle, handle.users.longest_idle(kind)?)));
        let (handle, (user, since)) = idle.min_by_key(|(_, (_, since))| *since)?;
        // A call may have taken the connection since.
        if let Some(ending) = handle.users.end_if_idle(manager, handle, &user, since) {
            return Some(ending);
        }
    }
}

/// Ends the connections whose credentials, grants or servers have changed, until the process ends.
pub async fn follow_credentials(manager: Arc<ServerManager>) {
    let mut positions = manager.projection.subscribe();
    let mut ticks = tokio::time::interval(COMPARE_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while positions.changed().await.is_ok() {
        ticks.tick().await;
        positions.borrow_and_update();
        for handle in manager.handles().values() {
            handle.users.end_outdated(&manager, handle);
        }
    }
}
