//! The limit for browser pages, whose callers need no token.
//!
//! A page can wait up to two minutes for an authorization server. Without a limit of their own,
//! repeated opens of one link would use up the permits that signed-in callers need.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::core::failure::Failure;
use crate::core::model::grant::GrantId;

/// The number of pages that wait for workers at the same time, far below the permits of one worker.
const MAX_PAGES: usize = 32;
/// Pages of one grant that wait for workers at the same time.
const MAX_PAGES_PER_GRANT: usize = 4;

/// Counts the pages that wait for workers.
#[derive(Default)]
pub(super) struct PageLimit {
    waiting: Mutex<HashMap<GrantId, usize>>,
}

/// The right of one page to wait for a worker. Dropping it releases the place.
pub struct PagePermit<'a> {
    limit: &'a PageLimit,
    grant: GrantId,
}

impl PageLimit {
    /// Returns a permit for a page of this grant.
    ///
    /// # Errors
    /// `unavailable` if one of the limits is reached.
    pub(super) fn acquire(&self, grant: &GrantId) -> Result<PagePermit<'_>, Failure> {
        let mut waiting = self.waiting.lock();
        let total: usize = waiting.values().sum();
        let pages = waiting.get(grant).copied().unwrap_or_default();
        if pages >= MAX_PAGES_PER_GRANT {
            return Err(Failure::unavailable(
                "This sign-in is open in too many windows; close them and try again",
            ));
        }
        if total >= MAX_PAGES {
            return Err(Failure::unavailable(
                "Too many sign-ins are in progress; try again in a moment",
            ));
        }
        waiting.insert(grant.clone(), pages + 1);
        Ok(PagePermit {
            limit: self,
            grant: grant.clone(),
        })
    }
}

impl Drop for PagePermit<'_> {
    fn drop(&mut self) {
        let mut waiting = self.limit.waiting.lock();
        if let Some(pages) = waiting.get_mut(&self.grant) {
            *pages -= 1;
            if *pages == 0 {
                waiting.remove(&self.grant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::ids::ServerId;

    fn grant(number: u128) -> GrantId {
        GrantId {
            server: ServerId(Uuid::from_u128(number)),
            user: None,
        }
    }

    #[test]
    fn one_grant_cannot_use_all_places() {
        let limit = PageLimit::default();
        let permits: Vec<_> = (0..MAX_PAGES_PER_GRANT)
            .map(|_| limit.acquire(&grant(1)).expect("a permit"))
            .collect();
        assert!(limit.acquire(&grant(1)).is_err());
        assert!(limit.acquire(&grant(2)).is_ok());
        drop(permits);
        assert!(limit.acquire(&grant(1)).is_ok());
        assert!(limit.waiting.lock().is_empty());
    }

    #[test]
    fn all_grants_together_have_a_limit() {
        let limit = PageLimit::default();
        let permits: Vec<_> = (0..MAX_PAGES as u128)
            .map(|number| limit.acquire(&grant(number)).expect("a permit"))
            .collect();
        assert!(limit.acquire(&grant(1000)).is_err());
        drop(permits);
        assert!(limit.acquire(&grant(1000)).is_ok());
    }
}
