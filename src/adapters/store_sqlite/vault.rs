//! The Vault in SQLite. Removed values are overwritten on disk (`secure_delete`).

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, params};
use uuid::Uuid;

use super::{SqliteStore, failed, now_ms};
use crate::core::names::ValueId;
use crate::ports::{KeyRecord, Sealed, StoreError, Vault};

#[async_trait]
impl Vault for SqliteStore {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError> {
        // The same put again, after a failure of unknown outcome, changes nothing.
        let sql = "INSERT OR IGNORE INTO vault (id, put_at, sealed) VALUES (?1, ?2, ?3)";
        self.writer
            .write(move |t| {
                let mut statement = t.prepare_cached(sql).map_err(failed)?;
                statement.execute(params![id.0.as_bytes(), now_ms(), &sealed.0[..]]).map(drop).map_err(failed)
            })
            .await
    }

    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError> {
        let (sql, ids) = ("SELECT sealed FROM vault WHERE id = ?1", ids.to_vec());
        self.readers
            .read(move |c| {
                let mut statement = c.prepare_cached(sql)?;
                let sealed = |row: &Row<'_>| row.get::<_, Vec<u8>>(0).map(|bytes| Sealed(Bytes::from(bytes)));
                ids.iter().map(|id| statement.query_row(params![id.0.as_bytes()], sealed).optional()).collect()
            })
            .await
    }

    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError> {
        let (sql, ids) = ("DELETE FROM vault WHERE id = ?1", ids.to_vec());
        self.writer
            .write(move |t| {
                let mut statement = t.prepare_cached(sql).map_err(failed)?;
                ids.iter().try_for_each(|id| statement.execute(params![id.0.as_bytes()]).map(drop)).map_err(failed)
            })
            .await
    }

    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError> {
        let sql = "SELECT id FROM vault WHERE put_at < ?1";
        let before = now_ms() - age.as_millis() as i64;
        self.readers
            .read(move |c| {
                let mut statement = c.prepare_cached(sql)?;
                let ids = statement.query_map(params![before], |row| row.get::<_, [u8; 16]>(0))?;
                ids.map(|id| id.map(|bytes| ValueId(Uuid::from_bytes(bytes)))).collect()
            })
            .await
    }

    async fn key_record(&self, proposed: Option<KeyRecord>) -> Result<Option<KeyRecord>, StoreError> {
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
}
