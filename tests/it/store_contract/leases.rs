//! What leases must keep.

use std::time::Duration;

use uuid::Uuid;

use super::Store;
use crate::wait::wait_until;
use mcp_api::core::ids::{LeaseId, WorkerId};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);
/// Over before anybody looks.
const SHORT: Duration = Duration::from_millis(1);

fn worker() -> WorkerId {
    WorkerId(Uuid::now_v7())
}

fn server() -> LeaseId {
    LeaseId(Uuid::now_v7())
}

async fn take(store: &Store, server: LeaseId, holder: WorkerId, ttl: Duration) -> Option<u64> {
    store
        .leases
        .acquire(server, holder, ttl)
        .await
        .expect("an answer")
}

pub async fn a_held_lease_is_not_given_away(store: Store) {
    let (a, b, s, other) = (worker(), worker(), server(), server());
    let token = take(&store, s, a, LONG).await.expect("it is free");
    assert_eq!(take(&store, s, b, LONG).await, None);
    assert_eq!(
        store.leases.renew(b, LONG).await.expect("an answer"),
        [],
        "nothing of it became b's"
    );
    assert!(
        take(&store, other, b, LONG).await.is_some(),
        "another server's lease is another"
    );
    assert_eq!(
        take(&store, s, a, LONG).await,
        Some(token),
        "a still has it"
    );
}

pub async fn the_own_lease_is_taken_again(store: Store) {
    let (a, b, s) = (worker(), worker(), server());
    // Taken again in its time it has not changed hands; the new time counts from now.
    let token = take(&store, s, a, LONG).await.expect("it is free");
    for _ in 0..3 {
        assert_eq!(take(&store, s, a, LONG).await, Some(token));
    }
    assert_eq!(take(&store, s, b, LONG).await, None);
    take(&store, s, a, SHORT).await.expect("its own");
    wait_until("the shortened lease ends", async || {
        take(&store, s, b, SHORT).await.is_some()
    })
    .await;
    // Lost and won back, it has: its former self must be told apart.
    let mut back = None;
    wait_until("b's lease ends", async || {
        back = take(&store, s, a, LONG).await;
        back.is_some()
    })
    .await;
    assert!(back.expect("taken") > token);
}

pub async fn a_released_lease_is_free(store: Store) {
    let (a, b, s) = (worker(), worker(), server());
    let first = take(&store, s, a, LONG).await.expect("it is free");
    store.leases.release(s, a).await.expect("released");
    assert_eq!(store.leases.renew(a, LONG).await.expect("an answer"), []);
    let second = take(&store, s, b, LONG).await.expect("it is free again");
    assert!(
        second > first,
        "the token grows with the change of hands: {first}, {second}"
    );
}

pub async fn only_the_holder_can_release(store: Store) {
    let (a, b, s) = (worker(), worker(), server());
    take(&store, s, a, LONG).await.expect("it is free");
    store.leases.release(s, b).await.expect("a no-op");
    store.leases.release(server(), b).await.expect("a no-op");
    assert_eq!(take(&store, s, b, LONG).await, None);
    assert_eq!(store.leases.renew(a, LONG).await.expect("an answer"), [s]);
}

pub async fn an_expired_lease_is_free_and_cannot_be_renewed(store: Store) {
    let (a, b, s) = (worker(), worker(), server());
    let mut token = take(&store, s, a, SHORT).await.expect("it is free");
    let mut second = None;
    wait_until("a's lease ends", async || {
        second = take(&store, s, b, SHORT).await;
        second.is_some()
    })
    .await;
    assert!(
        second.expect("taken") > token,
        "the token grows with the change of hands"
    );
    assert_eq!(store.leases.renew(a, LONG).await.expect("an answer"), []);
    // Nor when nobody has taken it since.
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
    token = second.expect("taken");
    assert!(take(&store, s, a, LONG).await.expect("it is free") > token);
}

pub async fn a_renewed_lease_lives_on(store: Store) {
    let (a, b) = (worker(), worker());
    let (long, short, others) = (server(), server(), server());
    take(&store, others, b, LONG).await.expect("it is free");
    let lent = Duration::from_millis(300);
    let took = std::time::Instant::now();
    for s in [long, short] {
        take(&store, s, a, lent).await.expect("it is free");
    }
    let mut renewed = store.leases.renew(a, LONG).await.expect("an answer");
    renewed.sort();
    let mut own = [long, short];
    own.sort();
    if took.elapsed() < lent {
        assert_eq!(renewed, own, "all of its own, and nobody else's");
    }
    // Past the time they were first lent for, by our clock; the store's may start no later.
    wait_until("the first time is over", async || took.elapsed() > lent * 2).await;
    let mut still = store.leases.renew(a, LONG).await.expect("an answer");
    still.sort();
    assert_eq!(still, renewed);
    for s in renewed {
        assert_eq!(take(&store, s, b, LONG).await, None);
    }
}

pub async fn of_racing_takers_one_wins(store: Store) {
    let s = server();
    let racers: Vec<_> = (0..32)
        .map(|_| {
            let leases = store.leases.clone();
            tokio::spawn(async move { leases.acquire(s, worker(), LONG).await.expect("an answer") })
        })
        .collect();
    let told = futures::future::join_all(racers).await;
    assert_eq!(
        told.into_iter()
            .filter(|told| told.as_ref().expect("a racer").is_some())
            .count(),
        1
    );
}
