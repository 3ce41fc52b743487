//! Waiting commands become one entry, and each command is decided after the commands before it.

use super::{Process, folded, hold_up, shown, start, whole};
use crate::samples::command_id;
use mcp_api::core::failure::Code;
use mcp_api::core::ids::Position;

#[tokio::test(flavor = "multi_thread")]
async fn waiting_changes_become_one_entry() {
    let (store, _dir, process) = start().await;
    let (gate, held) = hold_up(&process, 64).await;
    let mut changes = Box::pin(futures::future::join_all(
        (0..64).map(|n| process.register(command_id(), n)),
    ));
    assert!(futures::poll!(&mut changes).is_pending());
    drop(gate);
    held.await.expect("a task").expect("made");
    let positions: Vec<_> = changes
        .await
        .into_iter()
        .map(|made| made.expect("made").position)
        .collect();
    let entries = whole(&store.log).await;
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.commits.len())
            .collect::<Vec<_>>(),
        [1, 64]
    );
    assert_eq!(positions, vec![Position(2); 64]);
    assert_eq!(process.projection.catalog().servers().len(), 65);
    assert_eq!(process.shown(), shown(&folded(&entries)));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_arrive_during_a_conflict_join_the_batch() {
    let (store, _dir, process) = start().await;
    let (gate, held) = hold_up(&process, 64).await;
    let mut changes = Box::pin(futures::future::join_all(
        (0..16).map(|n| process.register(command_id(), n)),
    ));
    assert!(futures::poll!(&mut changes).is_pending());
    let winner = Process::start(&store.log)
        .await
        .register(command_id(), 99)
        .await
        .expect("made");
    assert_eq!(winner.position, Position(1));
    drop(gate);
    held.await.expect("a task").expect("made");
    assert!(changes.await.iter().all(Result::is_ok));
    let entries = whole(&store.log).await;
    assert_eq!(
        entries
            .iter()
            .map(|entry| entry.commits.len())
            .collect::<Vec<_>>(),
        [1, 17]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_entries_are_folded_while_an_append_is_running() {
    let (store, _dir, process) = start().await;
    let (gate, held) = hold_up(&process, 1).await;
    let other = Process::start(&store.log)
        .await
        .register(command_id(), 2)
        .await
        .expect("made");
    assert!(
        process
            .projection
            .wait_for(other.position, crate::harness::PATIENCE)
            .await
    );
    drop(gate);
    assert_eq!(
        held.await.expect("a task").expect("made").position,
        Position(2)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_is_decided_after_the_commands_before_it() {
    let (store, _dir, process) = start().await;
    let changes = (0..32).map(|_| process.register(command_id(), 7));
    let made = futures::future::join_all(changes).await;
    assert_eq!(
        made.iter().filter(|made| made.is_ok()).count(),
        1,
        "a name is taken once"
    );
    let refused = made.into_iter().filter_map(Result::err);
    refused.for_each(|failure| assert_eq!(failure.code, Code::ServerAlreadyExists));
    assert_eq!(
        whole(&store.log).await.len(),
        1,
        "what was refused is not in the log"
    );
}
