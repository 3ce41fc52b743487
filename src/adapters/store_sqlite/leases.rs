//! Leases in SQLite: a table that ends with the process, with tokens that do not start again.
//!
//! Their clock is the process's own: when the time of day is set, or the machine wakes up, no server may lose
//! its lease, and with it its process.

use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

use async_trait::async_trait;
use rusqlite::params;
use uuid::Uuid;

use super::{SqliteStore, failed};
use crate::core::ids::{LeaseId, WorkerId};
use crate::ports::error::StoreError;
use crate::ports::leases::Leases;
use crate::time::clock::monotonic;

/// Milliseconds since the first look at it.
fn clock_ms() -> i64 {
    static START: LazyLock<Instant> = LazyLock::new(monotonic);
    START.elapsed().as_millis() as i64
}

#[async_trait]
impl Leases for SqliteStore {
    async fn acquire(
        &self,
        what: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        self.writer
            .write(move |t| {
                let (what, holder, now) = (what.0.as_bytes(), holder.0.as_bytes(), clock_ms());
                let until = now + ttl.as_millis() as i64;
                let own =
                    "UPDATE lease SET until = ?3 WHERE id = ?1 AND holder = ?2 AND until > ?4 RETURNING token";
                let mut statement = t.prepare_cached(own).map_err(failed)?;
                let mut rows = statement.query(params![what, holder, until, now]).map_err(failed)?;
                if let Some(row) = rows.next().map_err(failed)? {
                    return row.get::<_, i64>(0).map(|token| Some(token as u64)).map_err(failed);
                }
                let free = "DELETE FROM lease WHERE id = ?1 AND until <= ?2";
                t.execute(free, params![what, now]).map_err(failed)?;
                let held = "SELECT count(*) FROM lease WHERE id = ?1";
                if t.query_row(held, params![what], |row| row.get::<_, i64>(0)).map_err(failed)? > 0 {
                    return Ok(None);
                }
                let next = "UPDATE fencing SET token = token + 1 RETURNING token";
                let token: i64 = t.query_row(next, [], |row| row.get(0)).map_err(failed)?;
                let insert = "INSERT INTO lease (id, holder, until, token) VALUES (?1, ?2, ?3, ?4)";
                t.execute(insert, params![what, holder, until, token]).map_err(failed)?;
                Ok(Some(token as u64))
            })
            .await
    }

    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError> {
        self.writer
            .write(move |t| {
                let now = clock_ms();
                let sql =
                    "UPDATE lease SET until = ?2 WHERE holder = ?1 AND until > ?3 RETURNING id";
                let mut statement = t.prepare_cached(sql).map_err(failed)?;
                let until = now + ttl.as_millis() as i64;
                let renewed = statement
                    .query_map(params![holder.0.as_bytes(), until, now], |row| {
                        row.get::<_, [u8; 16]>(0)
                    })
                    .map_err(failed)?;
                renewed
                    .map(|id| {
                        id.map(|bytes| LeaseId(Uuid::from_bytes(bytes)))
                            .map_err(failed)
                    })
                    .collect()
            })
            .await
    }

    async fn release(&self, what: LeaseId, holder: WorkerId) -> Result<(), StoreError> {
        let sql = "DELETE FROM lease WHERE id = ?1 AND holder = ?2";
        self.writer
            .write(move |t| {
                t.execute(sql, params![what.0.as_bytes(), holder.0.as_bytes()])
                    .map(drop)
                    .map_err(failed)
            })
            .await
    }
}
