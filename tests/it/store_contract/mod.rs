//! The promises of every store, written against the ports alone. An adapter joins with one line.

mod kill;
mod leases;
mod log;
mod removal;
mod vault;
mod wal;

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::OnceCell;

pub use self::log::finished;
use crate::services::mongod::Mongod;
use crate::wait::wait_for;
use mcp_api::adapters::store_mongo::{MongoOptions, MongoStore};
use mcp_api::adapters::store_sqlite::SqliteStore;
use mcp_api::ports::event_log::EventLog;
use mcp_api::ports::leases::Leases;
use mcp_api::ports::vault::Vault;

/// One store behind its three ports.
#[derive(Clone)]
pub struct Store {
    pub log: Arc<dyn EventLog>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
}

/// Opens or creates the store of a folder. A store without files uses the path of the folder as its name.
pub type Open = fn(&Path) -> BoxFuture<'_, Store>;

pub fn sqlite(folder: &Path) -> BoxFuture<'_, Store> {
    Box::pin(async move {
        let store = Arc::new(SqliteStore::open(&folder.join("store.sqlite")).expect("a store"));
        Store {
            log: store.clone(),
            vault: store.clone(),
            leases: store,
        }
    })
}

/// Opens a database of its own in the replica set that all tests share.
pub fn mongo(folder: &Path) -> BoxFuture<'_, Store> {
    Box::pin(mongo_at(folder, async || Mongod::shared().to_owned()))
}

/// Opens a database of its own in a server without a replica set.
pub fn mongo_standalone(folder: &Path) -> BoxFuture<'_, Store> {
    static ALONE: OnceCell<Vec<Mongod>> = OnceCell::const_new();
    Box::pin(mongo_at(folder, async || {
        Mongod::url(ALONE.get_or_init(async || vec![Mongod::standalone()]).await)
    }))
}

async fn mongo_at(folder: &Path, start: impl AsyncFn() -> String) -> Store {
    // A child of a test reads the server of its parent here.
    let note = folder.join("mongo.url");
    let url = match std::fs::read_to_string(&note) {
        Ok(url) => url,
        Err(_) => start().await,
    };
    std::fs::write(&note, &url).expect("a note");
    let digest = hex::encode(&Sha256::digest(folder.as_os_str().as_encoded_bytes())[..8]);
    // On a busy machine the first attempt may time out.
    let store = wait_for("MongoDB accepts a connection", move || {
        let options = MongoOptions {
            url: url.clone(),
            database: format!("t{digest}"),
            secrets: "secrets".into(),
        };
        async move { MongoStore::connect(options).await.ok().map(Arc::new) }
    })
    .await;
    Store {
        log: store.clone(),
        vault: store.clone(),
        leases: store,
    }
}

/// Returns an empty store and its folder, which exists until it is dropped.
pub async fn fresh(open: Open) -> (Store, TempDir) {
    let folder = TempDir::new().expect("a temporary folder");
    (open(folder.path()).await, folder)
}

/// Runs the whole suite on an adapter.
macro_rules! suite {
    ($adapter:ident: $($area:ident { $($promise:ident),+ $(,)? })+) => {
        mod $adapter {
            $(mod $area {
                use crate::store_contract as suite;
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    let (store, _folder) = suite::fresh(suite::$adapter).await;
                    suite::$area::$promise(store).await;
                })+
            })+

            /// The command line of the children names this test.
            #[test]
            fn kill_9_loses_nothing_acknowledged() {
                let own = concat!("store_contract::", stringify!($adapter), "::kill_9_loses_nothing_acknowledged");
                crate::store_contract::kill::loses_nothing_acknowledged(crate::store_contract::$adapter, own);
            }
        }
    };
}

macro_rules! adapters {
    ($($adapter:ident),+) => {
        $(suite! { $adapter:
            log {
                an_empty_log_is_empty,
                appends_are_read_in_order,
                a_read_ends_after_its_bytes,
                commands_are_found,
                values_are_stored_with_the_append_that_names_them,
                a_taken_position_is_refused,
                a_gap_is_refused,
                a_repeated_command_undoes_the_whole_append,
                one_command_twice_in_one_append_is_refused,
                concurrent_appenders_leave_no_gap,
                the_newest_snapshot_wins,
            }
            removal {
                the_oldest_entries_are_removed_in_parts,
                the_newest_entry_is_never_removed,
                a_beginning_and_snapshots_do_not_replace_each_other,
            }
            vault {
                values_are_stored_loaded_and_removed,
                a_value_never_changes,
                values_have_an_age,
                many_values_at_the_same_time_are_all_stored,
                the_first_key_record_wins,
                one_of_several_concurrent_key_records_is_stored,
                wrappings_are_read_in_the_order_of_their_ids,
                a_new_wrapping_replaces_only_the_wrapping_that_it_was_made_from,
                a_new_wrapping_does_not_restore_a_removed_value,
                one_of_several_concurrent_renewals_of_the_key_record_wins,
            }
            leases {
                another_worker_cannot_acquire_a_held_lease,
                a_worker_acquires_its_own_lease_again,
                a_released_lease_is_free,
                only_the_holder_can_release,
                an_expired_lease_is_free_and_cannot_be_renewed,
                a_renewed_lease_stays_valid,
                one_of_several_concurrent_workers_acquires_a_lease,
            }
        })+
    };
}

adapters!(sqlite, mongo, mongo_standalone);
