//! What is acknowledged survives a kill -9. The test's own binary, started again, is the victim.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use uuid::Uuid;

use super::{Open, Store};
use crate::samples::{command_id, small_entry};
use mcp_api::core::ids::{CommandId, Position, ValueId};
use mcp_api::ports::event_log::{AppendError, ReadLimit};
use mcp_api::ports::vault::{Sealed, VaultValue};

/// Where the child's store is. Set, this process is the child.
const PLACE: &str = "STORE_CONTRACT_PLACE";
const ROUNDS: u64 = 4;
const APPENDERS: usize = 4;

/// `own` is the name of the test that calls this: a child is told to run just that.
pub fn loses_nothing_acknowledged(open: Open, own: &str) {
    if let Some(place) = std::env::var_os(PLACE) {
        runtime().block_on(append_for_ever(open, place.as_ref()));
    }
    let place = TempDir::new().expect("a temporary folder");
    let seed = u64::from_le_bytes(Uuid::new_v4().as_bytes()[..8].try_into().expect("8 bytes"));
    println!("seed {seed}");
    // A store that is a service is started by this process, and not by one that is killed.
    drop(runtime().block_on(open(place.path())));
    let mut acknowledged = HashMap::new();
    for round in 0..ROUNDS {
        let moment = seed.rotate_left(16 * round as u32) & 0xffff;
        let new = append_until_killed(place.path(), own, moment);
        println!(
            "round {round}: killed after {} acknowledged appends",
            new.len()
        );
        assert!(!new.is_empty(), "the child appended nothing");
        acknowledged.extend(new);
        runtime().block_on(check(open, place.path(), &acknowledged));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Starts a child and kills it some microseconds after some acknowledgements, both by chance.
fn append_until_killed(place: &Path, own: &str, moment: u64) -> HashMap<CommandId, Position> {
    let binary = std::env::current_exe().expect("our own path");
    let mut child = Command::new(binary)
        .args(["--exact", own, "--nocapture"])
        .env(PLACE, place)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
    let (mut told, mut first) = (HashMap::new(), String::new());
    while told.len() as u64 <= moment % 64 {
        first.clear();
        assert!(
            said.read_line(&mut first).expect("a line") > 0,
            "the child ended by itself"
        );
        told.extend(acknowledgement(&first));
    }
    // Not waiting for anything: the moment itself is what is tried.
    std::thread::sleep(Duration::from_micros(moment / 8));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("the rest");
    // A last line without its end was cut off by the kill.
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    told.extend(whole.lines().filter_map(acknowledgement));
    told
}

/// `acknowledged <position> <command>`; the test framework prints other lines.
fn acknowledgement(line: &str) -> Option<(CommandId, Position)> {
    let (position, id) = line.trim().strip_prefix("acknowledged ")?.split_once(' ')?;
    Some((
        CommandId(id.parse().expect("an id")),
        Position(position.parse().expect("a position")),
    ))
}

/// The child: appends from several tasks and says each position after it was acknowledged.
async fn append_for_ever(open: Open, place: &Path) {
    let store = open(place).await;
    let appenders = (0..APPENDERS).map(|_| tokio::spawn(append(store.clone())));
    futures::future::join_all(appenders).await;
}

/// A value that goes with that command.
fn named_by(id: CommandId) -> [VaultValue; 1] {
    [VaultValue {
        id: ValueId(id.0),
        sealed: Sealed(Bytes::from_static(b"named")),
    }]
}

async fn append(store: Store) {
    loop {
        let (next, id) = (store.log.head().await.expect("a head").next(), command_id());
        match store
            .log
            .append(&small_entry(next.0, id), &named_by(id))
            .await
        {
            // One write, so that a kill cuts a line off and never into two.
            Ok(()) => std::io::stdout()
                .write_all(format!("acknowledged {next} {id}\n").as_bytes())
                .expect("a parent"),
            Err(AppendError::Taken) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn check(open: Open, place: &Path, acknowledged: &HashMap<CommandId, Position>) {
    let store = open(place).await;
    let head = store.log.head().await.expect("a head");
    let read = store
        .log
        .read(Position(0), ReadLimit::entries(usize::MAX >> 1))
        .await
        .expect("entries");
    let positions: Vec<u64> = read.iter().map(|entry| entry.position.0).collect();
    assert_eq!(positions, (1..=head.0).collect::<Vec<_>>(), "no gap");
    let stored: HashMap<_, _> = read
        .iter()
        .map(|entry| (entry.commits[0].command_id, entry.position))
        .collect();
    for (id, position) in acknowledged {
        assert_eq!(
            stored.get(id),
            Some(position),
            "the acknowledged commit {id} is where it was said to be"
        );
        assert_eq!(
            store.log.find_commit(*id).await.expect("an answer"),
            Some(*position)
        );
    }
    let named: Vec<_> = stored
        .keys()
        .flat_map(|id| named_by(*id))
        .map(|value| value.id)
        .collect();
    let there = store.vault.get(&named).await.expect("an answer");
    assert!(
        there.iter().all(Option::is_some),
        "what the log names is in the Vault, acknowledged or not"
    );
    let id = command_id();
    store
        .log
        .append(&small_entry(head.0 + 1, id), &named_by(id))
        .await
        .expect("and it goes on");
}
