//! The promises of a log that is shortened.

use super::Store;
use super::log::finished;
use crate::samples::{command_id, small_entry};
use mcp_api::core::ids::Position;
use mcp_api::ports::event_log::{BEGINNING_FOLD, ReadLimit};

async fn positions(store: &Store, after: u64) -> Vec<u64> {
    let entries = store
        .log
        .read(Position(after), ReadLimit::entries(100))
        .await;
    let entries = entries.expect("entries");
    entries.iter().map(|entry| entry.position.0).collect()
}

async fn remove(store: &Store, through: u64, limit: usize) -> u64 {
    let removed = store
        .log
        .remove_entries(Position(through), ReadLimit::entries(limit));
    removed.await.expect("removed")
}

pub async fn the_oldest_entries_are_removed_in_parts(store: Store) {
    let ids: Vec<_> = (0..6).map(|_| command_id()).collect();
    for (id, position) in ids.iter().zip(1..) {
        let entry = small_entry(position, *id);
        store.log.append(&entry, &[]).await.expect("appended");
    }
    assert_eq!(remove(&store, 3, 2).await, 2);
    assert_eq!(positions(&store, 0).await, [3, 4, 5, 6]);
    assert_eq!(remove(&store, 3, 2).await, 1);
    assert_eq!(remove(&store, 3, 2).await, 0);
    assert_eq!(positions(&store, 0).await, [4, 5, 6]);
    assert_eq!(positions(&store, 4).await, [5, 6]);
    for (id, position) in ids.iter().zip(1..) {
        let found = store.log.find_commit(*id).await.expect("an answer");
        let expected = (position > 3).then_some(Position(position));
        assert_eq!(found, expected, "the index has the commands that are left");
    }
    store.log.reclaim_space().await.expect("reclaimed");
    assert_eq!(positions(&store, 0).await, [4, 5, 6]);
}

pub async fn the_newest_entry_is_never_removed(store: Store) {
    assert_eq!(remove(&store, 9, 9).await, 0, "an empty log stays empty");
    for position in 1..=3 {
        let entry = small_entry(position, command_id());
        store.log.append(&entry, &[]).await.expect("appended");
    }
    assert_eq!(remove(&store, 9, 9).await, 2);
    assert_eq!(store.log.head().await.expect("a head"), Position(3));
    let next = small_entry(4, command_id());
    store
        .log
        .append(&next, &[])
        .await
        .expect("the log continues");
    assert_eq!(positions(&store, 0).await, [3, 4]);
}

pub async fn a_beginning_and_snapshots_do_not_replace_each_other(store: Store) {
    let beginning = finished(&store, BEGINNING_FOLD, 30, &[b"beginning"]).await;
    let snapshot = finished(&store, 9, 40, &[b"snapshot"]).await;
    let later = finished(&store, BEGINNING_FOLD, 50, &[b"later"]).await;
    let newest = async |fold| store.log.newest_snapshot(fold).await.expect("an answer");
    assert_eq!(newest(BEGINNING_FOLD).await, Some(later));
    assert_eq!(newest(9).await, Some(snapshot));
    let piece = async |head| store.log.snapshot_piece(head, 0).await.expect("an answer");
    assert_eq!(piece(&snapshot).await, Some(b"snapshot".to_vec()));
    assert_eq!(piece(&later).await, Some(b"later".to_vec()));
    assert_eq!(
        piece(&beginning).await,
        None,
        "only the newest beginning stays"
    );
}
