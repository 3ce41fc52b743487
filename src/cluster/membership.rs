//! What workers tell: who is there, and how the servers they run look right now.
//!
//! None of it is state. A worker tells every two seconds and on every change; what is older is
//! forgotten, so the board is right again a few seconds after anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

use crate::core::ids::{ServerId, WorkerId};
use crate::core::model::server::{ConnectionStatus, ServerStatus, WorkerStatus};
use crate::ports::bus::Hint;

/// What was told so long ago is forgotten.
const FRESH: Duration = Duration::from_secs(6);
/// A worker that has told nothing for so long stands still or is dead.
const QUIET: Duration = Duration::from_secs(4);
/// A bus may take minutes to notice that one of its takers stands still.
const SUSPECTED: Duration = Duration::from_secs(600);

pub struct WorkerRegistry {
    told: Mutex<RegistryState>,
    /// Since when it listens.
    since: Instant,
    quiet: AtomicBool,
    turn: AtomicUsize,
}

struct RegistryState {
    hints: Receiver<Hint>,
    /// When each worker was last heard of, until it said that it leaves.
    workers: HashMap<WorkerId, Instant>,
    /// The id of the key that each of them seals with.
    keys: HashMap<WorkerId, Option<String>>,
    /// The one that was told last, by whomever: who is there next has it too.
    last_key: Option<String>,
    servers: HashMap<ServerId, Vec<ServerReport>>,
}

/// What one worker has said of one server.
#[derive(Clone)]
struct ServerReport {
    worker: WorkerId,
    live: ServerStatus,
    at: Instant,
}

impl WorkerRegistry {
    pub fn new(hints: Receiver<Hint>) -> Self {
        let (workers, keys, servers) = Default::default();
        let told = RegistryState {
            hints,
            workers,
            keys,
            last_key: None,
            servers,
        };
        let (quiet, turn) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self {
            told: Mutex::new(told),
            since: Instant::now(),
            quiet,
            turn,
        }
    }

    /// How each of these servers looks, and the workers that have told of it.
    pub fn server_statuses(&self, servers: &[ServerId]) -> Vec<(ServerStatus, Vec<WorkerId>)> {
        let told = self.read();
        let now = Instant::now();
        let look = |id| {
            let fresh = told.fresh(id, now);
            let workers = fresh.clone().map(|word| word.worker).collect();
            let best = fresh.max_by_key(|word| (rank(word.live.status), word.at));
            (
                best.map_or(ServerStatus::of(ConnectionStatus::Disconnected), |word| {
                    word.live.clone()
                }),
                workers,
            )
        };
        servers.iter().map(look).collect()
    }

    /// Who runs the server, as far as anybody has told.
    pub fn owner_of(&self, server: ServerId) -> Option<WorkerId> {
        let told = self.read();
        let running = told
            .fresh(&server, Instant::now())
            .filter(|word| word.live.status != ConnectionStatus::Disconnected);
        running.max_by_key(|word| word.at).map(|word| word.worker)
    }

    /// When somebody else than `me` last told of the server, and whether it runs it.
    pub fn last_report_by_others(&self, server: ServerId, me: WorkerId) -> Option<(Instant, bool)> {
        let told = self.read();
        let others = told
            .servers
            .get(&server)
            .into_iter()
            .flatten()
            .filter(|word| word.worker != me);
        others
            .map(|word| (word.at, word.live.status != ConnectionStatus::Disconnected))
            .max()
    }

    /// Whether a worker stands still, so that what is sent to all may get to it and stay there.
    pub fn has_silent_worker(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// The workers heard of lately, in the order of their ids.
    pub fn live_workers(&self) -> Vec<WorkerId> {
        let now = Instant::now();
        let told = self.read();
        let lively = told
            .workers
            .iter()
            .filter(|(_, at)| now.duration_since(**at) < QUIET);
        let mut workers: Vec<_> = lively.map(|(worker, _)| *worker).collect();
        workers.sort_unstable();
        workers
    }

    /// One of the workers heard of lately, each in turn.
    pub fn pick_worker(&self) -> Option<WorkerId> {
        let workers = self.live_workers();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        workers.get(turn % workers.len().max(1)).copied()
    }

    /// When everybody who is there has told of it.
    pub fn all_reported_at(&self) -> Instant {
        self.since + QUIET
    }

    /// The workers heard of lately that seal with another key than this, or do not say with which.
    pub fn workers_with_other_key(&self, key: &str) -> Vec<WorkerId> {
        let mut workers = self.live_workers();
        let told = self.read();
        workers.retain(|worker| {
            told.keys
                .get(worker)
                .is_some_and(|its| its.as_deref() != Some(key))
        });
        workers
    }

    /// The keys that workers seal with, where none of them does with this one. Empty where one does, does not say, or
    /// nobody was ever heard of.
    pub fn fallback_keys(&self, own: &str) -> Vec<String> {
        let told = self.read();
        let now = Instant::now();
        let lively = told
            .workers
            .iter()
            .filter(|(_, at)| now.duration_since(**at) < QUIET);
        let mut keys: Vec<_> = lively
            .filter_map(|(worker, _)| told.keys.get(worker))
            .map(Option::as_deref)
            .collect();
        if keys.is_empty() {
            keys.extend(told.last_key.as_deref().map(Some));
        }
        let others = keys
            .into_iter()
            .map(|key| key.filter(|key| *key != own).map(str::to_owned));
        others.collect::<Option<_>>().unwrap_or_default()
    }

    /// Reads what has been told meanwhile, so that nobody has to wake for every word of it.
    pub fn refresh(&self) {
        let mut told = self.read();
        let now = Instant::now();
        told.workers
            .retain(|_, at| now.duration_since(*at) < SUSPECTED);
        told.servers.retain(|_, words| {
            words.retain(|word| now.duration_since(word.at) < SUSPECTED);
            !words.is_empty()
        });
        let RegistryState { workers, keys, .. } = &mut *told;
        keys.retain(|worker, _| workers.contains_key(worker));
        let quiet = told
            .workers
            .values()
            .any(|at| now.duration_since(*at) >= QUIET);
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    fn read(&self) -> MutexGuard<'_, RegistryState> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.read();
        told
    }
}

/// Of several words on one server, the one to be shown.
fn rank(status: ConnectionStatus) -> u8 {
    match status {
        ConnectionStatus::Connected => 3,
        ConnectionStatus::Connecting => 2,
        ConnectionStatus::Error => 1,
        ConnectionStatus::Disconnected => 0,
    }
}

impl RegistryState {
    fn fresh(
        &self,
        server: &ServerId,
        now: Instant,
    ) -> impl Iterator<Item = &ServerReport> + Clone {
        let words = self.servers.get(server).into_iter().flatten();
        words.filter(move |word| now.duration_since(word.at) < FRESH)
    }

    fn read(&mut self) {
        loop {
            match self.hints.try_recv() {
                Ok(Hint::Status(status)) => match serde_json::from_slice(&status) {
                    Ok(status) => self.apply_status(status),
                    Err(error) => tracing::debug!(%error, "a worker's status cannot be read"),
                },
                Ok(Hint::LogMoved(_)) => {}
                // Everything is told again every two seconds.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn apply_status(
        &mut self,
        WorkerStatus {
            worker,
            servers,
            leaving,
            key,
        }: WorkerStatus,
    ) {
        let at = Instant::now();
        for (id, live) in servers {
            let words = self.servers.entry(id).or_default();
            words.retain(|word| word.worker != worker);
            words.push(ServerReport { worker, live, at });
        }
        match leaving {
            true => self.workers.remove(&worker),
            false => self.workers.insert(worker, at),
        };
        if key.is_some() {
            self.last_key.clone_from(&key);
        }
        self.keys.insert(worker, key);
    }
}
