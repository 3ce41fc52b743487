//! The Vault in SQLite. SQLite overwrites removed values on the disk (`secure_delete`).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use uuid::Uuid;

use super::error::store_error;
use super::{SqliteStore, now_ms};
use crate::core::ids::ValueId;
use crate::ports::error::StoreError;
use crate::ports::vault::{KeyRecord, Sealed, Vault, VaultValue, WrappingChange};

/// Stores a value. A repeat, after a failure of unknown outcome, changes nothing.
pub(super) fn put_value(transaction: &Transaction<'_>, value: &VaultValue) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO vault (id, put_at, sealed) VALUES (?1, ?2, ?3)";
    let mut statement = transaction.prepare_cached(sql)?;
    statement.execute(params![
        value.id.0.as_bytes(),
        now_ms(),
        &value.sealed.0[..]
    ])?;
    Ok(())
}

#[async_trait]
impl Vault for SqliteStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        let value = VaultValue { id, sealed };
        self.writer
            .write(move |transaction| put_value(transaction, &value).map_err(store_error))
            .await
    }

    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError> {
        let sql = "SELECT sealed FROM vault WHERE id = ?1";
        let ids = ids.to_vec();
        self.readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(sql)?;
                let sealed = |row: &Row<'_>| Ok(Sealed(Bytes::from(row.get::<_, Vec<u8>>(0)?)));
                ids.iter()
                    .map(|id| {
                        let id = params![id.0.as_bytes()];
                        statement.query_row(id, sealed).optional()
                    })
                    .collect()
            })
            .await
    }

    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError> {
        let ids = ids.to_vec();
        let remove = move |transaction: &Transaction<'_>| {
            let mut statement = transaction
                .prepare_cached("DELETE FROM vault WHERE id = ?1")
                .map_err(store_error)?;
            for id in &ids {
                statement
                    .execute(params![id.0.as_bytes()])
                    .map_err(store_error)?;
            }
            Ok::<_, StoreError>(())
        };
        self.writer.write(remove).await?;
        self.writer.truncate_soon();
        Ok(())
    }

    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError> {
        let sql = "SELECT id FROM vault WHERE put_at < ?1";
        let before = now_ms() - age.as_millis() as i64;
        self.readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(sql)?;
                let ids = statement.query_map(params![before], |row| {
                    Ok(ValueId(Uuid::from_bytes(row.get(0)?)))
                })?;
                ids.collect()
            })
            .await
    }

    async fn wrappings(
        &self,
        after: Option<ValueId>,
        limit: usize,
    ) -> Result<Vec<(ValueId, Bytes)>, StoreError> {
        // SQLite returns NULL for a part of an empty value.
        let sql = "SELECT id, coalesce(substr(sealed, 1, ?3), x'') FROM vault
                   WHERE id > ?1 ORDER BY id LIMIT ?2";
        // No id sorts before an empty blob.
        let after = after.map_or(vec![], |id| id.0.as_bytes().to_vec());
        self.readers
            .read(move |connection| {
                let mut statement = connection.prepare_cached(sql)?;
                let bounds = params![after, limit as i64, Sealed::WRAPPING as i64];
                let wrappings = statement.query_map(bounds, |row| {
                    let id = ValueId(Uuid::from_bytes(row.get(0)?));
                    Ok((id, Bytes::from(row.get::<_, Vec<u8>>(1)?)))
                })?;
                wrappings.collect()
            })
            .await
    }

    async fn rewrap(&self, changes: Vec<WrappingChange>) -> Result<usize, StoreError> {
        // SQLite makes text of joined bytes, so the statement casts them.
        let sql = "UPDATE vault SET sealed = CAST(?3 || substr(sealed, ?4 + 1) AS BLOB)
                   WHERE id = ?1 AND substr(sealed, 1, ?4) = ?2";
        let rewrap = move |transaction: &Transaction<'_>| {
            let mut statement = transaction.prepare_cached(sql).map_err(store_error)?;
            let mut rewrapped = 0;
            for WrappingChange { id, from, to } in &changes {
                let values = params![id.0.as_bytes(), &from[..], &to[..], Sealed::WRAPPING as i64];
                rewrapped += statement.execute(values).map_err(store_error)?;
            }
            Ok(rewrapped)
        };
        self.writer.write(rewrap).await
    }

    async fn key_record(
        &self,
        proposed: Option<KeyRecord>,
    ) -> Result<Option<KeyRecord>, StoreError> {
        let store_first = move |transaction: &Transaction<'_>| {
            let stored = stored_key_record(transaction).map_err(store_error)?;
            let Some(proposed) = proposed.filter(|_| stored.is_none()) else {
                return Ok(stored);
            };
            let sql = r#"INSERT INTO key_record (one, salt, "check") VALUES (1, ?1, ?2)"#;
            let inserted = transaction.execute(sql, params![proposed.salt, proposed.check]);
            inserted.map_err(store_error)?;
            Ok::<_, StoreError>(Some(proposed))
        };
        self.writer.write(store_first).await
    }

    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError> {
        let sql = r#"UPDATE key_record SET "check" = ?3 WHERE salt = ?1 AND "check" = ?2"#;
        let from = from.clone();
        let renew = move |transaction: &Transaction<'_>| {
            let renewed = transaction.execute(sql, params![from.salt, from.check, check]);
            renewed.map(|rows| rows > 0).map_err(store_error)
        };
        self.writer.write(renew).await
    }
}

fn stored_key_record(transaction: &Transaction<'_>) -> rusqlite::Result<Option<KeyRecord>> {
    let sql = r#"SELECT salt, "check" FROM key_record"#;
    let record = |row: &Row<'_>| {
        Ok(KeyRecord {
            salt: row.get(0)?,
            check: row.get(1)?,
        })
    };
    transaction.query_row(sql, [], record).optional()
}
