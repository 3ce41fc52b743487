//! Opens connections to the file.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::store_error;
use crate::ports::error::StoreError;

/// The time for which a statement waits for a lock.
pub(super) const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// The place of the index of the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The index is a file beside the store. Other processes can read the store.
    Shared,
    /// The index is in the memory of this process, because the disk has no space for the file.
    /// Other processes cannot open the store.
    Exclusive,
}

/// Opens a connection. A full disk does not prevent it with [`Access::Exclusive`].
pub(super) fn connect(file: &Path, access: Access) -> Result<Connection, StoreError> {
    open(file, access).map_err(store_error)
}

fn open(file: &Path, access: Access) -> rusqlite::Result<Connection> {
    let connection = match access {
        Access::Shared => Connection::open(file)?,
        Access::Exclusive => {
            Connection::open_with_flags_and_vfs(file, OpenFlags::default(), c"unix-excl")?
        }
    };
    connection.busy_timeout(BUSY_LIMIT)?;
    let pages = connection.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))?;
    if pages == 0 {
        // The mode of free pages can be set only before the first page is written.
        connection.execute_batch("PRAGMA auto_vacuum=INCREMENTAL")?;
    }
    connection.execute_batch(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;
         PRAGMA secure_delete=ON;",
    )?;
    // Reads the file, so that a fault shows here.
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| {
        row.get(0).map(|_: i64| ())
    })?;
    Ok(connection)
}
