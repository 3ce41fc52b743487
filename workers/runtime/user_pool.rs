//! The places for processes and connections of single users in this worker (`MAX_USER_PROCESSES`,
//! `MAX_USER_CONNECTIONS`). If all places are taken, the connection that was idle for longest makes room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::manager::ServerManager;
use crate::config::Limits;
use crate::core::failure::Failure;
use crate::core::model::server::{ServerConfig, Transport};
use crate::telemetry::metrics::Metrics;

/// Time after a change in which further changes are collected, before the connections of users are compared with the
/// catalog.
const COLLECT_TIME: Duration = Duration::from_millis(50);

/// What a user has of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceKind {
    Process,
    Connection,
}

impl PlaceKind {
    pub fn of(config: &ServerConfig) -> Self {
        match config.transport {
            Transport::Stdio { .. } => Self::Process,
            Transport::StreamableHttp(_) => Self::Connection,
        }
    }
}

/// All places of this worker.
pub struct UserPool {
    processes: Places,
    connections: Places,
}

struct Places {
    free: Arc<Semaphore>,
    /// Connections that are being stopped. Their places become free soon.
    ending: Arc<AtomicUsize>,
    /// The gauges that count a taken place.
    gauges: Vec<Gauge>,
    /// The variable with the number of places.
    limit: (&'static str, usize),
}

/// The place of one process or connection. Dropping it frees the place.
pub struct Place {
    _permit: OwnedSemaphorePermit,
    gauges: Vec<Gauge>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for gauge in &self.gauges {
            gauge.dec();
        }
    }
}

/// Says that a connection ends and its place becomes free soon.
pub struct EndingPlace(Arc<AtomicUsize>);

impl Drop for EndingPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl UserPool {
    pub fn new(limits: &Limits, metrics: &Metrics) -> Self {
        let places = |variable, number, gauges: &[&Gauge]| Places {
            free: Arc::new(Semaphore::new(number)),
            ending: Arc::default(),
            gauges: gauges.iter().map(|gauge| Gauge::clone(gauge)).collect(),
            limit: (variable, number),
        };
        Self {
            processes: places(
                "MAX_USER_PROCESSES",
                limits.user_processes,
                &[&metrics.user_processes, &metrics.children_alive],
            ),
            connections: places(
                "MAX_USER_CONNECTIONS",
                limits.user_connections,
                &[&metrics.user_connections],
            ),
        }
    }

    /// Returns a free place. The connection that was idle for longest makes room. The caller limits the time.
    ///
    /// # Errors
    /// `unavailable` if all connections have running calls.
    pub async fn place(manager: &Arc<ServerManager>, kind: PlaceKind) -> Result<Place, Failure> {
        let places = manager.users.places(kind);
        loop {
            if let Ok(permit) = places.free.clone().try_acquire_owned() {
                return Ok(places.take(permit));
            }
            if let Some(ending) = end_longest_idle(manager, kind) {
                ending.await;
                continue;
            }
            if places.ending.load(Ordering::Acquire) == 0 {
                return Err(places.all_busy());
            }
            // The semaphore is never closed.
            let permit = places.free.clone().acquire_owned().await;
            return permit
                .map(|permit| places.take(permit))
                .map_err(|_| places.all_busy());
        }
    }

    /// Counts a connection that ends.
    pub fn ending(&self, kind: PlaceKind) -> EndingPlace {
        let ending = self.places(kind).ending.clone();
        ending.fetch_add(1, Ordering::AcqRel);
        EndingPlace(ending)
    }

    fn places(&self, kind: PlaceKind) -> &Places {
        match kind {
            PlaceKind::Process => &self.processes,
            PlaceKind::Connection => &self.connections,
        }
    }
}

impl Places {
    fn take(&self, permit: OwnedSemaphorePermit) -> Place {
        for gauge in &self.gauges {
            gauge.inc();
        }
        Place {
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

/// Ends the connection that was idle for longest, among all servers of this worker. The future waits for its end. `None`:
/// all connections have running calls.
fn end_longest_idle(
    manager: &Arc<ServerManager>,
    kind: PlaceKind,
) -> Option<impl Future<Output = ()> + use<>> {
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
    while positions.changed().await.is_ok() {
        tokio::time::sleep(COLLECT_TIME).await;
        positions.borrow_and_update();
        for handle in manager.handles().values() {
            handle.users.end_outdated(&manager, handle);
        }
    }
}
