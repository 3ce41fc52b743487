//! The embedded store: one SQLite file with one writer.
//!
//! The journal is a write-ahead log with `synchronous=FULL`, so an acknowledged write survives a
//! power cut. One thread commits all waiting writes in one transaction. Readers have their own
//! connections.

mod connection;
mod copy;
mod error;
mod leases;
mod log;
mod reader;
mod snapshots;
mod vault;
mod writer;

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use self::connection::{Access, connect};
pub use self::copy::{CopySummary, copy};
use self::error::store_error;
use self::leases::FencingTokens;
use self::reader::Readers;
use self::writer::Writer;
use crate::ports::error::StoreError;

/// The version of the tables, in `PRAGMA user_version`.
const SCHEMA: u32 = 1;
/// The version of a store whose log was shortened. The tables are the same.
const SHORTENED_SCHEMA: u32 = 2;

/// The event log, the Vault and the leases of one process. The caller must lock the folder of the
/// file.
#[derive(Clone)]
pub struct SqliteStore {
    writer: Arc<Writer>,
    readers: Arc<Readers>,
    fencing: Arc<FencingTokens>,
}

impl SqliteStore {
    /// Moves the write-ahead log into the file and empties it, because it holds the bytes of removed values.
    ///
    /// # Errors
    /// Returns `Stopping` if the writer has ended.
    pub async fn empty_write_ahead_log(&self) -> Result<(), StoreError> {
        self.writer.truncate().await
    }

    /// Opens or creates the file. The leases of an earlier process have ended, because the lock of
    /// the folder shows that the process has ended. If the disk is full, an existing file can be
    /// read, and each write fails.
    ///
    /// # Errors
    /// Returns `Newer` if a newer program wrote the file, and `DiskFull` if a new file has no space.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        restrict_access(file).map_err(StoreError::failed)?;
        let (mut connection, access) = open_connection(file)?;
        prepare(&mut connection)?;
        let fencing = FencingTokens::reserve(&connection)?;
        Ok(Self {
            writer: Arc::new(Writer::start(connection)?),
            readers: Arc::new(Readers::new(file, access)),
            fencing: Arc::new(fencing),
        })
    }
}

/// Opens the connection of the writer. If the disk has no space for the index of the write-ahead
/// log, the index is in memory.
fn open_connection(file: &Path) -> Result<(Connection, Access), StoreError> {
    match connect(file, Access::Shared) {
        Ok(connection) => Ok((connection, Access::Shared)),
        Err(StoreError::DiskFull(_)) => {
            tracing::error!(
                file = %file.display(),
                "the disk is full; the program can read the store, and every change fails"
            );
            Ok((connect(file, Access::Exclusive)?, Access::Exclusive))
        }
        Err(error) => Err(error),
    }
}

/// Creates the file, if it is missing, and lets no other user read it. SQLite gives the files beside
/// it the same mode.
fn restrict_access(file: &Path) -> std::io::Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

/// Creates the tables. Writes nothing to a file that has them, because the disk may be full.
fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    let version = schema_version(connection)?;
    if version > SHORTENED_SCHEMA {
        return Err(StoreError::Newer {
            found: version,
            known: SHORTENED_SCHEMA,
        });
    }
    if version < SCHEMA || !has_all_tables(connection)? {
        create_tables(connection).map_err(store_error)?;
    }
    // The leases end with the process, so they need no disk.
    connection
        .execute_batch(
            "CREATE TEMP TABLE lease (id BLOB PRIMARY KEY, holder BLOB NOT NULL,
                                      until INTEGER NOT NULL, token INTEGER NOT NULL)",
        )
        .map_err(store_error)
}

fn schema_version(connection: &Connection) -> Result<u32, StoreError> {
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(store_error)
}

/// Returns whether the file has the tables of this version. Early files of version 1 lack some, and
/// have a table that is not used any more.
fn has_all_tables(connection: &Connection) -> Result<bool, StoreError> {
    let tables = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN
                  ('log', 'command', 'snapshot_head', 'snapshot_piece', 'vault', 'key_record', 'fencing')";
    let unused = "SELECT count(*) FROM sqlite_master WHERE name = 'snapshot'";
    let count = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let has_tables = count(tables).map_err(store_error)? == 7;
    Ok(has_tables && count(unused).map_err(store_error)? == 0)
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(include_str!("schema.sql"))?;
    let version: u32 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    transaction.pragma_update(None, "user_version", version.max(SCHEMA))?;
    transaction.commit()
}

/// Returns the clock of the store, in milliseconds since 1970.
fn now_ms() -> i64 {
    crate::time::clock::now_ms() as i64
}
