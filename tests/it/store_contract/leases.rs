//! The promises of leases.

use std::time::Duration;

use uuid::Uuid;

use super::Store;
use crate::wait::wait_until;
use mcp_api::core::ids::{LeaseId, WorkerId};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
/// Ends at once.
const SHORT: Duration = Duration::from_millis(1);

fn worker() -> WorkerId {
    WorkerId(Uuid::now_v7())
}

fn lease() -> LeaseId {
    LeaseId(Uuid::now_v7())
}

async fn acquire(store: &Store, lease: LeaseId, holder: WorkerId, ttl: Duration) -> Option<u64> {
    store
        .leases
        .acquire(lease, holder, ttl)
        .await
        .expect("an answer")
}

pub async fn another_worker_cannot_acquire_a_held_lease(store: Store) {
    let a = worker();
    let b = worker();
    let s = lease();
    let other = lease();
    let token = acquire(&store, s, a, LONG).await.expect("it is free");
    assert_eq!(acquire(&store, s, b, LONG).await, None);
    assert_eq!(
        store.leases.renew(b, LONG).await.expect("an answer"),
        [],
        "b has acquired no lease"
    );
    assert!(
        acquire(&store, other, b, LONG).await.is_some(),
        "the lease of another server is free"
    );
    assert_eq!(
        acquire(&store, s, a, LONG).await,
        Some(token),
        "a still holds the lease"
    );
}

pub async fn a_worker_acquires_its_own_lease_again(store: Store) {
    let a = worker();
    let b = worker();
    let s = lease();
    // The holder has not changed. The new time counts from now.
    let token = acquire(&store, s, a, LONG).await.expect("it is free");
    for _ in 0..3 {
        assert_eq!(acquire(&store, s, a, LONG).await, Some(token));
    }
    assert_eq!(acquire(&store, s, b, LONG).await, None);
    acquire(&store, s, a, SHORT).await.expect("its own lease");
    wait_until("the shortened lease ends", async || {
        acquire(&store, s, b, SHORT).await.is_some()
    })
    .await;
    // The holder has changed twice, so the token is another one.
    let mut back = None;
    wait_until("b's lease ends", async || {
        back = acquire(&store, s, a, LONG).await;
        back.is_some()
    })
    .await;
    assert!(back.expect("acquired") > token);
}

pub async fn a_released_lease_is_free(store: Store) {
    let a = worker();
    let b = worker();
    let s = lease();
    let first = acquire(&store, s, a, LONG).await.expect("it is free");
    store.leases.release(s, a).await.expect("released");
    assert_eq!(store.leases.renew(a, LONG).await.expect("an answer"), []);
    let second = acquire(&store, s, b, LONG).await.expect("it is free again");
    assert!(
        second > first,
        "the token grows when the holder changes: {first}, {second}"
    );
}

pub async fn only_the_holder_can_release(store: Store) {
    let a = worker();
    let b = worker();
    let s = lease();
    acquire(&store, s, a, LONG).await.expect("it is free");
    store.leases.release(s, b).await.expect("a no-op");
    store.leases.release(lease(), b).await.expect("a no-op");
    assert_eq!(acquire(&store, s, b, LONG).await, None);
    assert_eq!(store.leases.renew(a, LONG).await.expect("an answer"), [s]);
}

pub async fn an_expired_lease_is_free_and_cannot_be_renewed(store: Store) {
    let a = worker();
    let b = worker();
    let s = lease();
    let mut token = acquire(&store, s, a, SHORT).await.expect("it is free");
    let mut second = None;
    wait_until("a's lease ends", async || {
        second = acquire(&store, s, b, SHORT).await;
        second.is_some()
    })
    .await;
    assert!(
        second.expect("acquired") > token,
        "the token grows when the holder changes"
    );
    assert_eq!(store.leases.renew(a, LONG).await.expect("an answer"), []);
    // The worker cannot renew the lease even if no other worker has acquired it.
    wait_until("b's lease ends", async || {
        store
            .leases
            .renew(b, SHORT)
            .await
            .expect("an answer")
            .is_empty()
    })
    .await;
    assert_eq!(store.leases.renew(b, LONG).await.expect("an answer"), []);
    token = second.expect("acquired");
    assert!(acquire(&store, s, a, LONG).await.expect("it is free") > token);
}

pub async fn a_renewed_lease_stays_valid(store: Store) {
    let a = worker();
    let b = worker();
    let long = lease();
    let short = lease();
    let others = lease();
    acquire(&store, others, b, LONG).await.expect("it is free");
    let ttl = Duration::from_millis(300);
    let acquired = std::time::Instant::now();
    for s in [long, short] {
        acquire(&store, s, a, ttl).await.expect("it is free");
    }
    let mut renewed = store.leases.renew(a, LONG).await.expect("an answer");
    renewed.sort();
    let mut own = [long, short];
    own.sort();
    if acquired.elapsed() < ttl {
        assert_eq!(renewed, own, "all leases of the worker, and no other lease");
    }
    // The first time is over by the clock of the test. The clock of the store started no later.
    wait_until("the first time is over", async || {
        acquired.elapsed() > ttl * 2
    })
    .await;
    let mut held = store.leases.renew(a, LONG).await.expect("an answer");
    held.sort();
    assert_eq!(held, renewed);
    for s in renewed {
        assert_eq!(acquire(&store, s, b, LONG).await, None);
    }
}

pub async fn one_of_several_concurrent_workers_acquires_a_lease(store: Store) {
    let s = lease();
    let tasks: Vec<_> = (0..32)
        .map(|_| {
            let leases = store.leases.clone();
            tokio::spawn(async move { leases.acquire(s, worker(), LONG).await.expect("an answer") })
        })
        .collect();
    let answers = futures::future::join_all(tasks).await;
    assert_eq!(
        answers
            .into_iter()
            .filter(|token| token.as_ref().expect("a task").is_some())
            .count(),
        1
    );
}
