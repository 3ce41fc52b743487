//! Limits the operations that wait for an authorization server.
//!
//! These operations hold no permit for changes, because an authorization server may let them wait for
//! minutes. The limit of each grant keeps one link from using the share of other grants.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::core::failure::Failure;
use crate::core::model::grant::GrantId;

/// The operations of one worker at a time.
const MAX_OPERATIONS: usize = 1024;
/// The operations of one grant at a time.
const MAX_OPERATIONS_PER_GRANT: usize = 16;

/// The operations that wait for authorization servers.
pub struct OAuthLimits {
    operations: Arc<Semaphore>,
    per_grant: Arc<Mutex<HashMap<GrantId, usize>>>,
}

/// One running operation of a grant. Dropping the guard ends the operation.
pub struct OperationPermit {
    grant: GrantId,
    per_grant: Arc<Mutex<HashMap<GrantId, usize>>>,
    _operation: OwnedSemaphorePermit,
}

impl Default for OAuthLimits {
    fn default() -> Self {
        Self {
            operations: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            per_grant: Arc::default(),
        }
    }
}

impl OAuthLimits {
    /// Starts an operation of a grant.
    ///
    /// # Errors
    /// Fails with `unavailable` if the grant or the worker has too many of them. Nothing has started.
    pub fn start(&self, grant: &GrantId) -> Result<OperationPermit, Failure> {
        let operation = self.operations.clone().try_acquire_owned().map_err(|_| {
            Failure::unavailable("The worker runs too many authorizations; retry in a moment")
        })?;
        let mut per_grant = self.per_grant.lock();
        let running = per_grant.entry(grant.clone()).or_default();
        if *running >= MAX_OPERATIONS_PER_GRANT {
            return Err(Failure::unavailable(
                "Too many authorizations of this server and user are running; retry in a moment",
            ));
        }
        *running += 1;
        Ok(OperationPermit {
            grant: grant.clone(),
            per_grant: self.per_grant.clone(),
            _operation: operation,
        })
    }

    /// Waits until no operation runs, and starts no other operation.
    pub async fn wait_until_idle(&self) {
        // The semaphore is never closed, so the result holds all permits.
        if let Ok(all) = self.operations.acquire_many(MAX_OPERATIONS as u32).await {
            all.forget();
        }
    }
}

impl Drop for OperationPermit {
    fn drop(&mut self) {
        let mut per_grant = self.per_grant.lock();
        if let Some(running) = per_grant.get_mut(&self.grant) {
            *running -= 1;
            if *running == 0 {
                per_grant.remove(&self.grant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ServerId;

    fn grant(server: u128) -> GrantId {
        GrantId {
            server: ServerId(Uuid::from_u128(server)),
            user: None,
        }
    }

    #[tokio::test]
    async fn one_grant_cannot_use_the_share_of_another() {
        let limits = OAuthLimits::default();
        let mut permits: Vec<_> = (0..MAX_OPERATIONS_PER_GRANT)
            .map(|_| limits.start(&grant(1)).expect("a permit"))
            .collect();
        assert!(limits.start(&grant(1)).is_err());
        let other = limits.start(&grant(2)).expect("a permit");
        permits.pop();
        permits.push(limits.start(&grant(1)).expect("a permit"));
        drop(other);
        permits.clear();
        assert!(limits.per_grant.lock().is_empty());
        limits.wait_until_idle().await;
        assert!(limits.start(&grant(3)).is_err());
    }
}
