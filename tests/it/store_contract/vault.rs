//! What a Vault must keep.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::Store;
use crate::samples::value_id;
use crate::wait::wait_until;
use mcp_api::core::ids::ValueId;
use mcp_api::ports::vault::{KeyRecord, Sealed, WrappingChange};

async fn got(store: &Store, ids: &[ValueId]) -> Vec<Option<Vec<u8>>> {
    let sealed = store.vault.get(ids).await.expect("an answer");
    sealed
        .into_iter()
        .map(|sealed| sealed.map(|Sealed(bytes)| bytes.to_vec()))
        .collect()
}

pub async fn values_are_put_got_and_removed(store: Store) {
    let (a, b, nowhere) = (value_id(), value_id(), value_id());
    // Any bytes there are, none included.
    let all: Vec<u8> = (0..=255).collect();
    store
        .vault
        .put(a, Sealed(Bytes::from(all.clone())))
        .await
        .expect("put");
    store.vault.put(b, Sealed(Bytes::new())).await.expect("put");
    assert_eq!(
        got(&store, &[b, nowhere, a, b]).await,
        [Some(vec![]), None, Some(all), Some(vec![])]
    );
    assert!(got(&store, &[]).await.is_empty());
    store
        .vault
        .remove(&[a, nowhere])
        .await
        .expect("one that is not there is no error");
    assert_eq!(got(&store, &[a, b]).await, [None, Some(vec![])]);
    store
        .vault
        .remove(&[a])
        .await
        .expect("nor is one that was removed");
}

pub async fn a_value_never_changes(store: Store) {
    let id = value_id();
    store
        .vault
        .put(id, Sealed(Bytes::from_static(b"first")))
        .await
        .expect("put");
    store
        .vault
        .put(id, Sealed(Bytes::from_static(b"first")))
        .await
        .expect("the same put again is no error");
    let _ = store
        .vault
        .put(id, Sealed(Bytes::from_static(b"second")))
        .await;
    assert_eq!(got(&store, &[id]).await, [Some(b"first".to_vec())]);
}

pub async fn values_grow_old(store: Store) {
    let (a, b) = (value_id(), value_id());
    for id in [a, b] {
        store
            .vault
            .put(id, Sealed(Bytes::from_static(b"x")))
            .await
            .expect("put");
    }
    assert!(
        store
            .vault
            .older_than(Duration::from_secs(3600))
            .await
            .expect("ids")
            .is_empty()
    );
    let old = async || {
        store
            .vault
            .older_than(Duration::ZERO)
            .await
            .expect("ids")
            .into_iter()
            .collect::<HashSet<_>>()
    };
    wait_until("both are older than nothing", async || {
        old().await == HashSet::from([a, b])
    })
    .await;
    store.vault.remove(&[a]).await.expect("removed");
    assert_eq!(old().await, HashSet::from([b]));
}

fn record(n: u8) -> KeyRecord {
    KeyRecord {
        salt: [n; 16],
        check: vec![n; 40],
    }
}

pub async fn the_first_key_record_wins(store: Store) {
    assert_eq!(store.vault.key_record(None).await.expect("an answer"), None);
    assert_eq!(
        store
            .vault
            .key_record(Some(record(1)))
            .await
            .expect("an answer"),
        Some(record(1))
    );
    assert_eq!(
        store
            .vault
            .key_record(Some(record(2)))
            .await
            .expect("an answer"),
        Some(record(1))
    );
    assert_eq!(
        store.vault.key_record(None).await.expect("an answer"),
        Some(record(1))
    );
}

pub async fn of_racing_key_records_one_wins(store: Store) {
    let racers: Vec<_> = (1..=32)
        .map(|n| {
            let vault = store.vault.clone();
            tokio::spawn(async move { vault.key_record(Some(record(n))).await.expect("an answer") })
        })
        .collect();
    let told = futures::future::join_all(racers).await;
    let stored = store.vault.key_record(None).await.expect("an answer");
    assert!(stored.is_some());
    assert!(
        told.into_iter()
            .all(|told| told.expect("a racer") == stored),
        "all were told the same one"
    );
}

/// A value with a wrapping of this byte and a rest of all bytes there are.
fn wrapped(byte: u8) -> Sealed {
    let rest: Vec<u8> = (0..=255).collect();
    Sealed::wrapped(&[byte; Sealed::WRAPPING], &rest)
}

pub async fn wrappings_are_read_in_the_order_of_their_ids(store: Store) {
    let mut ids: Vec<_> = (0..7).map(|_| value_id()).collect();
    for (n, id) in ids.iter().enumerate().rev() {
        store.vault.put(*id, wrapped(n as u8)).await.expect("put");
    }
    ids.sort();
    let (mut found, mut after) = (vec![], None);
    loop {
        let page = store.vault.wrappings(after, 3).await.expect("wrappings");
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    assert_eq!(found.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    assert!(
        found
            .iter()
            .all(|(_, wrapping)| wrapping.len() == Sealed::WRAPPING && wrapping[0] < 7)
    );
    // What is too short to have a rest is nothing but wrapping.
    store
        .vault
        .put(value_id(), Sealed(Bytes::from_static(b"short")))
        .await
        .expect("put");
    store
        .vault
        .put(value_id(), Sealed(Bytes::new()))
        .await
        .expect("put");
    let last = store.vault.wrappings(after, 3).await.expect("wrappings");
    assert_eq!(
        last.iter()
            .map(|(_, wrapping)| &wrapping[..])
            .collect::<Vec<_>>(),
        [&b"short"[..], b""]
    );
}

pub async fn another_wrapping_takes_the_place_of_the_one_it_was_made_from_only(store: Store) {
    let (a, b) = (value_id(), value_id());
    store.vault.put(a, wrapped(1)).await.expect("put");
    store.vault.put(b, wrapped(1)).await.expect("put");
    let change = |id, from: u8, to: u8| {
        let bytes = |byte| Bytes::from(vec![byte; Sealed::WRAPPING]);
        WrappingChange {
            id,
            from: bytes(from),
            to: bytes(to),
        }
    };
    let rewrap = async |changes| store.vault.rewrap(changes).await.expect("an answer");
    assert_eq!(rewrap(vec![]).await, 0);
    assert_eq!(
        rewrap(vec![
            change(a, 1, 2),
            change(b, 9, 2),
            change(value_id(), 1, 2)
        ])
        .await,
        1
    );
    let [two, one] = [2, 1].map(|byte| Some(wrapped(byte).0.to_vec()));
    assert_eq!(got(&store, &[a, b]).await, [two.clone(), one.clone()]);
    assert_eq!(
        rewrap(vec![change(a, 1, 3)]).await,
        0,
        "somebody was there before"
    );
    // The same put again, after a failure of unknown outcome, still changes nothing.
    store.vault.put(a, wrapped(1)).await.expect("put");
    assert_eq!(got(&store, &[a]).await, [two]);
    let racers: Vec<_> = (10..26)
        .map(|byte| {
            let (vault, change) = (store.vault.clone(), change(b, 1, byte));
            tokio::spawn(async move { vault.rewrap(vec![change]).await.expect("an answer") })
        })
        .collect();
    let won: usize = futures::future::join_all(racers)
        .await
        .into_iter()
        .map(|won| won.expect("a racer"))
        .sum();
    assert_eq!(won, 1);
    let b = got(&store, &[b]).await[0].clone().expect("b");
    assert!(
        b.len() == Sealed::WRAPPING + 256
            && b[0] >= 10
            && b[Sealed::WRAPPING..] == wrapped(0).0[Sealed::WRAPPING..]
    );
}

pub async fn a_removed_value_does_not_come_back_wrapped(store: Store) {
    let id = value_id();
    store.vault.put(id, wrapped(1)).await.expect("put");
    store.vault.remove(&[id]).await.expect("removed");
    let (from, to) = (wrapped(1).split().0, wrapped(2).split().0);
    assert_eq!(
        store
            .vault
            .rewrap(vec![WrappingChange { id, from, to }])
            .await
            .expect("an answer"),
        0
    );
    assert_eq!(got(&store, &[id]).await, [None]);
}

pub async fn of_racing_renewals_of_the_key_record_one_wins(store: Store) {
    assert!(
        !store
            .vault
            .renew_key_record(&record(1), vec![9])
            .await
            .expect("an answer"),
        "there is none"
    );
    store
        .vault
        .key_record(Some(record(1)))
        .await
        .expect("an answer");
    let other = KeyRecord {
        salt: [2; 16],
        ..record(1)
    };
    for wrong in [record(2), other] {
        assert!(
            !store
                .vault
                .renew_key_record(&wrong, vec![9])
                .await
                .expect("an answer")
        );
    }
    let racers: Vec<_> = (1..=16)
        .map(|n| {
            let vault = store.vault.clone();
            tokio::spawn(async move {
                (
                    n,
                    vault
                        .renew_key_record(&record(1), vec![n; 3])
                        .await
                        .expect("an answer"),
                )
            })
        })
        .collect();
    let told = futures::future::join_all(racers)
        .await
        .into_iter()
        .map(|told| told.expect("a racer"));
    let won: Vec<_> = told.filter(|(_, won)| *won).collect();
    let [(n, _)] = won[..] else {
        panic!("{won:?} have won")
    };
    let stored = store.vault.key_record(None).await.expect("an answer");
    assert_eq!(
        stored,
        Some(KeyRecord {
            check: vec![n; 3],
            ..record(1)
        })
    );
}
