//! The reports of workers: which workers live, and the status of the servers that they run.
//!
//! A report is not state. A worker reports every two seconds and on every change, and an older
//! report expires. After any failure the registry is right again a few seconds later.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;
use tokio::time::Instant;

use crate::core::ids::{ServerId, WorkerId};
use crate::core::model::server::{ConnectionStatus, ServerStatus, WorkerStatus};
use crate::ports::bus::Hint;
use crate::time::clock;

/// A report about a server counts for this long.
const REPORT_LIFETIME: Duration = Duration::from_secs(6);
/// A worker without a report for this long has stopped or is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(4);
/// The registry remembers a silent worker for this long, because the bus may need minutes to
/// notice that a subscriber has stopped.
const SILENT_WORKER_RETENTION: Duration = Duration::from_secs(600);

/// The live workers and the servers that they run.
pub struct WorkerRegistry {
    state: Mutex<RegistryState>,
    started: Instant,
    has_silent_worker: AtomicBool,
    /// Counts the picks, so that the workers are picked in turn.
    picks: AtomicUsize,
}

struct RegistryState {
    hints: Receiver<Hint>,
    /// The time of the last report of each worker that has not left.
    last_reports: HashMap<WorkerId, Instant>,
    /// The id of the key that each worker seals with. `None` if the worker does not report it.
    key_ids: HashMap<WorkerId, Option<String>>,
    /// The key id that any worker reported last. The next worker has this key too.
    last_key_id: Option<String>,
    servers: HashMap<ServerId, Vec<ServerReport>>,
}

/// The newest report of one worker about one server.
#[derive(Clone)]
struct ServerReport {
    worker: WorkerId,
    status: ServerStatus,
    at: Instant,
}

impl ServerReport {
    fn is_running(&self) -> bool {
        self.status.status != ConnectionStatus::Disconnected
    }
}

impl WorkerRegistry {
    /// Creates a registry that reads these hints.
    pub fn new(hints: Receiver<Hint>) -> Self {
        Self {
            state: Mutex::new(RegistryState {
                hints,
                last_reports: HashMap::new(),
                key_ids: HashMap::new(),
                last_key_id: None,
                servers: HashMap::new(),
            }),
            started: clock::monotonic(),
            has_silent_worker: AtomicBool::new(false),
            picks: AtomicUsize::new(0),
        }
    }

    /// Returns the best status of each server, and the workers that report the server.
    pub fn server_statuses(&self, servers: &[ServerId]) -> Vec<(ServerStatus, Vec<WorkerId>)> {
        let state = self.current_state();
        let now = clock::monotonic();
        servers
            .iter()
            .map(|server| {
                let reports = state.live_reports(server, now);
                let workers = reports.clone().map(|report| report.worker).collect();
                let best = reports.max_by_key(|report| (rank(report.status.status), report.at));
                let status = best.map_or(
                    ServerStatus::without_error(ConnectionStatus::Disconnected),
                    |report| report.status.clone(),
                );
                (status, workers)
            })
            .collect()
    }

    /// Returns the worker that reported last that it runs the server.
    pub fn owner_of(&self, server: ServerId) -> Option<WorkerId> {
        let state = self.current_state();
        state
            .live_reports(&server, clock::monotonic())
            .filter(|report| report.is_running())
            .max_by_key(|report| report.at)
            .map(|report| report.worker)
    }

    /// Returns the time of the newest report about the server by another worker than `own`, and
    /// whether that worker runs the server.
    pub fn last_report_by_others(
        &self,
        server: ServerId,
        own: WorkerId,
    ) -> Option<(Instant, bool)> {
        let state = self.current_state();
        let reports = state.servers.get(&server).into_iter().flatten();
        reports
            .filter(|report| report.worker != own)
            .map(|report| (report.at, report.is_running()))
            .max()
    }

    /// Returns whether a worker has stopped without leaving. A message to a pool may reach the
    /// silent worker and get no reply.
    pub fn has_silent_worker(&self) -> bool {
        self.has_silent_worker.load(Ordering::Relaxed)
    }

    /// Returns the workers that reported in the last four seconds, in the order of their ids.
    pub fn live_workers(&self) -> Vec<WorkerId> {
        let state = self.current_state();
        let mut workers: Vec<_> = state.live_workers(clock::monotonic()).collect();
        workers.sort_unstable();
        workers
    }

    /// Returns one of the live workers, each in turn.
    pub fn pick_worker(&self) -> Option<WorkerId> {
        let workers = self.live_workers();
        let pick = self.picks.fetch_add(1, Ordering::Relaxed);
        workers.get(pick % workers.len().max(1)).copied()
    }

    /// Returns the time from which on every live worker has reported to this registry.
    pub fn all_reported_at(&self) -> Instant {
        self.started + SILENCE_LIMIT
    }

    /// Returns the live workers that seal with another key, or report no key.
    pub fn workers_with_other_key(&self, key_id: &str) -> Vec<WorkerId> {
        let mut workers = self.live_workers();
        let state = self.current_state();
        workers.retain(|worker| {
            state
                .key_ids
                .get(worker)
                .is_some_and(|reported| reported.as_deref() != Some(key_id))
        });
        workers
    }

    /// Returns the key ids of the live workers if none of them seals with `own_key_id`. Returns an
    /// empty list if a worker seals with it, if a worker reports no key, or if no worker has ever
    /// reported.
    pub fn fallback_keys(&self, own_key_id: &str) -> Vec<String> {
        let state = self.current_state();
        let mut key_ids: Vec<_> = state
            .live_workers(clock::monotonic())
            .filter_map(|worker| state.key_ids.get(&worker))
            .map(Option::as_deref)
            .collect();
        if key_ids.is_empty() {
            key_ids.extend(state.last_key_id.as_deref().map(Some));
        }
        let other_key_ids: Option<Vec<_>> = key_ids
            .into_iter()
            .map(|key_id| key_id.filter(|key_id| *key_id != own_key_id))
            .map(|key_id| key_id.map(str::to_owned))
            .collect();
        other_key_ids.unwrap_or_default()
    }

    /// Reads the reports that have arrived, and removes expired reports. The process calls this
    /// twice a second, so that no task must wake for each report.
    pub fn refresh(&self) {
        let mut state = self.current_state();
        let is_silent = state.expire(clock::monotonic());
        self.has_silent_worker.store(is_silent, Ordering::Relaxed);
    }

    fn current_state(&self) -> MutexGuard<'_, RegistryState> {
        let mut state = self.state.lock();
        state.read_hints();
        state
    }
}

/// Orders the statuses that several workers report for one server. The highest rank is shown.
fn rank(status: ConnectionStatus) -> u8 {
    match status {
        ConnectionStatus::Connected => 3,
        ConnectionStatus::Connecting => 2,
        ConnectionStatus::Error => 1,
        ConnectionStatus::Disconnected => 0,
    }
}

impl RegistryState {
    fn live_reports(
        &self,
        server: &ServerId,
        now: Instant,
    ) -> impl Iterator<Item = &ServerReport> + Clone {
        let reports = self.servers.get(server).into_iter().flatten();
        reports.filter(move |report| now.duration_since(report.at) < REPORT_LIFETIME)
    }

    fn live_workers(&self, now: Instant) -> impl Iterator<Item = WorkerId> {
        self.last_reports
            .iter()
            .filter(move |(_, at)| now.duration_since(**at) < SILENCE_LIMIT)
            .map(|(worker, _)| *worker)
    }

    /// Removes old reports. Returns whether a worker is silent.
    fn expire(&mut self, now: Instant) -> bool {
        let is_retained = |at: Instant| now.duration_since(at) < SILENT_WORKER_RETENTION;
        self.last_reports.retain(|_, at| is_retained(*at));
        for reports in self.servers.values_mut() {
            reports.retain(|report| is_retained(report.at));
        }
        self.servers.retain(|_, reports| !reports.is_empty());
        let last_reports = &self.last_reports;
        self.key_ids
            .retain(|worker, _| last_reports.contains_key(worker));
        last_reports
            .values()
            .any(|at| now.duration_since(*at) >= SILENCE_LIMIT)
    }

    fn read_hints(&mut self) {
        loop {
            match self.hints.try_recv() {
                Ok(Hint::Status(status)) => match serde_json::from_slice(&status) {
                    Ok(status) => self.apply_status(status),
                    Err(error) => {
                        tracing::debug!(%error, "the registry cannot parse the report of a worker");
                    }
                },
                Ok(_) => {}
                // The workers repeat their reports every two seconds.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn apply_status(&mut self, report: WorkerStatus) {
        let at = clock::monotonic();
        let worker = report.worker;
        for (server, status) in report.servers {
            let reports = self.servers.entry(server).or_default();
            reports.retain(|report| report.worker != worker);
            reports.push(ServerReport { worker, status, at });
        }
        if report.leaving {
            self.last_reports.remove(&worker);
        } else {
            self.last_reports.insert(worker, at);
        }
        if report.key.is_some() {
            self.last_key_id.clone_from(&report.key);
        }
        self.key_ids.insert(worker, report.key);
    }
}
