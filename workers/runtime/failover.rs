//! Watches the servers that other workers run, to take over those that nobody runs.
//!
//! Of all who could, one goes first: workers and servers are hashed together, so servers spread over the
//! workers and no store is stormed. The lease decides in any case.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::core::ids::{ServerId, WorkerId};

const LOOK: Duration = Duration::from_millis(250);
/// How much longer each further worker waits for its turn.
const TURN: Duration = Duration::from_millis(700);
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// Looks until the process ends.
pub async fn watch(manager: Arc<ServerManager>) {
    let mut every = tokio::time::interval(LOOK);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let waiting: Vec<_> = manager
            .handles()
            .values()
            .filter(|handle| handle.is_elsewhere())
            .cloned()
            .collect();
        if waiting.is_empty() {
            continue;
        }
        let mut workers = manager.registry.live_workers();
        if !workers.contains(&manager.worker) {
            workers.push(manager.worker);
        }
        for handle in waiting {
            if is_turn(&manager, &handle, &workers) {
                handle.retry_takeover();
            }
        }
    }
}

fn is_turn(manager: &ServerManager, handle: &ServerHandle, workers: &[WorkerId]) -> bool {
    let (since, tried) = handle.waiting_since();
    let free = match manager
        .registry
        .last_report_by_others(handle.id, manager.worker)
    {
        // It may live without a word for as long as its lease.
        Some((at, true)) => at + manager.limits.lease_ttl,
        Some((at, false)) => at,
        None => since,
    };
    let now = Instant::now();
    now >= free + TURN * takeover_rank(handle.id, workers, manager.worker)
        && tried.is_none_or(|tried| now >= tried + AGAIN)
}

/// How many workers come before this one for that server.
fn takeover_rank(server: ServerId, workers: &[WorkerId], me: WorkerId) -> u32 {
    let weight = |worker: &WorkerId| {
        let mut hasher = DefaultHasher::new();
        (server, worker).hash(&mut hasher);
        (hasher.finish(), *worker)
    };
    workers
        .iter()
        .filter(|worker| weight(worker) > weight(&me))
        .count() as u32
}
