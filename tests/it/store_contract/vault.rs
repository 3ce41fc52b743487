//! The promises of a Vault.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::Store;
use crate::samples::value_id;
use crate::wait::wait_until;
use mcp_api::core::ids::ValueId;
use mcp_api::ports::vault::{KeyRecord, Sealed, WrappingChange};

async fn load(store: &Store, ids: &[ValueId]) -> Vec<Option<Vec<u8>>> {
    let sealed = store.vault.get(ids).await.expect("an answer");
    sealed
        .into_iter()
        .map(|sealed| sealed.map(|Sealed(bytes)| bytes.to_vec()))
        .collect()
}

pub async fn values_are_stored_loaded_and_removed(store: Store) {
    let a = value_id();
    let b = value_id();
    let missing = value_id();
    // A value can have any bytes, or none.
    let all: Vec<u8> = (0..=255).collect();
    store
        .vault
        .put(a, Sealed(Bytes::from(all.clone())))
        .await
        .expect("stored");
    store
        .vault
        .put(b, Sealed(Bytes::new()))
        .await
        .expect("stored");
    assert_eq!(
        load(&store, &[b, missing, a, b]).await,
        [Some(vec![]), None, Some(all), Some(vec![])]
    );
    assert!(load(&store, &[]).await.is_empty());
    store
        .vault
        .remove(&[a, missing])
        .await
        .expect("a missing value is no error");
    assert_eq!(load(&store, &[a, b]).await, [None, Some(vec![])]);
    store
        .vault
        .remove(&[a])
        .await
        .expect("a removed value is no error");
}

pub async fn a_value_never_changes(store: Store) {
    let id = value_id();
    store
        .vault
        .put(id, Sealed(Bytes::from_static(b"first")))
        .await
        .expect("stored");
    store
        .vault
        .put(id, Sealed(Bytes::from_static(b"first")))
        .await
        .expect("a repeat is no error");
    let _ = store
        .vault
        .put(id, Sealed(Bytes::from_static(b"second")))
        .await;
    assert_eq!(load(&store, &[id]).await, [Some(b"first".to_vec())]);
}

pub async fn many_values_at_the_same_time_are_all_stored(store: Store) {
    let mut values: Vec<_> = (0..300)
        .map(|number: u32| (value_id(), number.to_be_bytes().to_vec()))
        .collect();
    values.extend((0..3).map(|_| (value_id(), vec![7; 3 << 20])));
    // Each value is stored twice, as after a failure of unknown outcome.
    let puts = values.iter().chain(&values).map(|(id, bytes)| {
        let sealed = Sealed(Bytes::from(bytes.clone()));
        store.vault.put(*id, sealed)
    });
    for put in futures::future::join_all(puts).await {
        put.expect("stored");
    }
    let ids: Vec<_> = values.iter().map(|(id, _)| *id).collect();
    let stored = values.into_iter().map(|(_, bytes)| Some(bytes));
    assert!(load(&store, &ids).await.into_iter().eq(stored));
}

pub async fn values_have_an_age(store: Store) {
    let a = value_id();
    let b = value_id();
    for id in [a, b] {
        store
            .vault
            .put(id, Sealed(Bytes::from_static(b"x")))
            .await
            .expect("stored");
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
    wait_until("both values are older than zero seconds", async || {
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

pub async fn one_of_several_concurrent_key_records_is_stored(store: Store) {
    let tasks: Vec<_> = (1..=32)
        .map(|n| {
            let vault = store.vault.clone();
            tokio::spawn(async move { vault.key_record(Some(record(n))).await.expect("an answer") })
        })
        .collect();
    let answers = futures::future::join_all(tasks).await;
    let stored = store.vault.key_record(None).await.expect("an answer");
    assert!(stored.is_some());
    assert!(
        answers
            .into_iter()
            .all(|record| record.expect("a task") == stored),
        "all processes get the same record"
    );
}

/// Returns a value with a wrapping of this byte and a rest of all possible bytes.
fn wrapped(byte: u8) -> Sealed {
    let rest: Vec<u8> = (0..=255).collect();
    Sealed::wrapped(&[byte; Sealed::WRAPPING], &rest)
}

pub async fn wrappings_are_read_in_the_order_of_their_ids(store: Store) {
    let mut ids: Vec<_> = (0..7).map(|_| value_id()).collect();
    for (n, id) in ids.iter().enumerate().rev() {
        store
            .vault
            .put(*id, wrapped(n as u8))
            .await
            .expect("stored");
    }
    ids.sort();
    let mut found = vec![];
    let mut after = None;
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
    // A value that is too short for a rest is all wrapping.
    store
        .vault
        .put(value_id(), Sealed(Bytes::from_static(b"short")))
        .await
        .expect("stored");
    store
        .vault
        .put(value_id(), Sealed(Bytes::new()))
        .await
        .expect("stored");
    let last = store.vault.wrappings(after, 3).await.expect("wrappings");
    assert_eq!(
        last.iter()
            .map(|(_, wrapping)| &wrapping[..])
            .collect::<Vec<_>>(),
        [&b"short"[..], b""]
    );
}

pub async fn a_new_wrapping_replaces_only_the_wrapping_that_it_was_made_from(store: Store) {
    let a = value_id();
    let b = value_id();
    store.vault.put(a, wrapped(1)).await.expect("stored");
    store.vault.put(b, wrapped(1)).await.expect("stored");
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
    assert_eq!(load(&store, &[a, b]).await, [two.clone(), one.clone()]);
    assert_eq!(
        rewrap(vec![change(a, 1, 3)]).await,
        0,
        "another process has replaced the wrapping"
    );
    // A repeat of the first write, after a failure of unknown outcome, changes nothing.
    store.vault.put(a, wrapped(1)).await.expect("stored");
    assert_eq!(load(&store, &[a]).await, [two]);
    let tasks: Vec<_> = (10..26)
        .map(|byte| {
            let vault = store.vault.clone();
            let change = change(b, 1, byte);
            tokio::spawn(async move { vault.rewrap(vec![change]).await.expect("an answer") })
        })
        .collect();
    let won: usize = futures::future::join_all(tasks)
        .await
        .into_iter()
        .map(|won| won.expect("a task"))
        .sum();
    assert_eq!(won, 1);
    let b = load(&store, &[b]).await[0].clone().expect("b");
    assert!(
        b.len() == Sealed::WRAPPING + 256
            && b[0] >= 10
            && b[Sealed::WRAPPING..] == wrapped(0).0[Sealed::WRAPPING..]
    );
}

pub async fn a_new_wrapping_does_not_restore_a_removed_value(store: Store) {
    let id = value_id();
    store.vault.put(id, wrapped(1)).await.expect("stored");
    store.vault.remove(&[id]).await.expect("removed");
    let (from, _) = wrapped(1).split();
    let (to, _) = wrapped(2).split();
    assert_eq!(
        store
            .vault
            .rewrap(vec![WrappingChange { id, from, to }])
            .await
            .expect("an answer"),
        0
    );
    assert_eq!(load(&store, &[id]).await, [None]);
}

pub async fn one_of_several_concurrent_renewals_of_the_key_record_wins(store: Store) {
    assert!(
        !store
            .vault
            .renew_key_record(&record(1), vec![9])
            .await
            .expect("an answer"),
        "no record is stored"
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
    let tasks: Vec<_> = (1..=16)
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
    let answers = futures::future::join_all(tasks)
        .await
        .into_iter()
        .map(|answer| answer.expect("a task"));
    let won: Vec<_> = answers.filter(|(_, won)| *won).collect();
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
