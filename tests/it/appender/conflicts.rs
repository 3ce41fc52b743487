//! Several processes append to one log, and one of them may know more events than another.

use std::sync::Arc;
use std::time::Duration;

use super::{Process, folded, from_the_future, shown, start, whole};
use crate::samples::{command_id, small_entry};
use mcp_api::core::catalog::Catalog;
use mcp_api::core::event::DecodeError;
use mcp_api::core::failure::Code;
use mcp_api::core::ids::Position;

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_contend_and_agree() {
    let (store, _dir, process) = start().await;
    let processes = [
        Arc::new(process),
        Arc::new(Process::start(&store.log).await),
    ];
    let mut changes = Vec::new();
    for sender in 0..8 {
        let process = processes[sender % 2].clone();
        changes.push(tokio::spawn(async move {
            for n in 0..10 {
                let done = process
                    .register(command_id(), sender * 100 + n)
                    .await
                    .expect("made");
                assert!(
                    process.projection.position() >= done.position,
                    "a sender sees what it has changed"
                );
            }
        }));
    }
    futures::future::join_all(changes)
        .await
        .into_iter()
        .for_each(|sender| sender.expect("a sender"));
    let entries = whole(&store.log).await;
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.commits.len())
            .sum::<usize>(),
        80
    );
    let head = store.log.head().await.expect("a head");
    for process in &processes {
        assert!(
            process
                .projection
                .wait_for(head, crate::harness::PATIENCE)
                .await
        );
        assert_eq!(process.shown(), shown(&folded(&entries)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_catalog_does_not_replace_a_newer_one() {
    let (_store, _dir, process) = start().await;
    process.register(command_id(), 1).await.expect("made");
    let older = Catalog::clone(&process.projection.catalog());
    process.register(command_id(), 2).await.expect("made");
    // An appender may publish its own entry after the projection has folded later entries.
    process
        .projection
        .publish(older, &small_entry(1, command_id()));
    assert_eq!(process.projection.position(), Position(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_past_the_head_is_not_reached() {
    let (_store, _dir, process) = start().await;
    assert!(
        process
            .projection
            .wait_for(Position(0), Duration::ZERO)
            .await
    );
    assert!(
        !process
            .projection
            .wait_for(Position(1), Duration::from_millis(20))
            .await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_event_halts_changes_with_a_reason() {
    let (store, _dir, process) = start().await;
    process.register(command_id(), 1).await.expect("made");
    let mut new = small_entry(2, command_id());
    new.commits[0].events.push(from_the_future());
    store
        .log
        .append(&new, &[])
        .await
        .expect("a newer version's append");

    let refused = process
        .register(command_id(), 9)
        .await
        .expect_err("no process decides past it");
    assert_eq!(refused.code, Code::Unavailable);
    assert!(
        refused.message.contains("server.cloned v3"),
        "{}",
        refused.message
    );
    let unknown = DecodeError::Unknown {
        type_name: "server.cloned".into(),
        v: 3,
    };
    assert_eq!(process.projection.halted(), Some(&unknown));
    // Reads continue with the last complete catalog. No part of the entry is folded.
    assert_eq!(process.projection.position(), Position(1));
    assert_eq!(process.projection.catalog().servers().len(), 1);
    assert_eq!(store.log.head().await.expect("a head"), Position(2));
    assert_eq!(
        Process::start(&store.log).await.projection.halted(),
        Some(&unknown),
        "a restart does not help"
    );
}
