//! An acknowledged append survives kill -9. The test starts its own binary again and kills it.

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

/// The variable with the folder of the store. A process that has it is the child.
const FOLDER: &str = "STORE_CONTRACT_FOLDER";
const ROUNDS: u64 = 4;
const APPENDERS: usize = 4;

/// Runs the test. `own` is the name of the test that calls this function; a child runs only this test.
pub fn loses_nothing_acknowledged(open: Open, own: &str) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        runtime().block_on(append_for_ever(open, folder.as_ref()));
    }
    let folder = TempDir::new().expect("a temporary folder");
    let seed = u64::from_le_bytes(Uuid::new_v4().as_bytes()[..8].try_into().expect("8 bytes"));
    println!("seed {seed}");
    // This process starts the service of the store, because it is not killed.
    drop(runtime().block_on(open(folder.path())));
    let mut acknowledged = HashMap::new();
    for round in 0..ROUNDS {
        let moment = seed.rotate_left(16 * round as u32) & 0xffff;
        let new = append_until_killed(folder.path(), own, moment);
        println!(
            "round {round}: killed after {} acknowledged appends",
            new.len()
        );
        assert!(!new.is_empty(), "the child appended nothing");
        acknowledged.extend(new);
        runtime().block_on(check(open, folder.path(), &acknowledged));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Starts a child and kills it. The number of acknowledgements and the microseconds before the kill are random.
fn append_until_killed(folder: &Path, own: &str, moment: u64) -> HashMap<CommandId, Position> {
    let binary = std::env::current_exe().expect("the path of this program");
    let mut child = Command::new(binary)
        .args(["--exact", own, "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut acknowledged = HashMap::new();
    let mut first = String::new();
    while acknowledged.len() as u64 <= moment % 64 {
        first.clear();
        assert!(
            output.read_line(&mut first).expect("a line") > 0,
            "the child ended by itself"
        );
        acknowledged.extend(acknowledgement(&first));
    }
    // This is no wait for a condition. The test tries a random moment.
    std::thread::sleep(Duration::from_micros(moment / 8));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("the rest");
    // The kill may cut off the last line.
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    acknowledged.extend(whole.lines().filter_map(acknowledgement));
    acknowledged
}

/// Parses `acknowledged <position> <command>`. The test framework prints other lines.
fn acknowledgement(line: &str) -> Option<(CommandId, Position)> {
    let (position, id) = line.trim().strip_prefix("acknowledged ")?.split_once(' ')?;
    Some((
        CommandId(id.parse().expect("an id")),
        Position(position.parse().expect("a position")),
    ))
}

/// Appends from several tasks, and prints each position after the store has acknowledged it.
async fn append_for_ever(open: Open, folder: &Path) {
    let store = open(folder).await;
    let appenders = (0..APPENDERS).map(|_| tokio::spawn(append(store.clone())));
    futures::future::join_all(appenders).await;
}

/// Returns a value that the commit of a command names.
fn named_by(id: CommandId) -> [VaultValue; 1] {
    [VaultValue {
        id: ValueId(id.0),
        sealed: Sealed(Bytes::from_static(b"named")),
    }]
}

async fn append(store: Store) {
    loop {
        let next = store.log.head().await.expect("a head").next();
        let id = command_id();
        match store
            .log
            .append(&small_entry(next.0, id), &named_by(id))
            .await
        {
            // One write for each line, so that a kill never leaves two halves of a line.
            Ok(()) => std::io::stdout()
                .write_all(format!("acknowledged {next} {id}\n").as_bytes())
                .expect("a parent"),
            Err(AppendError::Taken) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn check(open: Open, folder: &Path, acknowledged: &HashMap<CommandId, Position>) {
    let store = open(folder).await;
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
            "the acknowledged commit {id} is at its position"
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
    let values = store.vault.get(&named).await.expect("an answer");
    assert!(
        values.iter().all(Option::is_some),
        "the Vault has every value that the log names, acknowledged or not"
    );
    let id = command_id();
    store
        .log
        .append(&small_entry(head.0 + 1, id), &named_by(id))
        .await
        .expect("the log continues");
}
