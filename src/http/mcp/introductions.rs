//! The newest starts of servers that only users start, so that a facade does not repeat them with every list.

use std::time::Duration;

use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::core::catalog::server::Server;
use crate::core::decide::credential::connection_values;
use crate::core::ids::{ServerId, ValueId};
use crate::core::names::UserName;
use crate::time::clock::monotonic;

/// A start is tried again after this time, or at once with other values.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// The most starts that a facade remembers.
const MAX_REMEMBERED: usize = 10_000;

/// The newest start of each server for a user, with the values of the user.
pub struct Introductions(Cache<(ServerId, UserName), Introduction>);

#[derive(Clone)]
struct Introduction {
    values: Vec<ValueId>,
    at: Instant,
}

impl Default for Introductions {
    fn default() -> Self {
        Self(Cache::new(MAX_REMEMBERED))
    }
}

impl Introductions {
    /// Returns whether a start is worth a try, and remembers it.
    pub(super) fn begin(&self, server: &Server, user: &UserName) -> bool {
        let Ok(values) = connection_values(server, Some(user)) else {
            return false;
        };
        let key = (server.id, user.clone());
        let newest = self.0.get(&key);
        let is_recent =
            newest.is_some_and(|it| it.values == values && it.at.elapsed() < RETRY_AFTER);
        if !is_recent {
            let at = monotonic();
            self.0.insert(key, Introduction { values, at });
        }
        !is_recent
    }
}
