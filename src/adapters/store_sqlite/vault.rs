//! The Vault in SQLite. Removed values are overwritten on disk (`secure_delete`).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use uuid::Uuid;

use super::{SqliteStore, failed, now_ms};
use crate::core::ids::ValueId;
use crate::ports::error::StoreError;
use crate::ports::vault::{KeyRecord, Sealed, Vault, VaultValue, WrappingChange};

/// The same put again, after a failure of unknown outcome, changes nothing.
pub(super) fn put(
    t: &Transaction<'_>,
    VaultValue { id, sealed }: &VaultValue,
) -> Result<(), StoreError> {
    let sql = "INSERT OR IGNORE INTO vault (id, put_at, sealed) VALUES (?1, ?2, ?3)";
    let mut statement = t.prepare_cached(sql).map_err(failed)?;
    statement
        .execute(params![id.0.as_bytes(), now_ms(), &sealed.0[..]])
        .map(drop)
        .map_err(failed)
}

#[async_trait]
impl Vault for SqliteStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        self.writer
            .write(move |t| put(t, &VaultValue { id, sealed }))
            .await
    }

    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError> {
        let (sql, ids) = ("SELECT sealed FROM vault WHERE id = ?1", ids.to_vec());
        self.readers
            .read(move |c| {
                let mut statement = c.prepare_cached(sql)?;
                let sealed = |row: &Row<'_>| {
                    row.get::<_, Vec<u8>>(0)
                        .map(|bytes| Sealed(Bytes::from(bytes)))
                };
                ids.iter()
                    .map(|id| {
                        statement
                            .query_row(params![id.0.as_bytes()], sealed)
                            .optional()
                    })
                    .collect()
            })
            .await
    }

    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        self.writer
            .write(move |transaction| {
                let mut statement = transaction
                    .prepare_cached("DELETE FROM vault WHERE id = ?1")
                    .map_err(failed)?;
                for id in &ids {
                    statement
                        .execute(params![id.0.as_bytes()])
                        .map_err(failed)?;
                }
                Ok::<_, StoreError>(())
            })
            .await?;
        self.writer.truncate_soon();
        Ok(())
    }

    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError> {
        let sql = "SELECT id FROM vault WHERE put_at < ?1";
        let before = now_ms() - age.as_millis() as i64;
        self.readers
            .read(move |c| {
                let mut statement = c.prepare_cached(sql)?;
                let ids = statement.query_map(params![before], |row| row.get::<_, [u8; 16]>(0))?;
                ids.map(|id| id.map(|bytes| ValueId(Uuid::from_bytes(bytes))))
                    .collect()
            })
            .await
    }

    async fn wrappings(
        &self,
        after: Option<ValueId>,
        limit: usize,
    ) -> Result<Vec<(ValueId, Bytes)>, StoreError> {
        let sql = "SELECT id, coalesce(substr(sealed, 1, ?3), x'') FROM vault WHERE id > ?1 ORDER BY id LIMIT ?2";
        // Nothing is before no bytes at all; and a part of none is NULL to SQLite.
        let after = after.map_or(vec![], |id| id.0.as_bytes().to_vec());
        self.readers
            .read(move |c| {
                let mut statement = c.prepare_cached(sql)?;
                let found = statement.query_map(
                    params![after, limit as i64, Sealed::WRAPPING as i64],
                    |row| {
                        let id = ValueId(Uuid::from_bytes(row.get(0)?));
                        Ok((id, Bytes::from(row.get::<_, Vec<u8>>(1)?)))
                    },
                )?;
                found.collect()
            })
            .await
    }

    async fn rewrap(&self, changes: Vec<WrappingChange>) -> Result<usize, StoreError> {
        // Bytes joined are text to SQLite, until it is told otherwise.
        let sql = "UPDATE vault SET sealed = CAST(?3 || substr(sealed, ?4 + 1) AS BLOB)
                   WHERE id = ?1 AND substr(sealed, 1, ?4) = ?2";
        self.writer
            .write(move |t| {
                let mut statement = t.prepare_cached(sql).map_err(failed)?;
                let given = changes.iter().map(|WrappingChange { id, from, to }| {
                    let values =
                        params![id.0.as_bytes(), &from[..], &to[..], Sealed::WRAPPING as i64];
                    statement.execute(values).map_err(failed)
                });
                given.sum()
            })
            .await
    }

    async fn key_record(
        &self,
        proposed: Option<KeyRecord>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        self.writer
            .write(move |t| {
                if let Some(KeyRecord { salt, check }) = proposed {
                    let sql = r#"INSERT OR IGNORE INTO key_record (one, salt, "check") VALUES (1, ?1, ?2)"#;
                    t.execute(sql, params![salt, check]).map_err(failed)?;
                }
                let sql = r#"SELECT salt, "check" FROM key_record"#;
                let record = |row: &Row<'_>| Ok(KeyRecord { salt: row.get(0)?, check: row.get(1)? });
                t.query_row(sql, [], record).optional().map_err(failed)
            })
            .await
    }

    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError> {
        let sql = r#"UPDATE key_record SET "check" = ?3 WHERE salt = ?1 AND "check" = ?2"#;
        let KeyRecord { salt, check: old } = from.clone();
        self.writer
            .write(move |t| {
                t.execute(sql, params![salt, old, check])
                    .map(|renewed| renewed > 0)
                    .map_err(failed)
            })
            .await
    }
}
