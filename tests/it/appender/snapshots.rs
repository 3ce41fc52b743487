//! A process starts from a snapshot and the entries after it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{Process, folded, from_the_future, shown, start};
use crate::samples::{command_id, commit, enabled, entry, registered, secret_set, small_entry};
use crate::store_contract::{finished, fresh, sqlite};
use crate::wait::wait_until;
use mcp_api::core::catalog::FOLD_VERSION;
use mcp_api::core::event::{Entry, Event, ServerToolsDiscovered};
use mcp_api::core::ids::Position;
use mcp_api::core::model::tool::Tools;
use mcp_api::eventlog::snapshot;

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
