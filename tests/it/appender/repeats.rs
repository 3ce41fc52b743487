//! A repeated command is committed once.

use super::{Process, start, whole};
use crate::samples::{command_id, registered};
use mcp_api::core::event::Actor;
use mcp_api::core::failure::Code;
use mcp_api::core::ids::Position;
use mcp_api::eventlog::appender::Committed;

fn same(again: &Committed, first: &Committed) {
    assert_eq!(
        (again.position, &again.events),
        (first.position, &first.events)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_command_gets_the_first_commit() {
    let (store, _dir, process) = start().await;
    let id = command_id();
    let first = process.register(id, 1).await.expect("made");
    assert_eq!((first.position, first.events.len()), (Position(1), 1));
    process.register(command_id(), 2).await.expect("made");
    // A new decision would refuse the command, because its first commit has taken the name.
    same(
        &process.register(id, 1).await.expect("it has happened"),
        &first,
    );
    // A new decision would change nothing.
    let idle = process
        .appender
        .commit(id, Actor::default(), |_| Ok(vec![]))
        .await;
    same(&idle.expect("it has happened"), &first);
    // A new decision would change the state a second time.
    let other = process
        .appender
        .commit(id, Actor::default(), |_| Ok(vec![registered(3)]))
        .await;
    same(&other.expect("it has happened"), &first);
    // Another process, and a process after a restart, return the same commit.
    let restarted = Process::start(&store.log).await;
    same(
        &restarted.register(id, 1).await.expect("it has happened"),
        &first,
    );
    assert_eq!(whole(&store.log).await.len(), 2);
    // The refusal of another command stays a refusal.
    assert_eq!(
        process
            .register(command_id(), 1)
            .await
            .expect_err("taken")
            .code,
        Code::ServerAlreadyExists
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_sent_twice_at_once_is_committed_once() {
    let (store, _dir, process) = start().await;
    let other = Process::start(&store.log).await;
    for round in 0..20 {
        let id = command_id();
        let made = futures::future::join_all(
            (0..8)
                .map(|n| if n % 2 == 0 { &process } else { &other })
                .map(|at| {
                    at.appender
                        .commit(id, Actor::default(), move |_| Ok(vec![registered(round)]))
                }),
        );
        let made: Vec<_> = made
            .await
            .into_iter()
            .map(|made| made.expect("made"))
            .collect();
        made.iter().for_each(|again| same(again, &made[0]));
    }
    assert_eq!(
        whole(&store.log)
            .await
            .iter()
            .map(|entry| entry.commits.len())
            .sum::<usize>(),
        20
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_events_is_not_in_the_log() {
    let (store, _dir, process) = start().await;
    process.register(command_id(), 1).await.expect("made");
    let idle = process
        .appender
        .commit(command_id(), Actor::default(), |_| Ok(vec![]))
        .await
        .expect("no change");
    assert_eq!((idle.position, idle.events.len()), (Position(1), 0));
    assert_eq!(whole(&store.log).await.len(), 1);
}
