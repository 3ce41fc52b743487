//! The store that many processes share: MongoDB, as one server or as a replica set, without
//! transactions.
//!
//! An acknowledged write is on the disks of a majority. Every read goes to the primary and returns
//! data that a majority has, so MongoDB never rolls back data that a process has read.

mod error;
mod leases;
mod log;
mod snapshots;
mod vault;
mod vault_writer;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadConcern, ReadPreference,
    SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};

use self::error::{store_error, with_timeout};
use self::vault_writer::VaultWriter;
use crate::ports::error::StoreError;

/// The longest search for a server, so that an unreachable MongoDB delays a request no longer.
const SELECTION_LIMIT: Duration = Duration::from_millis(800);
/// MongoDB removes the document of a lease this long after the end of the lease.
const LEASE_DOCUMENT_TTL: Duration = Duration::from_secs(86_400);

/// The address of MongoDB and the names of the collections.
pub struct MongoOptions {
    /// `mongodb://` or `mongodb+srv://`, with all its options.
    pub url: String,
    /// The database, if the URL names no database.
    pub database: String,
    /// The name of the collection of sealed values, without the prefix `mcpapi_`.
    pub secrets: String,
}

/// The log, the Vault and the leases of all processes.
pub struct MongoStore {
    log: Collection<Document>,
    snapshots: Collection<Document>,
    vault: Collection<Document>,
    vault_writer: VaultWriter,
    keys: Collection<Document>,
    leases: Collection<Document>,
    /// The UUID of the collection of the log. A copy that `mongorestore` made has another one.
    identity: Option<String>,
    /// The newest position of the log that this process has seen.
    known: AtomicU64,
}

impl MongoStore {
    /// Connects, and creates the missing indexes.
    ///
    /// # Errors
    /// Returns an error if the URL is invalid or no server answers.
    pub async fn connect(options: MongoOptions) -> Result<Self, StoreError> {
        // The error does not repeat the URL, because the URL may hold a password.
        let unusable = |_| StoreError::Unusable("MONGO_URL is no URL of MongoDB");
        let mut client = ClientOptions::parse(&options.url).await.map_err(unusable)?;
        client.app_name.get_or_insert_with(|| "mcp-api".to_owned());
        client.server_selection_timeout = Some(SELECTION_LIMIT);
        client.connect_timeout = Some(SELECTION_LIMIT);
        let client = Client::with_options(client).map_err(unusable)?;
        let database = match client.default_database() {
            Some(database) => database,
            None => client.database(&options.database),
        };
        // These options replace the options of the URL, because an acknowledged write must not be lost.
        let durable = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        let collection = |name: &str| {
            let options = CollectionOptions::builder()
                .write_concern(durable.clone())
                .read_concern(ReadConcern::majority())
                .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
                .build();
            database.collection_with_options(&format!("mcpapi_{name}"), options)
        };
        let vault = collection(&options.secrets);
        let mut store = Self {
            log: collection("log"),
            snapshots: collection("snapshots"),
            vault_writer: VaultWriter::start(vault.clone()),
            vault,
            keys: collection("keys"),
            leases: collection("leases"),
            identity: None,
            known: AtomicU64::new(0),
        };
        store.create_indexes().await?;
        store.identity = store.read_identity(&database).await;
        if store.identity.is_none() {
            tracing::warn!(
                "the process shares no entries of the log, because MongoDB does not show the UUID of its collection; give the user the right listCollections"
            );
        }
        Ok(store)
    }

    /// Returns the UUID of the collection of the log, or `None` if the server or the rights of the user do not show it.
    async fn read_identity(&self, database: &Database) -> Option<String> {
        let list = doc! { "listCollections": 1, "filter": { "name": self.log.name() } };
        let found = with_timeout(database.run_command(list)).await.ok()?;
        let collections = found
            .get_document("cursor")
            .ok()?
            .get_array("firstBatch")
            .ok()?;
        let info = collections
            .first()?
            .as_document()?
            .get_document("info")
            .ok()?;
        let Bson::Binary(uuid) = info.get("uuid")? else {
            return None;
        };
        Some(hex::encode(&uuid.bytes))
    }

    async fn create_indexes(&self) -> Result<(), StoreError> {
        let unique = IndexOptions::builder().unique(true).build();
        let commands = IndexModel::builder()
            .keys(doc! { "commits.commandId": 1 })
            .options(unique)
            .build();
        let holder = IndexModel::builder().keys(doc! { "holder": 1 }).build();
        let put_at = IndexModel::builder().keys(doc! { "putAt": 1 }).build();
        let expiry = IndexOptions::builder()
            .expire_after(LEASE_DOCUMENT_TTL)
            .build();
        let until = IndexModel::builder()
            .keys(doc! { "until": 1 })
            .options(expiry)
            .build();
        for (collection, index) in [
            (&self.log, commands),
            (&self.vault, put_at),
            (&self.leases, holder),
            (&self.leases, until),
        ] {
            // No limit of time, because an old server may need long to create an index.
            let created = collection.create_index(index).await;
            created.map_err(store_error)?;
        }
        Ok(())
    }
}
