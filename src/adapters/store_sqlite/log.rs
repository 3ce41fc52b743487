//! The log in SQLite: one row for each entry, and an index of the commands.

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use serde::Deserialize;

use super::error::store_error;
use super::vault::put_value;
use super::{SHORTENED_SCHEMA, SqliteStore};
use crate::core::event::{Commit, Entry};
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::{AppendError, EventLog, ReadLimit, SnapshotHead};
use crate::ports::vault::VaultValue;

/// The most bytes of the commits of one entry. A value of SQLite has at most 1,000,000,000 bytes.
const MAX_COMMITS: usize = 512 << 20;

#[async_trait]
impl EventLog for SqliteStore {
    fn max_entry_bytes(&self) -> usize {
        MAX_COMMITS
    }

    async fn append(&self, entry: &Entry, values: &[VaultValue]) -> Result<(), AppendError> {
        let row = LogRow::encode(entry)?;
        let values = values.to_vec();
        self.writer
            .write(move |transaction| append_row(transaction, &row, &values))
            .await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let head = self.readers.read(head_position);
        Ok(Position(head.await? as u64))
    }

    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, StoreError> {
        let rows = self
            .readers
            .read(move |connection| read_rows(connection, after, limit));
        let mut entries = Vec::new();
        for (position, at, commits) in rows.await? {
            let commits = commits.map_err(|error| {
                StoreError::damaged(format!("entry {position} of the log"), error)
            })?;
            entries.push(Entry {
                position: Position(position as u64),
                at: at as u64,
                commits,
            });
        }
        Ok(entries)
    }

    async fn find_commit(&self, command: CommandId) -> Result<Option<Position>, StoreError> {
        let sql = "SELECT position FROM command WHERE id = ?1";
        let found = self.readers.read(move |connection| {
            let mut statement = connection.prepare_cached(sql)?;
            let position = statement.query_row(params![command.0.as_bytes()], |row| row.get(0));
            position.optional()
        });
        Ok(found.await?.map(|position: i64| Position(position as u64)))
    }

    async fn newest_snapshot(&self, fold: u32) -> Result<Option<SnapshotHead>, StoreError> {
        self.load_snapshot_head(fold).await
    }

    async fn snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.load_snapshot_piece(snapshot, n).await
    }

    async fn put_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.store_snapshot_piece(snapshot, piece).await
    }

    async fn finish_snapshot(&self, snapshot: &SnapshotHead) -> Result<(), StoreError> {
        self.store_snapshot_head(snapshot).await
    }

    async fn remove_entries(&self, through: Position, limit: ReadLimit) -> Result<u64, StoreError> {
        let remove = move |transaction: &Transaction<'_>| {
            let rows = oldest_rows(transaction, through, limit)?;
            remove_rows(transaction, &rows).map_err(store_error)?;
            Ok::<_, StoreError>(rows.len() as u64)
        };
        self.writer.write(remove).await
    }

    async fn reclaim_space(&self) -> Result<(), StoreError> {
        while self.writer.reclaim().await? {}
        self.writer.truncate().await
    }
}

/// An entry as the tables hold it.
struct LogRow {
    position: Position,
    at: i64,
    commits: String,
    commands: Vec<CommandId>,
}

impl LogRow {
    fn encode(entry: &Entry) -> Result<Self, StoreError> {
        let text = serde_json::to_string(&entry.commits).map_err(StoreError::failed)?;
        if text.len() > MAX_COMMITS {
            return Err(StoreError::TooLarge {
                bytes: text.len(),
                limit: MAX_COMMITS,
            });
        }
        let commits = entry.commits.iter();
        Ok(Self {
            position: entry.position,
            at: entry.at as i64,
            commits: text,
            commands: commits.map(|commit| commit.command_id).collect(),
        })
    }
}

fn append_row(
    transaction: &Transaction<'_>,
    row: &LogRow,
    values: &[VaultValue],
) -> Result<(), AppendError> {
    let head = head_position(transaction).map_err(store_error)?;
    let position = row.position.0 as i64;
    if head >= position {
        return Err(AppendError::Taken);
    }
    if head + 1 != position {
        let head = Position(head as u64);
        return Err(StoreError::Gap {
            position: row.position,
            head,
        }
        .into());
    }
    insert_row(transaction, row).map_err(store_error)?;
    insert_commands(transaction, row)?;
    for value in values {
        put_value(transaction, value).map_err(store_error)?;
    }
    Ok(())
}

fn insert_row(transaction: &Transaction<'_>, row: &LogRow) -> rusqlite::Result<()> {
    let sql = "INSERT INTO log (position, at, commits) VALUES (?1, ?2, ?3)";
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute(params![row.position.0 as i64, row.at, row.commits])?;
    Ok(())
}

fn insert_commands(transaction: &Transaction<'_>, row: &LogRow) -> Result<(), AppendError> {
    let sql = "INSERT INTO command (id, position) VALUES (?1, ?2)";
    let mut statement = transaction.prepare_cached(sql).map_err(store_error)?;
    for id in &row.commands {
        let inserted = statement.execute(params![id.0.as_bytes(), row.position.0 as i64]);
        match inserted {
            Ok(_) => {}
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                return Err(AppendError::Repeated(*id));
            }
            Err(error) => return Err(store_error(error).into()),
        }
    }
    Ok(())
}

fn head_position(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT coalesce(max(position), 0) FROM log";
    let mut statement = connection.prepare_cached(sql)?;
    statement.query_row([], |row| row.get(0))
}

/// A row of the log. This thread decodes the commits, because decoding would block an async thread.
type DecodedRow = (i64, i64, Result<Vec<Commit>, serde_json::Error>);

fn read_rows(
    connection: &Connection,
    after: Position,
    limit: ReadLimit,
) -> rusqlite::Result<Vec<DecodedRow>> {
    let sql =
        "SELECT position, at, commits FROM log WHERE position > ?1 ORDER BY position LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![after.0 as i64, limit.entries as i64])?;
    let mut decoded = Vec::new();
    let mut bytes = 0;
    while bytes < limit.bytes
        && let Some(row) = rows.next()?
    {
        let text = row.get_ref(2)?.as_str()?;
        bytes += text.len();
        decoded.push((row.get(0)?, row.get(1)?, serde_json::from_str(text)));
    }
    Ok(decoded)
}

/// A row that leaves the log, and the commands of its commits.
struct OldRow {
    position: i64,
    commands: Vec<CommandId>,
}

/// The only field of a commit that a removal needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommitId {
    command_id: CommandId,
}

/// Returns the oldest rows, without the newest row of the log.
fn oldest_rows(
    connection: &Connection,
    through: Position,
    limit: ReadLimit,
) -> Result<Vec<OldRow>, StoreError> {
    let sql = "SELECT position, commits FROM log
               WHERE position <= ?1 AND position < (SELECT max(position) FROM log)
               ORDER BY position LIMIT ?2";
    let mut statement = connection.prepare_cached(sql).map_err(store_error)?;
    let bounds = params![through.0 as i64, limit.entries as i64];
    let mut rows = statement.query(bounds).map_err(store_error)?;
    let mut old = Vec::new();
    let mut bytes = 0;
    while bytes < limit.bytes
        && let Some(row) = rows.next().map_err(store_error)?
    {
        let position: i64 = row.get(0).map_err(store_error)?;
        let text = row.get_ref(1).map_err(store_error)?;
        let text = text.as_str().map_err(|error| store_error(error.into()))?;
        bytes += text.len();
        let commits: Vec<CommitId> = serde_json::from_str(text)
            .map_err(|error| StoreError::damaged(format!("entry {position} of the log"), error))?;
        let commands = commits.into_iter().map(|commit| commit.command_id);
        let commands = commands.collect();
        old.push(OldRow { position, commands });
    }
    Ok(old)
}

fn remove_rows(transaction: &Transaction<'_>, rows: &[OldRow]) -> rusqlite::Result<()> {
    // A program that does not know beginnings must not open a shortened log.
    transaction.pragma_update(None, "user_version", SHORTENED_SCHEMA)?;
    let mut remove_row = transaction.prepare_cached("DELETE FROM log WHERE position = ?1")?;
    let mut remove_command = transaction.prepare_cached("DELETE FROM command WHERE id = ?1")?;
    for row in rows {
        remove_row.execute(params![row.position])?;
        for command in &row.commands {
            remove_command.execute(params![command.0.as_bytes()])?;
        }
    }
    Ok(())
}
