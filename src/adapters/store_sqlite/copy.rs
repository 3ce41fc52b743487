//! A copy of the whole store, as it is at one moment: for a backup, and back again.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::{SCHEMA, failed, private};
use crate::ports::error::StoreError;
use crate::ports::vault::KeyRecord;
use crate::time::clock::monotonic;

/// How long a copy waits for a writer that is just putting its log into the file.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// What a copy holds.
pub struct CopySummary {
    /// The newest position of the log.
    pub position: u64,
    pub values: u64,
    pub key: Option<KeyRecord>,
}

/// Copies a store that may be in use, by another process too, into a new file that nobody else reads. What was
/// copied is checked; a copy that fails is not to be used.
pub fn copy(from: &Path, to: &Path) -> Result<CopySummary, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).map_err(failed)?;
    source.busy_timeout(PATIENCE).map_err(failed)?;
    check_kind(&source)?;
    private(to).map_err(|error| StoreError(error.to_string()))?;
    let mut copy = Connection::open(to).map_err(failed)?;
    whole(&source, &mut copy)?;
    // One file, with nothing beside it.
    copy.pragma_update(None, "journal_mode", "DELETE")
        .map_err(failed)?;
    let found = look(&copy)?;
    copy.close().map_err(|(_, error)| failed(error))?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError(error.to_string()))?;
    Ok(found)
}

/// All pages in one step: within it the source is as it was when it began, whatever is written meanwhile.
fn whole(source: &Connection, copy: &mut Connection) -> Result<(), StoreError> {
    let backup = Backup::new(source, copy).map_err(failed)?;
    let until = monotonic() + PATIENCE;
    loop {
        match backup.step(-1).map_err(failed)? {
            StepResult::Done => return Ok(()),
            _ if monotonic() >= until => {
                return Err(StoreError("it is locked by another program".into()));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

fn check_kind(connection: &Connection) -> Result<(), StoreError> {
    let tables = "SELECT count(*) FROM sqlite_master WHERE name IN ('log', 'command', 'vault', 'key_record')";
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    if number(tables).is_ok_and(|tables| tables == 4) {
        return match number("PRAGMA user_version").map_err(failed)? {
            version if version > SCHEMA => Err(StoreError(
                "it was written by a newer mcp-api; use that one".into(),
            )),
            _ => Ok(()),
        };
    }
    Err(StoreError("it is not the store of an mcp-api".into()))
}

fn look(copy: &Connection) -> Result<CopySummary, StoreError> {
    let sound: String = copy
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(failed)?;
    if sound != "ok" {
        return Err(StoreError(format!("it is damaged: {sound}")));
    }
    let number = |sql| {
        copy.query_row(sql, [], |row| row.get::<_, i64>(0))
            .map_err(failed)
    };
    let record = |row: &rusqlite::Row<'_>| {
        Ok(KeyRecord {
            salt: row.get(0)?,
            check: row.get(1)?,
        })
    };
    let key = copy.query_row(r#"SELECT salt, "check" FROM key_record"#, [], record);
    Ok(CopySummary {
        position: number("SELECT coalesce(max(position), 0) FROM log")? as u64,
        values: number("SELECT count(*) FROM vault")? as u64,
        key: rusqlite::OptionalExtension::optional(key).map_err(failed)?,
    })
}
