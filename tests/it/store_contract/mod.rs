//! What every store must keep, written against the ports alone. An adapter joins with one line.

mod kill;
mod leases;
mod log;
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

/// Opens the store of a place, or makes it. A place is a folder of the test's own; a store that does
/// not live in files takes its path for a name.
pub type Open = fn(&Path) -> BoxFuture<'_, Store>;

pub fn sqlite(place: &Path) -> BoxFuture<'_, Store> {
    Box::pin(async move {
        let store = Arc::new(SqliteStore::open(&place.join("store.sqlite")).expect("a store"));
        Store {
            log: store.clone(),
            vault: store.clone(),
            leases: store,
        }
    })
}

/// A database of its own in a replica set of one that all tests share.
pub fn mongo(place: &Path) -> BoxFuture<'_, Store> {
    Box::pin(mongo_at(place, async || Mongod::shared().to_owned()))
}

/// The same where there is no replica set.
pub fn mongo_standalone(place: &Path) -> BoxFuture<'_, Store> {
    static ALONE: OnceCell<Vec<Mongod>> = OnceCell::const_new();
    Box::pin(mongo_at(place, async || {
        Mongod::url(ALONE.get_or_init(async || vec![Mongod::standalone()]).await)
    }))
}

async fn mongo_at(place: &Path, start: impl AsyncFn() -> String) -> Store {
    // A child of a test finds its parent's server here.
    let noted = place.join("mongo.url");
    let url = match std::fs::read_to_string(&noted) {
        Ok(url) => url,
        Err(_) => start().await,
    };
    std::fs::write(&noted, &url).expect("a note");
    let digest = hex::encode(&Sha256::digest(place.as_os_str().as_encoded_bytes())[..8]);
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

/// An empty store, and the place it lives in for as long as that is held.
pub async fn fresh(open: Open) -> (Store, TempDir) {
    let place = TempDir::new().expect("a temporary folder");
    (open(place.path()).await, place)
}

/// Runs the whole suite on an adapter.
macro_rules! suite {
    ($adapter:ident: $($area:ident { $($promise:ident),+ $(,)? })+) => {
        mod $adapter {
            $(mod $area {
                use crate::store_contract as suite;
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    let (store, _place) = suite::fresh(suite::$adapter).await;
                    suite::$area::$promise(store).await;
                })+
            })+

            /// Named in the command line of its own children.
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
                values_are_put_with_the_append_that_names_them,
                a_taken_position_is_refused,
                a_gap_is_refused,
                a_repeated_command_undoes_the_whole_append,
                one_command_twice_in_one_append_is_refused,
                concurrent_appenders_leave_no_gap,
                the_newest_snapshot_wins,
            }
            vault {
                values_are_put_got_and_removed,
                a_value_never_changes,
                values_grow_old,
                the_first_key_record_wins,
                of_racing_key_records_one_wins,
                wrappings_are_read_in_the_order_of_their_ids,
                another_wrapping_takes_the_place_of_the_one_it_was_made_from_only,
                a_removed_value_does_not_come_back_wrapped,
                of_racing_renewals_of_the_key_record_one_wins,
            }
            leases {
                a_held_lease_is_not_given_away,
                the_own_lease_is_taken_again,
                a_released_lease_is_free,
                only_the_holder_can_release,
                an_expired_lease_is_free_and_cannot_be_renewed,
                a_renewed_lease_lives_on,
                of_racing_takers_one_wins,
            }
        })+
    };
}

adapters!(sqlite, mongo, mongo_standalone);
