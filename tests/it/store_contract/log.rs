//! What an event log must keep.

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
    let some = read(0, 100, 1_000).await;
    assert!(some.len() > 1 && some.len() < 6, "{some:?}");
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
        "what is read is what was appended, to the byte"
    );
    let some: Vec<_> = store
        .log
        .read(Position(1), ReadLimit::entries(2))
        .await
        .expect("entries")
        .iter()
        .map(|e| e.position.0)
        .collect();
    assert_eq!(some, [2, 3]);
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
    let (a, b, c) = (command_id(), command_id(), command_id());
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

pub async fn values_are_put_with_the_append_that_names_them(store: Store) {
    let value = |bytes| VaultValue {
        id: value_id(),
        sealed: Sealed(Bytes::from_static(bytes)),
    };
    let (a, b, ahead) = (value(b"a"), value(b"b"), value(b"ahead"));
    let there = async |values: &[VaultValue]| {
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
    assert!(there(&[a.clone(), b.clone()]).await);

    let left = store
        .log
        .prepare_values(vec![ahead.clone()])
        .await
        .expect("put, or left to the append");
    assert_eq!(
        left.is_empty(),
        there(from_ref(&ahead)).await,
        "what is not given back is there"
    );
    store
        .log
        .append(&small_entry(2, command_id()), &left)
        .await
        .expect("appended");
    assert!(there(&[ahead]).await);
    // After an outcome that was unknown the same is put once more.
    store
        .log
        .append(&small_entry(3, command_id()), from_ref(&a))
        .await
        .expect("appended");
    assert!(there(&[a, b]).await);
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
        let (late, entry) = (command_id(), position);
        let refused = store.log.append(&small_entry(entry, late), &[]).await;
        assert!(
            matches!(refused, Err(AppendError::Taken)),
            "{position}: {refused:?}"
        );
        assert_eq!(
            store.log.find_commit(late).await.expect("an answer"),
            None,
            "nothing of it stays"
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
        let (early, entry) = (command_id(), position);
        let refused = store.log.append(&small_entry(entry, early), &[]).await;
        assert!(
            matches!(refused, Err(AppendError::Store(_))),
            "{position}: {refused:?}"
        );
        assert_eq!(
            store.log.find_commit(early).await.expect("an answer"),
            None,
            "nothing of it stays"
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
    let (old, before, after) = (command_id(), command_id(), command_id());
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
            "nothing of it stays"
        );
    }
    // The position is still free, and so are the commands that had no fault.
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
        .map(|_| tokio::spawn(append_some(store.clone(), EACH)))
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
        "every commit is there once, where it was acknowledged"
    );
}

async fn append_some(store: Store, count: usize) -> Vec<(Position, mcp_api::core::ids::CommandId)> {
    let mut done = Vec::new();
    while done.len() < count {
        let (next, id) = (store.log.head().await.expect("a head").next(), command_id());
        match store.log.append(&small_entry(next.0, id), &[]).await {
            Ok(()) => done.push((next, id)),
            // Somebody was first: look again where the end is.
            Err(AppendError::Taken) => {}
            Err(error) => panic!("{error}"),
        }
    }
    done
}

/// A snapshot of these pieces, made as a process makes it.
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
    let of = async |n| {
        store
            .log
            .snapshot_piece(snapshot, n)
            .await
            .expect("an answer")
    };
    futures::future::join_all((0..snapshot.pieces).map(of)).await
}

pub async fn the_newest_snapshot_wins(store: Store) {
    let newest = async |fold| store.log.newest_snapshot(fold).await.expect("an answer");
    let ten = finished(&store, 1, 10, &[b"t", b"", b"en"]).await;
    assert_eq!(
        pieces(&store, &ten).await,
        [Some(b"t".to_vec()), Some(vec![]), Some(b"en".to_vec())]
    );
    let of_another_fold = finished(&store, 2, 30, &[b"thirty"]).await;
    // What is being made is nobody's business yet.
    let late = begun(&store, 1, 40, &[b"for", b"ty"]).await;
    assert_eq!(newest(1).await, Some(ten));
    let twenty = finished(&store, 1, 20, &[b"twenty"]).await;
    assert_eq!(
        pieces(&store, &ten).await,
        [None, None, None],
        "what is in vain is dropped"
    );
    // A slow one that comes too late, and another of the same position.
    for at in [15, 20] {
        let vain = finished(&store, 1, at, &[b"in vain"]).await;
        assert_eq!(
            (newest(1).await, pieces(&store, &vain).await),
            (Some(twenty), vec![None])
        );
    }
    assert_eq!(pieces(&store, &twenty).await, [Some(b"twenty".to_vec())]);
    store.log.finish_snapshot(&late).await.expect("finished");
    assert_eq!(
        (newest(1).await, pieces(&store, &late).await.len()),
        (Some(late), 2)
    );
    assert_eq!(
        (newest(2).await, newest(3).await),
        (Some(of_another_fold), None)
    );
}
