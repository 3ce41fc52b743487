//! The log in SQLite: a row per append, and an index of the commands in it.

use async_trait::async_trait;
use rusqlite::{ErrorCode, OptionalExtension, Row, Transaction, params};
use uuid::Uuid;

use super::vault::put;
use super::{SqliteStore, failed};
use crate::core::event::Entry;
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::{AppendError, EventLog, ReadLimit, SnapshotHead};
use crate::ports::vault::VaultValue;

#[async_trait]
impl EventLog for SqliteStore {
    async fn append(&self, entry: &Entry, values: &[VaultValue]) -> Result<(), AppendError> {
        let commits =
            serde_json::to_string(&entry.commits).map_err(|error| StoreError(error.to_string()))?;
        let ids: Vec<CommandId> = entry
            .commits
            .iter()
            .map(|commit| commit.command_id)
            .collect();
        let (position, at) = (entry.position.0 as i64, entry.at as i64);
        let values = values.to_vec();
        self.writer
            .write(move |transaction| {
                let head = "SELECT coalesce(max(position), 0) FROM log";
                let mut statement = transaction.prepare_cached(head).map_err(failed)?;
                let head: i64 = statement.query_row([], |row| row.get(0)).map_err(failed)?;
                if head >= position {
                    return Err(AppendError::Taken);
                }
                if head + 1 != position {
                    return Err(StoreError(format!(
                        "append at {position} after {head} would leave a gap"
                    ))
                    .into());
                }
                let insert = "INSERT INTO log (position, at, commits) VALUES (?1, ?2, ?3)";
                let mut statement = transaction.prepare_cached(insert).map_err(failed)?;
                statement
                    .execute(params![position, at, commits])
                    .map_err(failed)?;
                let insert = "INSERT INTO command (id, position) VALUES (?1, ?2)";
                let mut statement = transaction.prepare_cached(insert).map_err(failed)?;
                for id in ids {
                    match statement.execute(params![id.0.as_bytes(), position]) {
                        Ok(_) => {}
                        Err(e) if e.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                            return Err(AppendError::Repeated(id));
                        }
                        Err(e) => return Err(failed(e).into()),
                    }
                }
                Ok(values
                    .iter()
                    .try_for_each(|value| put(transaction, value))?)
            })
            .await
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let sql = "SELECT coalesce(max(position), 0) FROM log";
        let head = self.readers.read(move |c| {
            c.prepare_cached(sql)?
                .query_row([], |row| row.get::<_, i64>(0))
        });
        Ok(Position(head.await? as u64))
    }

    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, StoreError> {
        let sql =
            "SELECT position, at, commits FROM log WHERE position > ?1 ORDER BY position LIMIT ?2";
        let rows = self.readers.read(move |c| {
            let mut statement = c.prepare_cached(sql)?;
            let mut rows = statement.query(params![after.0 as i64, limit.entries as i64])?;
            let mut decoded = Vec::new();
            let mut bytes = 0;
            while bytes < limit.bytes
                && let Some(row) = rows.next()?
            {
                // This thread decodes the row, because decoding would block an async thread.
                let text = row.get_ref(2)?.as_str()?;
                bytes += text.len();
                let commits = serde_json::from_str(text);
                decoded.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, commits));
            }
            Ok(decoded)
        });
        let mut entries = Vec::new();
        for (position, at, commits) in rows.await? {
            let commits = commits.map_err(|error| {
                StoreError(format!("the log's row {position} is damaged: {error}"))
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
        let found = self.readers.read(move |c| {
            let mut statement = c.prepare_cached(sql)?;
            statement
                .query_row(params![command.0.as_bytes()], |row| row.get::<_, i64>(0))
                .optional()
        });
        Ok(found.await?.map(|position| Position(position as u64)))
    }

    async fn newest_snapshot(&self, fold: u32) -> Result<Option<SnapshotHead>, StoreError> {
        let sql = "SELECT id, position, pieces FROM snapshot_head WHERE fold = ?1";
        let head = move |row: &Row<'_>| {
            let at = Position(row.get::<_, i64>(1)? as u64);
            Ok(SnapshotHead {
                id: Uuid::from_bytes(row.get(0)?),
                fold,
                at,
                pieces: row.get(2)?,
            })
        };
        self.readers
            .read(move |c| c.query_row(sql, params![fold], head).optional())
            .await
    }

    async fn snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let (sql, id) = (
            "SELECT bytes FROM snapshot_piece WHERE id = ?1 AND n = ?2",
            snapshot.id,
        );
        self.readers
            .read(move |c| {
                c.query_row(sql, params![id.as_bytes(), n], |row| row.get(0))
                    .optional()
            })
            .await
    }

    async fn put_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO snapshot_piece (id, n, fold, position, bytes) VALUES (?1, ?2, ?3, ?4, ?5)";
        let SnapshotHead {
            id,
            fold,
            at,
            pieces,
        } = *snapshot;
        let write = move |t: &Transaction<'_>| {
            t.execute(
                sql,
                params![id.as_bytes(), pieces, fold, at.0 as i64, piece],
            )
            .map(drop)
            .map_err(failed)
        };
        self.writer.write(write).await
    }

    async fn finish_snapshot(&self, snapshot: &SnapshotHead) -> Result<(), StoreError> {
        // A slow older snapshot must not replace a newer one.
        let newest = "INSERT INTO snapshot_head (fold, id, position, pieces) VALUES (?1, ?2, ?3, ?4)
                      ON CONFLICT (fold) DO UPDATE SET id = excluded.id, position = excluded.position,
                      pieces = excluded.pieces WHERE excluded.position > snapshot_head.position";
        let others = "DELETE FROM snapshot_piece WHERE fold = ?1 AND position <= ?2
                      AND id <> (SELECT id FROM snapshot_head WHERE fold = ?1)";
        let SnapshotHead {
            id,
            fold,
            at,
            pieces,
        } = *snapshot;
        let write = move |t: &Transaction<'_>| {
            t.execute(newest, params![fold, id.as_bytes(), at.0 as i64, pieces])
                .map_err(failed)?;
            t.execute(others, params![fold, at.0 as i64])
                .map(drop)
                .map_err(failed)
        };
        self.writer.write(write).await
    }
}
