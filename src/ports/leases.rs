//! Leases: rights that one worker holds for a limited time.

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::core::ids::{LeaseId, WorkerId};

/// Grants leases by the clock of the store.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Acquires a lease that is free, that has expired or that the worker holds already, and
    /// returns the fencing token, which grows when the holder changes. Returns `None` if another
    /// worker holds the lease.
    async fn acquire(
        &self,
        lease: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError>;
    /// Renews all unexpired leases of a worker and returns their ids.
    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError>;
    /// Releases a lease. Does nothing if the worker does not hold it.
    async fn release(&self, lease: LeaseId, holder: WorkerId) -> Result<(), StoreError>;
}
