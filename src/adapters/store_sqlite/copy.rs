//! Copies the whole store at one point in time, for a backup and for a restore.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row};

use super::error::store_error;
use super::{SHORTENED_SCHEMA, restrict_access, schema_version};
use crate::ports::error::StoreError;
use crate::ports::vault::KeyRecord;
use crate::time::clock::monotonic;

/// The time for which a copy waits for a writer that moves its write-ahead log into the file.
const LOCK_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// The content of a copy.
pub struct CopySummary {
    /// The newest position of the log.
    pub position: u64,
    pub values: u64,
    pub key: Option<KeyRecord>,
}

/// SQLite has found damage in a copy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct IntegrityFault(String);

/// Copies a store into a new file that no other user can read, and checks the copy. Another process
/// may use the store during the copy. After an error, the caller must not use the copy.
///
/// # Errors
/// Returns an error if the source is no store of mcp-api, a newer program wrote it, or the copy is
/// damaged.
pub fn copy(from: &Path, to: &Path) -> Result<CopySummary, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(store_error)?;
    source.busy_timeout(LOCK_LIMIT).map_err(store_error)?;
    check_kind(&source)?;
    restrict_access(to).map_err(StoreError::failed)?;
    let mut copy = Connection::open(to).map_err(store_error)?;
    copy_pages(&source, &mut copy)?;
    // The copy is one file, without a write-ahead log beside it.
    copy.pragma_update(None, "journal_mode", "DELETE")
        .map_err(store_error)?;
    let summary = summarize(&copy)?;
    copy.close().map_err(|(_, error)| store_error(error))?;
    let synced = File::open(to).and_then(|file| file.sync_all());
    synced.map_err(StoreError::failed)?;
    Ok(summary)
}

/// Copies all pages in one step. During the step, the copy sees the source as it was at the beginning.
fn copy_pages(source: &Connection, copy: &mut Connection) -> Result<(), StoreError> {
    let backup = Backup::new(source, copy).map_err(store_error)?;
    let deadline = monotonic() + LOCK_LIMIT;
    loop {
        match backup.step(-1).map_err(store_error)? {
            StepResult::Done => return Ok(()),
            _ if monotonic() >= deadline => {
                return Err(StoreError::Unusable("another program locks the store"));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn check_kind(connection: &Connection) -> Result<(), StoreError> {
    let tables = "SELECT count(*) FROM sqlite_master
                  WHERE name IN ('log', 'command', 'vault', 'key_record')";
    let tables = connection.query_row(tables, [], |row| row.get::<_, i64>(0));
    if tables != Ok(4) {
        return Err(StoreError::Unusable("the file is no store of mcp-api"));
    }
    let found = schema_version(connection)?;
    if found > SHORTENED_SCHEMA {
        return Err(StoreError::Newer {
            found,
            known: SHORTENED_SCHEMA,
        });
    }
    Ok(())
}

fn summarize(copy: &Connection) -> Result<CopySummary, StoreError> {
    let check = copy.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let fault: String = check.map_err(store_error)?;
    if fault != "ok" {
        return Err(StoreError::damaged("the copy", IntegrityFault(fault)));
    }
    let record = |row: &Row<'_>| {
        Ok(KeyRecord {
            salt: row.get(0)?,
            check: row.get(1)?,
        })
    };
    let key = copy.query_row(r#"SELECT salt, "check" FROM key_record"#, [], record);
    Ok(CopySummary {
        position: count(copy, "SELECT coalesce(max(position), 0) FROM log")?,
        values: count(copy, "SELECT count(*) FROM vault")?,
        key: key.optional().map_err(store_error)?,
    })
}

fn count(connection: &Connection, sql: &str) -> Result<u64, StoreError> {
    let count = connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    count.map(|count| count as u64).map_err(store_error)
}
