//! The files of SQLite hold no bytes of removed values.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use tempfile::TempDir;
use uuid::Uuid;

use crate::wait::wait_until;
use mcp_api::adapters::store_sqlite::SqliteStore;
use mcp_api::core::ids::ValueId;
use mcp_api::ports::vault::{Sealed, Vault};

const PLANTED: &[u8] = b"planted sealed bytes of a removed value";

/// Returns whether the file or its write-ahead log holds the planted bytes.
fn holds_planted(file: &Path) -> bool {
    ["", "-wal"].iter().any(|ending| {
        let path = format!("{}{ending}", file.display());
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(PLANTED.len()).any(|window| window == PLANTED)
    })
}

async fn put_planted(store: &SqliteStore) -> ValueId {
    let id = ValueId(Uuid::now_v7());
    let sealed = Sealed(Bytes::from_static(PLANTED));
    store.put(id, sealed).await.expect("stored");
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_value_soon_leaves_the_files() {
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("log.sqlite");
    let store = SqliteStore::open(&file).expect("a store");
    let id = put_planted(&store).await;
    assert!(holds_planted(&file));
    store.remove(&[id]).await.expect("removed");
    wait_until("the files hold no bytes of the value", async || {
        !holds_planted(&file)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_store_leaves_an_empty_write_ahead_log() {
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("log.sqlite");
    let store = SqliteStore::open(&file).expect("a store");
    put_planted(&store).await;
    store.get(&[ValueId(Uuid::nil())]).await.expect("an answer");
    drop(store);
    let log = fs::metadata(dir.path().join("log.sqlite-wal"));
    assert_eq!(log.map_or(0, |log| log.len()), 0);
}
