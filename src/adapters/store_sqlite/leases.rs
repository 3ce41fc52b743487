//! Leases in SQLite: a table in memory that ends with the process.
//!
//! The clock of the leases is the monotonic clock of the process. A server keeps its lease, and with
//! it its process, if the time of day changes or the machine wakes up.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use tokio::time::Instant;
use uuid::Uuid;

use super::error::store_error;
use super::{SqliteStore, now_ms};
use crate::core::ids::{LeaseId, WorkerId};
use crate::ports::error::StoreError;
use crate::ports::leases::Leases;
use crate::time::clock::monotonic;

/// The fencing tokens of one millisecond. A process that starts later has larger tokens, unless the
/// clock was set back; then the reserved tokens decide.
const TOKENS_PER_MS: i64 = 1 << 10;

/// Returns the milliseconds since the first call.
fn clock_ms() -> i64 {
    static START: LazyLock<Instant> = LazyLock::new(monotonic);
    START.elapsed().as_millis() as i64
}

/// Counts the fencing tokens in memory, so that a lease needs no disk.
pub(super) struct FencingTokens(AtomicI64);

impl FencingTokens {
    /// Reserves tokens above the tokens of all earlier processes, once for each start. On a full
    /// disk nothing is reserved, and the tokens follow the time of day alone.
    pub(super) fn reserve(connection: &Connection) -> Result<Self, StoreError> {
        let stored = "SELECT token FROM fencing";
        let stored: i64 = connection
            .query_row(stored, [], |row| row.get(0))
            .map_err(store_error)?;
        let first = stored.max(now_ms() * TOKENS_PER_MS);
        let reserve = "UPDATE fencing SET token = ?1";
        match connection.execute(reserve, params![first + TOKENS_PER_MS]) {
            Ok(_) => {}
            Err(error) => match store_error(error) {
                StoreError::DiskFull(_) => {
                    tracing::warn!(
                        "the disk is full, so the fencing tokens follow the time of day"
                    );
                }
                error => return Err(error),
            },
        }
        Ok(Self(AtomicI64::new(first)))
    }

    fn next(&self) -> i64 {
        self.0.fetch_add(1, Ordering::AcqRel) + 1
    }
}

#[async_trait]
impl Leases for SqliteStore {
    async fn acquire(
        &self,
        lease: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError> {
        let fencing = self.fencing.clone();
        let acquire = move |transaction: &Transaction<'_>| {
            acquire_lease(transaction, lease, holder, ttl, &fencing).map_err(store_error)
        };
        let token = self.writer.write(acquire).await?;
        Ok(token.map(|token| token as u64))
    }

    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError> {
        let renew = move |transaction: &Transaction<'_>| {
            renew_leases(transaction, holder, ttl).map_err(store_error)
        };
        self.writer.write(renew).await
    }

    async fn release(&self, lease: LeaseId, holder: WorkerId) -> Result<(), StoreError> {
        let release = move |transaction: &Transaction<'_>| {
            let sql = "DELETE FROM lease WHERE id = ?1 AND holder = ?2";
            let released =
                transaction.execute(sql, params![lease.0.as_bytes(), holder.0.as_bytes()]);
            released.map(|_| ()).map_err(store_error)
        };
        self.writer.write(release).await
    }
}

fn acquire_lease(
    transaction: &Transaction<'_>,
    lease: LeaseId,
    holder: WorkerId,
    ttl: Duration,
    fencing: &FencingTokens,
) -> rusqlite::Result<Option<i64>> {
    let id = lease.0.as_bytes();
    let holder = holder.0.as_bytes();
    let now = clock_ms();
    let until = now + ttl.as_millis() as i64;
    let extend = "UPDATE lease SET until = ?3
                  WHERE id = ?1 AND holder = ?2 AND until > ?4 RETURNING token";
    let own = transaction
        .prepare_cached(extend)?
        .query_row(params![id, holder, until, now], |row| row.get(0))
        .optional()?;
    if own.is_some() {
        return Ok(own);
    }
    let remove_expired = "DELETE FROM lease WHERE id = ?1 AND until <= ?2";
    transaction.execute(remove_expired, params![id, now])?;
    let token = fencing.next();
    let insert = "INSERT OR IGNORE INTO lease (id, holder, until, token) VALUES (?1, ?2, ?3, ?4)";
    let inserted = transaction.execute(insert, params![id, holder, until, token])?;
    Ok((inserted > 0).then_some(token))
}

fn renew_leases(
    transaction: &Transaction<'_>,
    holder: WorkerId,
    ttl: Duration,
) -> rusqlite::Result<Vec<LeaseId>> {
    let now = clock_ms();
    let until = now + ttl.as_millis() as i64;
    let sql = "UPDATE lease SET until = ?2 WHERE holder = ?1 AND until > ?3 RETURNING id";
    let mut statement = transaction.prepare_cached(sql)?;
    let renewed = statement.query_map(params![holder.0.as_bytes(), until, now], |row| {
        Ok(LeaseId(Uuid::from_bytes(row.get(0)?)))
    })?;
    renewed.collect()
}
