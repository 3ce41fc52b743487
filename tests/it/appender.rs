//! The appender and the projection over the ports: no change is lost or doubled, and all processes see one order.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::samples::{
    command_id, commit, config, enabled, entry, registered, secret_set, server_id, small_entry,
    snapshot,
};
use crate::store_contract::{Store, finished, fresh, sqlite};
use crate::wait::wait_until;
use mcp_api::adapters::bus_local::LocalBus;
use mcp_api::core::catalog::{Catalog, FOLD_VERSION};
use mcp_api::core::command::{ChangeOrigin, RegisterServer};
use mcp_api::core::decide::server::register_server;
use mcp_api::core::event::{Actor, DecodeError, Entry, Event, ServerToolsDiscovered, StoredEvent};
use mcp_api::core::failure::{Code, Failure};
use mcp_api::core::ids::{CommandId, Position};
use mcp_api::core::model::tool::Tools;
use mcp_api::eventlog::appender::{Appender, Committed};
use mcp_api::eventlog::projection::Projection;
use mcp_api::eventlog::snapshot;
use mcp_api::ports::event_log::{EventLog, ReadLimit};

/// The projection and the appender of one process, on a bus of its own.
struct Process {
    projection: Arc<Projection>,
    appender: Appender,
}

impl Process {
    async fn start(log: &Arc<dyn EventLog>) -> Self {
        let projection = Projection::open(log.clone(), LocalBus::new())
            .await
            .expect("followed");
        Self {
            appender: Appender::start(projection.clone()),
            projection,
        }
    }

    async fn register(&self, id: CommandId, number: usize) -> Result<Committed, Failure> {
        let name = format!("server-{number}").parse().expect("a name");
        let command = RegisterServer {
            origin: ChangeOrigin::new(id, Actor::default()),
            server: server_id(number),
            name,
            config: config(),
            enabled: true,
            session: None,
            sealed: vec![],
        };
        self.appender
            .commit(id, Actor::default(), move |catalog| {
                register_server(catalog, &command)
            })
            .await
    }

    fn shown(&self) -> String {
        shown(&self.projection.catalog())
    }
}

async fn start() -> (Store, TempDir, Process) {
    let (store, dir) = fresh(sqlite).await;
    let process = Process::start(&store.log).await;
    (store, dir, process)
}

/// Returns the whole catalog as text.
fn shown(catalog: &Catalog) -> String {
    String::from_utf8(snapshot(catalog)).expect("JSON")
}

/// Returns the whole log, and checks that it has no gap and no command twice.
async fn whole(log: &Arc<dyn EventLog>) -> Vec<Entry> {
    let entries = log
        .read(Position(0), ReadLimit::entries(1_000_000))
        .await
        .expect("entries");
    let positions: Vec<u64> = entries.iter().map(|entry| entry.position.0).collect();
    assert_eq!(positions, (1..=entries.len() as u64).collect::<Vec<_>>());
    let mut ids: Vec<_> = entries
        .iter()
        .flat_map(|entry| &entry.commits)
        .map(|commit| commit.command_id)
        .collect();
    ids.sort();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all, "a command is in the log twice");
    entries
}

fn folded(entries: &[Entry]) -> Catalog {
    let mut catalog = Catalog::default();
    entries
        .iter()
        .for_each(|entry| catalog.fold(entry).expect("folded"));
    catalog
}

/// Blocks the appender of a process in one decision until the gate is dropped.
async fn hold_up(
    process: &Process,
    number: usize,
) -> (mpsc::Sender<()>, JoinHandle<Result<Committed, Failure>>) {
    let (gate, opened) = mpsc::channel();
    let (began, begun) = tokio::sync::oneshot::channel();
    let (opened, began) = (Mutex::new(opened), Mutex::new(Some(began)));
    let appender = process.appender.clone();
    let held = tokio::spawn(async move {
        let decide = move |_: &Catalog| {
            began
                .lock()
                .expect("a lock")
                .take()
                .into_iter()
                .for_each(|began| began.send(()).expect("heard"));
            let _ = opened.lock().expect("a lock").recv();
            Ok(vec![registered(number)])
        };
        appender
            .commit(command_id(), Actor::default(), decide)
            .await
    });
    begun.await.expect("it decides");
    (gate, held)
}

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
        .expect_err("nobody can decide past it");
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

fn from_the_future() -> StoredEvent {
    let event = r#"{"type":"server.cloned","v":3,"subject":"server/x","data":{}}"#;
    serde_json::from_str(event).expect("a stored event")
}

/// Returns a year of changes: this many commits, 100 in each entry.
fn history(count: usize) -> Vec<Entry> {
    const SERVERS: usize = 200;
    let event = |n: usize| match n {
        n if n < SERVERS => registered(n),
        n if n % 3 == 0 => secret_set(n % SERVERS, &format!("user-{}", n % 7), "token"),
        n => enabled(n % SERVERS, n % 2 == 0),
    };
    let commits: Vec<_> = (0..count)
        .map(|n| commit(command_id(), &[event(n)]))
        .collect();
    let appends = commits.chunks(100).zip(1..);
    appends
        .map(|(commits, position)| entry(position, commits.to_vec()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_the_tail_equal_a_full_fold() {
    let (store, _dir) = fresh(sqlite).await;
    let entries = history(2_000);
    for entry in &entries {
        store.log.append(entry, &[]).await.expect("appended");
    }
    for at in [1, 13, entries.len()] {
        snapshot::save_snapshot(&*store.log, folded(&entries[..at]).into())
            .await
            .expect("saved");
        let process = Process::start(&store.log).await;
        assert_eq!(
            process.shown(),
            shown(&folded(&entries)),
            "from a snapshot at {at}"
        );
    }
    // The process also starts with a snapshot that cannot be decoded, or of another fold version.
    let head = entries.len() as u64 + 1;
    for (fold, unreadable) in [(FOLD_VERSION, "{"), (FOLD_VERSION + 1, "{}")] {
        finished(&store, fold, head, &[unreadable.as_bytes()]).await;
    }
    assert_eq!(
        Process::start(&store.log).await.shown(),
        shown(&folded(&entries))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_stored_as_its_server_wrote_it() {
    let (store, _dir) = fresh(sqlite).await;
    let mut catalog = folded(&history(10));
    let written = "{\n  \"name\": \"echo\",\r\n\t\"inputSchema\": {\"type\": \"object\"}\n}";
    let tool: Box<RawValue> = serde_json::from_str(written).expect("JSON");
    let (server, name) = catalog
        .servers()
        .first()
        .map(|server| (server.id, server.name.clone()))
        .expect("a server");
    let Tools { digest, tools } = Tools::new(vec![tool.into()]);
    catalog.apply(
        &ServerToolsDiscovered {
            server,
            name: name.clone(),
            digest,
            tools,
            fencing_token: None,
        }
        .into(),
    );
    snapshot::save_snapshot(&*store.log, Arc::new(catalog))
        .await
        .expect("saved");
    let read = snapshot::load_snapshot(&*store.log)
        .await
        .expect("an answer")
        .expect("it can be read");
    let server = read.server(name.as_str()).expect("the server");
    assert_eq!(server.tools.tools[0].raw().get(), written);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_long_log_is_quick() {
    let (store, _dir) = fresh(sqlite).await;
    let mut entries = history(100_000);
    // This version cannot fold the first entry, so a process that folded it would halt.
    let beginning: Vec<Event> = vec![registered(0)];
    let known = std::mem::replace(&mut entries[0].commits[0], commit(command_id(), &beginning));
    entries[0].commits[0].events.push(from_the_future());
    for entry in &entries {
        store.log.append(entry, &[]).await.expect("appended");
    }
    entries[0].commits[0] = known;
    let whole = folded(&entries);
    let at = entries.len() - 10;
    snapshot::save_snapshot(&*store.log, folded(&entries[..at]).into())
        .await
        .expect("saved");

    let began = Instant::now();
    let process = Process::start(&store.log).await;
    let took = began.elapsed();
    println!("a start on 100,000 commits took {took:?}");
    assert_eq!(process.projection.halted(), None);
    assert_eq!(process.shown(), shown(&whole));
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_stored_while_the_log_grows() {
    let (store, _dir, process) = start().await;
    for position in 1..=2_000 {
        store
            .log
            .append(&small_entry(position, command_id()), &[])
            .await
            .expect("appended");
    }
    assert!(
        process
            .projection
            .wait_for(Position(2_000), crate::harness::PATIENCE)
            .await
    );
    wait_until("a snapshot is stored", async || {
        store
            .log
            .newest_snapshot(FOLD_VERSION)
            .await
            .expect("an answer")
            .is_some()
    })
    .await;
    let stored = snapshot::load_snapshot(&*store.log)
        .await
        .expect("an answer")
        .expect("a snapshot");
    assert_eq!(shown(&stored), process.shown());
}
