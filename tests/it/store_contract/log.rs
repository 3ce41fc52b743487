//! The promises of an event log.

use std::collections::HashSet;
use std::slice::from_ref;

use bytes::Bytes;
use uuid::Uuid;

use super::Store;
use crate::samples::{command_id, commit, entry, registered, small_entry, value_id};
use mcp_api::core::ids::Position;
use mcp_api::ports::event_log::{AppendError, ReadLimit, SnapshotHead};
use mcp_api::ports::vault::{Sealed, VaultValue};

pub async fn an_empty_log_is_empty(store: Store) {
    assert_eq!(store.log.head().await.expect("a head"), Position(0));
    assert!(
        store
            .log
            .read(Position(0), ReadLimit::entries(10))
            .await
            .expect("entries")
            .is_empty()
    );
    assert_eq!(
        store
            .log
            .find_commit(command_id())
            .await
            .expect("an answer"),
        None
    );
    assert_eq!(store.log.newest_snapshot(1).await.expect("an answer"), None);
}

pub async fn a_read_ends_after_its_bytes(store: Store) {
    for number in 1..=6 {
        let entry = small_entry(number, command_id());
        store.log.append(&entry, &[]).await.expect("appended");
    }
    let read = async |after, entries, bytes| {
        let limit = ReadLimit { entries, bytes };
        let read = store.log.read(Position(after), limit).await;
        let read = read.expect("entries");
        read.iter()
            .map(|entry| entry.position.0)
            .collect::<Vec<_>>()
    };
    // An entry is returned however large it is.
    assert_eq!(read(0, 100, 1).await, [1]);
    assert_eq!(read(1, 100, 1).await, [2]);
    let first = read(0, 100, 1_000).await;
    assert!(first.len() > 1 && first.len() < 6, "{first:?}");
    assert_eq!(read(0, 100, usize::MAX).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(4, 1, usize::MAX).await, [5]);
}

pub async fn appends_are_read_in_order(store: Store) {
    let written: Vec<_> = (1..=5).map(|n| small_entry(n, command_id())).collect();
    for entry in &written {
        store.log.append(entry, &[]).await.expect("appended");
        assert_eq!(store.log.head().await.expect("a head"), entry.position);
    }
    let read = store
        .log
        .read(Position(0), ReadLimit::entries(100))
        .await
        .expect("entries");
    assert_eq!(
        format!("{read:?}"),
        format!("{written:?}"),
        "a read returns the appended bytes"
    );
    let positions: Vec<_> = store
        .log
        .read(Position(1), ReadLimit::entries(2))
        .await
        .expect("entries")
        .iter()
        .map(|entry| entry.position.0)
        .collect();
    assert_eq!(positions, [2, 3]);
    assert!(
        store
            .log
            .read(Position(5), ReadLimit::entries(100))
            .await
            .expect("entries")
            .is_empty()
    );
}

pub async fn commands_are_found(store: Store) {
    let a = command_id();
    let b = command_id();
    let c = command_id();
    store
        .log
        .append(&small_entry(1, a), &[])
        .await
        .expect("appended");
    let two = entry(
        2,
        vec![
            commit(b, &[registered(1)]),
            commit(c, &[registered(2), registered(3)]),
        ],
    );
    store.log.append(&two, &[]).await.expect("appended");
    for (id, position) in [
        (a, Some(1)),
        (b, Some(2)),
        (c, Some(2)),
        (command_id(), None),
    ] {
        assert_eq!(
            store.log.find_commit(id).await.expect("an answer"),
            position.map(Position)
        );
    }
}

pub async fn values_are_stored_with_the_append_that_names_them(store: Store) {
    let value = |bytes| VaultValue {
        id: value_id(),
        sealed: Sealed(Bytes::from_static(bytes)),
    };
    let a = value(b"a");
    let b = value(b"b");
    let early = value(b"early");
    let are_stored = async |values: &[VaultValue]| {
        let ids: Vec<_> = values.iter().map(|value| value.id).collect();
        let found = store.vault.get(&ids).await.expect("an answer");
        values
            .iter()
            .zip(found)
            .all(|(value, found)| found.as_ref() == Some(&value.sealed))
    };
    store
        .log
        .append(&small_entry(1, command_id()), &[a.clone(), b.clone()])
        .await
        .expect("appended");
    assert!(are_stored(&[a.clone(), b.clone()]).await);

    let left = store
        .log
        .prepare_values(vec![early.clone()])
        .await
        .expect("stored, or left to the append");
    assert_eq!(
        left.is_empty(),
        are_stored(from_ref(&early)).await,
        "the store has a value that it does not return"
    );
    store
        .log
        .append(&small_entry(2, command_id()), &left)
        .await
        .expect("appended");
    assert!(are_stored(&[early]).await);
    // After an unknown outcome, the appender stores the same value again.
    store
        .log
        .append(&small_entry(3, command_id()), from_ref(&a))
        .await
        .expect("appended");
    assert!(are_stored(&[a, b]).await);
}

pub async fn a_taken_position_is_refused(store: Store) {
    let first = command_id();
    store
        .log
        .append(&small_entry(1, first), &[])
        .await
        .expect("appended");
    store
        .log
        .append(&small_entry(2, command_id()), &[])
        .await
        .expect("appended");
    for position in [0, 1, 2] {
        let late = command_id();
        let refused = store.log.append(&small_entry(position, late), &[]).await;
        assert!(
            matches!(refused, Err(AppendError::Taken)),
            "{position}: {refused:?}"
        );
        assert_eq!(
            store.log.find_commit(late).await.expect("an answer"),
            None,
            "no part of the append stays"
        );
    }
    let read = store
        .log
        .read(Position(0), ReadLimit::entries(10))
        .await
        .expect("entries");
    assert_eq!((read.len(), read[0].commits[0].command_id), (2, first));
}

pub async fn a_gap_is_refused(store: Store) {
    for position in [2, 7] {
        let early = command_id();
        let refused = store.log.append(&small_entry(position, early), &[]).await;
        assert!(
            matches!(refused, Err(AppendError::Store(_))),
            "{position}: {refused:?}"
        );
        assert_eq!(
            store.log.find_commit(early).await.expect("an answer"),
            None,
            "no part of the append stays"
        );
    }
    assert_eq!(store.log.head().await.expect("a head"), Position(0));
    store
        .log
        .append(&small_entry(1, command_id()), &[])
        .await
        .expect("the next position is free");
}

pub async fn a_repeated_command_undoes_the_whole_append(store: Store) {
    let old = command_id();
    let before = command_id();
    let after = command_id();
    store
        .log
        .append(&small_entry(1, old), &[])
        .await
        .expect("appended");
    let commits = [before, old, after]
        .map(|id| commit(id, &[registered(7)]))
        .to_vec();
    let refused = store.log.append(&entry(2, commits), &[]).await;
    assert!(
        matches!(refused, Err(AppendError::Repeated(id)) if id == old),
        "{refused:?}"
    );
    assert_eq!(store.log.head().await.expect("a head"), Position(1));
    assert_eq!(
        store.log.find_commit(old).await.expect("an answer"),
        Some(Position(1))
    );
    for id in [before, after] {
        assert_eq!(
            store.log.find_commit(id).await.expect("an answer"),
            None,
            "no part of the append stays"
        );
    }
    // The position and the other commands are still free.
    let commits = [before, after]
        .map(|id| commit(id, &[registered(7)]))
        .to_vec();
    store
        .log
        .append(&entry(2, commits), &[])
        .await
        .expect("appended");
}

pub async fn one_command_twice_in_one_append_is_refused(store: Store) {
    let id = command_id();
    let twice = entry(
        1,
        vec![commit(id, &[registered(1)]), commit(id, &[registered(2)])],
    );
    let refused = store.log.append(&twice, &[]).await;
    assert!(
        matches!(refused, Err(AppendError::Repeated(twice)) if twice == id),
        "{refused:?}"
    );
    assert_eq!(store.log.head().await.expect("a head"), Position(0));
}

pub async fn concurrent_appenders_leave_no_gap(store: Store) {
    const APPENDERS: usize = 16;
    const EACH: usize = 8;
    let tasks: Vec<_> = (0..APPENDERS)
        .map(|_| tokio::spawn(append_entries(store.clone(), EACH)))
        .collect();
    let mut acknowledged = HashSet::new();
    for task in tasks {
        for (position, id) in task.await.expect("an appender") {
            assert!(acknowledged.insert((position, id)), "acknowledged twice");
        }
    }
    let read = store
        .log
        .read(Position(0), ReadLimit::entries(10_000))
        .await
        .expect("entries");
    let positions: Vec<u64> = read.iter().map(|entry| entry.position.0).collect();
    assert_eq!(
        positions,
        (1..=(APPENDERS * EACH) as u64).collect::<Vec<_>>()
    );
    let found: HashSet<_> = read
        .iter()
        .map(|entry| (entry.position, entry.commits[0].command_id))
        .collect();
    assert_eq!(
        found, acknowledged,
        "every commit is in the log once, at its acknowledged position"
    );
}

async fn append_entries(
    store: Store,
    count: usize,
) -> Vec<(Position, mcp_api::core::ids::CommandId)> {
    let mut done = Vec::new();
    while done.len() < count {
        let next = store.log.head().await.expect("a head").next();
        let id = command_id();
        match store.log.append(&small_entry(next.0, id), &[]).await {
            Ok(()) => done.push((next, id)),
            // Another task was faster, so the head has moved.
            Err(AppendError::Taken) => {}
            Err(error) => panic!("{error}"),
        }
    }
    done
}

/// Stores a snapshot of these pieces, as a process does.
pub async fn finished(store: &Store, fold: u32, at: u64, pieces: &[&[u8]]) -> SnapshotHead {
    let snapshot = begun(store, fold, at, pieces).await;
    store
        .log
        .finish_snapshot(&snapshot)
        .await
        .expect("finished");
    snapshot
}

async fn begun(store: &Store, fold: u32, at: u64, pieces: &[&[u8]]) -> SnapshotHead {
    let mut snapshot = SnapshotHead {
        id: Uuid::now_v7(),
        fold,
        at: Position(at),
        pieces: 0,
    };
    for piece in pieces {
        store
            .log
            .put_snapshot_piece(&snapshot, piece.to_vec())
            .await
            .expect("put");
        snapshot.pieces += 1;
    }
    snapshot
}

async fn pieces(store: &Store, snapshot: &SnapshotHead) -> Vec<Option<Vec<u8>>> {
    let piece = async |n| {
        store
            .log
            .snapshot_piece(snapshot, n)
            .await
            .expect("an answer")
    };
    futures::future::join_all((0..snapshot.pieces).map(piece)).await
}

pub async fn the_newest_snapshot_wins(store: Store) {
    let newest = async |fold| store.log.newest_snapshot(fold).await.expect("an answer");
    let ten = finished(&store, 1, 10, &[b"t", b"", b"en"]).await;
    assert_eq!(
        pieces(&store, &ten).await,
        [Some(b"t".to_vec()), Some(vec![]), Some(b"en".to_vec())]
    );
    let other_fold = finished(&store, 2, 30, &[b"thirty"]).await;
    // An unfinished snapshot is not visible.
    let late = begun(&store, 1, 40, &[b"for", b"ty"]).await;
    assert_eq!(newest(1).await, Some(ten));
    let twenty = finished(&store, 1, 20, &[b"twenty"]).await;
    assert_eq!(
        pieces(&store, &ten).await,
        [None, None, None],
        "the store removes the pieces of an older snapshot"
    );
    // A slow snapshot that comes too late, and another snapshot of the same position.
    for at in [15, 20] {
        let late = finished(&store, 1, at, &[b"too late"]).await;
        assert_eq!(
            (newest(1).await, pieces(&store, &late).await),
            (Some(twenty), vec![None])
        );
    }
    assert_eq!(pieces(&store, &twenty).await, [Some(b"twenty".to_vec())]);
    store.log.finish_snapshot(&late).await.expect("finished");
    assert_eq!(
        (newest(1).await, pieces(&store, &late).await.len()),
        (Some(late), 2)
    );
    assert_eq!((newest(2).await, newest(3).await), (Some(other_fold), None));
}
