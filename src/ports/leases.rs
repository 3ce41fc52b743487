//!

use std::time::Duration;

use async_trait::async_trait;

use super::error::StoreError;
use crate::core::ids::{LeaseId, WorkerId};

/// Who runs or does what, for a limited time by the store's clock.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes a free or expired lease, or one that is the holder's own. The fencing token grows with
    /// every change of hands. `None`: somebody else holds it.
    async fn acquire(
        &self,
        what: LeaseId,
        holder: WorkerId,
        ttl: Duration,
    ) -> Result<Option<u64>, StoreError>;
    /// Renews all leases of a holder that have not expired and says which they are.
    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError>;
    /// Gives a lease back; a no-op for one that is not the holder's.
    async fn release(&self, what: LeaseId, holder: WorkerId) -> Result<(), StoreError>;
}
