//! The embedded store: one SQLite file, one writer, nothing to install.
//!
//! WAL with `synchronous=FULL`: what is acknowledged survives a power cut. One thread writes, and
//! commits whatever waits in one transaction; readers have connections of their own.

mod copy;
mod leases;
mod log;
mod reader;
mod vault;
mod writer;

use std::fs::{File, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

pub use self::copy::{CopySummary, copy};
use self::reader::Readers;
use self::writer::Writer;
use crate::ports::error::StoreError;

/// The time for which a statement waits for a lock.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// The schema's version, in `PRAGMA user_version`.
const SCHEMA: i64 = 1;

/// The log, the Vault and the leases of one process. Its folder must be locked by the caller.
#[derive(Clone)]
pub struct SqliteStore {
    writer: Arc<Writer>,
    readers: Arc<Readers>,
}

impl SqliteStore {
    /// Opens the file, or makes it. Leases of an earlier process are gone: the folder's lock says
    /// that it is.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        private(file).map_err(|error| StoreError(error.to_string()))?;
        let mut connection = connect(file)?;
        prepare(&mut connection)?;
        Ok(Self {
            writer: Arc::new(Writer::start(connection)?),
            readers: Arc::new(Readers::new(file)),
        })
    }
}

/// Nobody else reads the file; SQLite makes those beside it with the same mode.
fn private(file: &Path) -> std::io::Result<()> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

fn connect(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(file).map_err(failed)?;
    connection.busy_timeout(BUSY_LIMIT).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY; PRAGMA secure_delete=ON;",
        )
        .map_err(failed)?;
    Ok(connection)
}

fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    let version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed)?;
    if version > SCHEMA {
        return Err(StoreError(format!(
            "the file was written by a newer mcp-api (schema {version}, this one knows {SCHEMA})"
        )));
    }
    let transaction = connection.transaction().map_err(failed)?;
    transaction
        .execute_batch(include_str!("schema.sql"))
        .map_err(failed)?;
    transaction
        .pragma_update(None, "user_version", SCHEMA)
        .map_err(failed)?;
    transaction.commit().map_err(failed)?;
    // Leases end with the process, so they need no disk; their tokens must not start again, so those do.
    connection
        .execute_batch("CREATE TEMP TABLE lease (id BLOB PRIMARY KEY, holder BLOB NOT NULL, until INTEGER NOT NULL, token INTEGER NOT NULL)")
        .map_err(failed)
}

fn failed(error: rusqlite::Error) -> StoreError {
    StoreError(error.to_string())
}

/// The store's clock, in milliseconds since 1970.
fn now_ms() -> i64 {
    crate::time::clock::now_ms() as i64
}
