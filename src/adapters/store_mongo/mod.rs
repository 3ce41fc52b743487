//! The store that many processes share: MongoDB, alone or as a replica set. No transactions are needed.
//!
//! What is acknowledged is on a majority's disks. Everything is read from the primary, and of a majority
//! too: what was read is never rolled back. No wait is longer than a store that is away deserves.

mod leases;
mod log;
mod snapshots;
mod vault;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::{Error, ErrorKind, WriteFailure};
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadConcern, ReadPreference,
    SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, IndexModel};

use crate::ports::error::StoreError;

/// How long a server is looked for. One that is away costs a request no more.
const FIND: Duration = Duration::from_millis(800);
/// How long one operation may take on a server that is there and slow.
const OPERATION: Duration = Duration::from_secs(4);
/// How long after its end MongoDB keeps a lease's document.
const FORGOTTEN: Duration = Duration::from_secs(86_400);
/// A duplicate of a unique key.
const DUPLICATE: i32 = 11000;

/// Where MongoDB is, and what our collections are called there.
pub struct MongoOptions {
    /// `mongodb://` or `mongodb+srv://`, with all its options.
    pub url: String,
    /// The database where the URL names none.
    pub database: String,
    /// The collection of sealed values is `mcpapi_` and this.
    pub secrets: String,
}

/// The log, the Vault and the leases of all processes.
pub struct MongoStore {
    log: Collection<Document>,
    snapshots: Collection<Document>,
    vault: Collection<Document>,
    keys: Collection<Document>,
    leases: Collection<Document>,
    /// The newest position that is known to be in the log.
    known: AtomicU64,
}

impl MongoStore {
    /// Connects, and makes the indexes where there are none.
    pub async fn connect(options: MongoOptions) -> Result<Self, StoreError> {
        // What is wrong with a URL is told without it: it may hold a password.
        let unusable = |_| StoreError("MONGO_URL is no URL of MongoDB".to_owned());
        let mut client = ClientOptions::parse(&options.url).await.map_err(unusable)?;
        client.app_name.get_or_insert_with(|| "mcp-api".to_owned());
        client.server_selection_timeout = Some(FIND);
        client.connect_timeout = Some(FIND);
        let client = Client::with_options(client).map_err(unusable)?;
        let database = match client.default_database() {
            Some(database) => database,
            None => client.database(&options.database),
        };
        // The URL may say otherwise for other programs; ours must not lose what it has acknowledged.
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
        let store = Self {
            log: collection("log"),
            snapshots: collection("snapshots"),
            vault: collection(&options.secrets),
            keys: collection("keys"),
            leases: collection("leases"),
            known: AtomicU64::new(0),
        };
        store.make_indexes().await?;
        Ok(store)
    }

    async fn make_indexes(&self) -> Result<(), StoreError> {
        let unique = IndexOptions::builder().unique(true).build();
        let commands = IndexModel::builder()
            .keys(doc! { "commits.commandId": 1 })
            .options(unique)
            .build();
        let holder = IndexModel::builder().keys(doc! { "holder": 1 }).build();
        let put_at = IndexModel::builder().keys(doc! { "putAt": 1 }).build();
        let forgotten = IndexOptions::builder().expire_after(FORGOTTEN).build();
        let until = IndexModel::builder()
            .keys(doc! { "until": 1 })
            .options(forgotten)
            .build();
        let of_leases = [(&self.leases, holder), (&self.leases, until)];
        for (collection, index) in [(&self.log, commands), (&self.vault, put_at)]
            .into_iter()
            .chain(of_leases)
        {
            // The first process to start makes them on an empty store, however long an old server takes.
            collection
                .create_index(index)
                .await
                .map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// Bounds an operation.
async fn with_timeout<T>(
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(OPERATION, operation.into_future()).await {
        Ok(done) => done.map_err(|error| failed(&error)),
        Err(_) => Err(StoreError(format!(
            "MongoDB did not answer within {} ms",
            OPERATION.as_millis()
        ))),
    }
}

/// The driver's errors name servers and commands, and neither users nor passwords.
fn failed(error: &Error) -> StoreError {
    let text = match &*error.kind {
        ErrorKind::ServerSelection { .. } => {
            "no MongoDB server can be reached that takes writes".to_owned()
        }
        ErrorKind::Authentication { .. } => "MongoDB refuses the user or the password".to_owned(),
        _ => error.to_string().chars().take(500).collect(),
    };
    StoreError(text)
}

/// Returns whether a unique index refused a document.
fn is_duplicate(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE,
        ErrorKind::Command(error) => error.code == DUPLICATE,
        _ => false,
    }
}

fn damaged(what: impl std::fmt::Display) -> StoreError {
    StoreError(format!("a document of MongoDB cannot be read: {what}"))
}
