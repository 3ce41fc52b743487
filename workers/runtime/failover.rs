//! Takes over the servers whose owner is gone.
//!
//! Rendezvous hashing orders the workers for each server, so the servers spread over the workers and one worker asks
//! the store first. The lease decides in any case.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::core::ids::{ServerId, WorkerId};
use crate::time::clock::monotonic;

const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How much longer each further worker in the order waits.
const RANK_DELAY: Duration = Duration::from_millis(700);
/// Time between two attempts for one server.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Watches the servers of other workers until the process ends.
pub async fn watch_servers(manager: Arc<ServerManager>) {
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let handles = manager.handles();
        let waiting = handles
            .values()
            .filter(|handle| handle.is_owned_elsewhere());
        let waiting: Vec<_> = waiting.cloned().collect();
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

/// Whether this worker may try to take the server over now.
fn is_turn(manager: &ServerManager, handle: &ServerHandle, workers: &[WorkerId]) -> bool {
    let takeover = handle.takeover_state();
    let report = manager
        .registry
        .last_report_by_others(handle.id, manager.worker);
    let free_from = match report {
        // An owner that sends no report may run the server until its lease ends.
        Some((at, true)) => at + manager.limits.lease_ttl,
        Some((at, false)) => at,
        None => takeover.since,
    };
    let now = monotonic();
    let rank = takeover_rank(handle.id, workers, manager.worker);
    now >= free_from + RANK_DELAY * rank
        && takeover
            .last_attempt
            .is_none_or(|attempt| now >= attempt + RETRY_DELAY)
}

/// Returns the number of workers before this worker in the order of a server.
fn takeover_rank(server: ServerId, workers: &[WorkerId], own: WorkerId) -> u32 {
    let own_weight = weight(server, own);
    let before = workers
        .iter()
        .filter(|worker| (weight(server, **worker), **worker) > (own_weight, own));
    before.count() as u32
}

/// Returns the weight of a worker for a server: the first eight bytes of SHA-256 over both ids. All versions of the
/// program must agree on it.
fn weight(server: ServerId, worker: WorkerId) -> u64 {
    let digest = Sha256::new()
        .chain_update(server.0.as_bytes())
        .chain_update(worker.0.as_bytes())
        .finalize();
    let (first, _) = digest.split_at(8);
    first
        .iter()
        .fold(0, |weight, byte| (weight << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_weight_of_a_worker_never_changes() {
        let server = ServerId(Uuid::from_u128(1));
        let worker = WorkerId(Uuid::from_u128(2));
        assert_eq!(weight(server, worker), WEIGHT_OF_1_AND_2);
    }

    /// `printf '%032x%032x' 1 2 | xxd -r -p | sha256sum | cut -c 1-16`
    const WEIGHT_OF_1_AND_2: u64 = 0x78d6_8721_debb_423c;

    #[test]
    fn each_worker_has_its_own_rank() {
        let workers: Vec<_> = (1..=5).map(|id| WorkerId(Uuid::from_u128(id))).collect();
        let mut firsts = std::collections::HashSet::new();
        for server in 1..=50 {
            let server = ServerId(Uuid::from_u128(server));
            let ranks = workers
                .iter()
                .map(|own| takeover_rank(server, &workers, *own));
            let ranks: Vec<_> = ranks.collect();
            let mut sorted = ranks.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            firsts.insert(ranks.iter().position(|rank| *rank == 0));
        }
        assert_eq!(firsts.len(), 5, "the servers spread over the workers");
    }
}
