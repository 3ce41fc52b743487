//! Entries are cut by their bytes, and a change that is too large fails alone.

use serde_json::json;

use super::{Process, hold_up, start, whole};
use crate::samples::command_id;
use crate::store_contract::{fresh, mongo, sqlite};
use mcp_api::core::failure::Code;
use mcp_api::core::model::server::ServerConfig;
use mcp_api::ports::error::StoreError;
use mcp_api::ports::vault::Sealed;

const MIB: usize = 1 << 20;

fn config_of(bytes: usize) -> ServerConfig {
    let env = json!({ "PADDING": "x".repeat(bytes) });
    let config = json!({ "transportType": "stdio", "command": "true", "env": env });
    serde_json::from_value(config).expect("a configuration")
}

/// Large and small changes wait together. MongoDB holds 16 MiB in one document.
#[tokio::test(flavor = "multi_thread")]
async fn large_changes_do_not_take_small_changes_down() {
    let (store, _dir) = fresh(mongo).await;
    let process = Process::start(&store.log).await;
    let (gate, held) = hold_up(&process, 99).await;
    let mut changes = Box::pin(futures::future::join_all((0..24).map(|number| {
        let bytes = [10, 6 * MIB, 10, 17 * MIB][number % 4];
        process.register_with(command_id(), number, config_of(bytes))
    })));
    assert!(futures::poll!(&mut changes).is_pending());
    drop(gate);
    held.await.expect("a task").expect("made");
    for (number, change) in changes.await.into_iter().enumerate() {
        if number % 4 == 3 {
            let failure = change.expect_err("it is larger than a document");
            assert_eq!(failure.code, Code::PayloadTooLarge, "{failure}");
        } else {
            change.unwrap_or_else(|failure| panic!("change {number}: {failure}"));
        }
    }
    let entries = whole(&store.log).await;
    let commits: usize = entries.iter().map(|entry| entry.commits.len()).sum();
    assert_eq!(commits, 1 + 18);
    for entry in entries {
        let events = entry.commits.iter().flat_map(|commit| &commit.events);
        let bytes: usize = events.map(|event| event.data.get().len()).sum();
        assert!(bytes < 11 * MIB, "{bytes} bytes at {}", entry.position);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_takes_no_further_command_after_four_mebibytes() {
    let (store, _dir, process) = start().await;
    let (gate, held) = hold_up(&process, 99).await;
    let mut changes =
        Box::pin(futures::future::join_all((0..9).map(|number| {
            process.register_with(command_id(), number, config_of(MIB))
        })));
    assert!(futures::poll!(&mut changes).is_pending());
    drop(gate);
    held.await.expect("a task").expect("made");
    assert!(changes.await.iter().all(Result::is_ok));
    let entries = whole(&store.log).await;
    let commits: Vec<_> = entries.iter().map(|entry| entry.commits.len()).collect();
    assert_eq!(commits, [1, 3, 3, 3]);
}

/// A value that MongoDB cannot hold is refused, and a large list of ids is split.
#[tokio::test(flavor = "multi_thread")]
async fn the_vault_names_a_value_that_is_too_large() {
    let (store, _dir) = fresh(mongo).await;
    let id = crate::samples::value_id();
    let sealed = Sealed(vec![7; 17 * MIB].into());
    let refused = store.vault.put(id, sealed.clone()).await;
    assert!(
        matches!(refused, Err(StoreError::TooLarge { .. })),
        "{refused:?}"
    );
    let ids: Vec<_> = (0..400_000).map(|_| crate::samples::value_id()).collect();
    store.vault.remove(&ids).await.expect("removed");
    let found = store.vault.get(&ids).await.expect("an answer");
    assert_eq!(found.len(), ids.len());
    let (embedded, _place) = fresh(sqlite).await;
    embedded
        .vault
        .put(id, sealed)
        .await
        .expect("SQLite holds larger values");
}
