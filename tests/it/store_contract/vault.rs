//! What a Vault must keep.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use mcp_api::core::names::ValueId;
use mcp_api::ports::{KeyRecord, Sealed};

use super::{Store, until};
use crate::samples::value_id;

async fn got(store: &Store, ids: &[ValueId]) -> Vec<Option<Vec<u8>>> {
    let sealed = store.vault.get(ids).await.expect("an answer");
    sealed.into_iter().map(|sealed| sealed.map(|Sealed(bytes)| bytes.to_vec())).collect()
}

pub async fn values_are_put_got_and_removed(store: Store) {
    let (a, b, nowhere) = (value_id(), value_id(), value_id());
    // Any bytes there are, none included.
    let all: Vec<u8> = (0..=255).collect();
    store.vault.put(a, Sealed(Bytes::from(all.clone()))).await.expect("put");
    store.vault.put(b, Sealed(Bytes::new())).await.expect("put");
    assert_eq!(got(&store, &[b, nowhere, a, b]).await, [Some(vec![]), None, Some(all), Some(vec![])]);
    assert!(got(&store, &[]).await.is_empty());
    store.vault.remove(&[a, nowhere]).await.expect("one that is not there is no error");
    assert_eq!(got(&store, &[a, b]).await, [None, Some(vec![])]);
    store.vault.remove(&[a]).await.expect("nor is one that was removed");
}

pub async fn a_value_never_changes(store: Store) {
    let id = value_id();
    store.vault.put(id, Sealed(Bytes::from_static(b"first"))).await.expect("put");
    store.vault.put(id, Sealed(Bytes::from_static(b"first"))).await.expect("the same put again is no error");
    let _ = store.vault.put(id, Sealed(Bytes::from_static(b"second"))).await;
    assert_eq!(got(&store, &[id]).await, [Some(b"first".to_vec())]);
}

pub async fn values_grow_old(store: Store) {
    let (a, b) = (value_id(), value_id());
    for id in [a, b] {
        store.vault.put(id, Sealed(Bytes::from_static(b"x"))).await.expect("put");
    }
    assert!(store.vault.older_than(Duration::from_secs(3600)).await.expect("ids").is_empty());
    let old = async || store.vault.older_than(Duration::ZERO).await.expect("ids").into_iter().collect::<HashSet<_>>();
    until("both are older than nothing", async || old().await == HashSet::from([a, b])).await;
    store.vault.remove(&[a]).await.expect("removed");
    assert_eq!(old().await, HashSet::from([b]));
}

fn record(n: u8) -> KeyRecord {
    KeyRecord { salt: [n; 16], check: vec![n; 40] }
}

pub async fn the_first_key_record_wins(store: Store) {
    assert_eq!(store.vault.key_record(None).await.expect("an answer"), None);
    assert_eq!(store.vault.key_record(Some(record(1))).await.expect("an answer"), Some(record(1)));
    assert_eq!(store.vault.key_record(Some(record(2))).await.expect("an answer"), Some(record(1)));
    assert_eq!(store.vault.key_record(None).await.expect("an answer"), Some(record(1)));
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
    assert!(told.into_iter().all(|told| told.expect("a racer") == stored), "all were told the same one");
}
