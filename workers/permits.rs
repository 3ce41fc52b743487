//! Permits: the limits on the running calls of a worker, of each server and of each user, and on changes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::config::Limits;
use crate::core::names::UserName;

/// Changes that a worker decides and appends at once. They have permits of their own, so a worker that is full of calls
/// still accepts the change that disables a server.
const CHANGES: usize = 256;

pub struct Permits {
    calls: Semaphore,
    /// Permits of `calls` in total.
    all_calls: usize,
    per_server: usize,
    changes: Arc<Semaphore>,
    users: PermitsByKey<UserName>,
}

/// The right to decide and append one change. A handler drops it before it waits for anything else, such as the start
/// of a server.
pub struct ChangePermit(
    #[allow(dead_code, reason = "held until it is dropped")] OwnedSemaphorePermit,
);

impl Permits {
    pub fn new(limits: &Limits) -> Self {
        Self {
            calls: Semaphore::new(limits.calls),
            all_calls: limits.calls,
            per_server: limits.calls_per_server,
            changes: Arc::new(Semaphore::new(CHANGES)),
            users: PermitsByKey::new(limits.calls_per_user),
        }
    }

    /// Returns the permit of one call of this worker. `None`: all are taken.
    pub fn call(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.try_acquire().ok()
    }

    /// Returns the permit of one change. `None`: all are taken.
    pub fn change(&self) -> Option<ChangePermit> {
        let permit = self.changes.clone().try_acquire_owned();
        permit.ok().map(ChangePermit)
    }

    /// Returns the permit of one call of a user. `None`: the user has all of them.
    pub fn user(&self, user: &UserName) -> Option<KeyPermit<UserName>> {
        self.users.acquire(user)
    }

    /// Whether a server may run the call that has its permits already. `server` contains the permits of that server.
    ///
    /// While other servers have calls, a server gets no more permits than are free (dynamic thresholds, Choudhury and
    /// Hahne 1998). So hung servers never take the last permits, and a further server always finds some.
    pub fn is_within_share(&self, server: &Semaphore) -> bool {
        let free = self.calls.available_permits();
        let of_server = self.per_server.saturating_sub(server.available_permits());
        let running = self.all_calls.saturating_sub(free);
        let others = running.saturating_sub(of_server);
        others == 0 || of_server <= free + 1
    }

    /// Waits until no call and no change is running.
    pub async fn all_free(&self) {
        let _ = self.calls.acquire_many(self.all_calls as u32).await;
        let _ = self.changes.acquire_many(CHANGES as u32).await;
    }
}

/// A number of permits for each key.
struct PermitsByKey<K> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One permit of a key.
pub struct KeyPermit<K: Hash + Eq> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> PermitsByKey<K> {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Arc::default(),
        }
    }

    fn acquire(&self, key: &K) -> Option<KeyPermit<K>> {
        let mut taken = self.taken.lock();
        let of_key = taken.entry(key.clone()).or_default();
        if *of_key >= self.limit {
            return None;
        }
        *of_key += 1;
        Some(KeyPermit {
            taken: self.taken.clone(),
            key: key.clone(),
        })
    }
}

impl<K: Hash + Eq> Drop for KeyPermit<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(of_key) = taken.get_mut(&self.key) {
            *of_key -= 1;
            if *of_key == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acquires permits for a server until it is refused, and returns how many it got.
    fn fill<'a>(
        permits: &'a Permits,
        server: &'a Semaphore,
        running: &mut Vec<SemaphorePermit<'a>>,
    ) -> usize {
        let before = running.len();
        while let Some(call) = permits.call() {
            let Ok(of_server) = server.try_acquire() else {
                break;
            };
            if !permits.is_within_share(server) {
                break;
            }
            running.extend([call, of_server]);
        }
        (running.len() - before) / 2
    }

    fn permits(calls: usize, per_server: usize) -> Permits {
        Permits {
            calls: Semaphore::new(calls),
            all_calls: calls,
            per_server,
            changes: Arc::new(Semaphore::new(CHANGES)),
            users: PermitsByKey::new(1),
        }
    }

    #[test]
    fn hung_servers_leave_permits_for_other_servers() {
        let permits = permits(1024, 256);
        let servers: Vec<_> = (0..6).map(|_| Semaphore::new(256)).collect();
        let mut running = Vec::new();
        let taken = servers
            .iter()
            .map(|server| fill(&permits, server, &mut running));
        let taken: Vec<_> = taken.collect();
        assert_eq!(taken[..3], [256, 256, 256]);
        assert!(taken.iter().all(|taken| *taken >= 32), "{taken:?}");
    }

    #[test]
    fn one_server_alone_may_take_all_permits() {
        for calls in [1, 2, 7] {
            let permits = permits(calls, 256);
            let server = Semaphore::new(256);
            assert_eq!(fill(&permits, &server, &mut Vec::new()), calls);
        }
    }

    #[test]
    fn a_key_has_its_own_permits() {
        let permits = permits(1, 1);
        let ana: UserName = "ana".parse().expect("a name");
        let ben: UserName = "ben".parse().expect("a name");
        let first = permits.user(&ana);
        assert!(first.is_some() && permits.user(&ana).is_none());
        assert!(permits.user(&ben).is_some());
        drop(first);
        assert!(permits.user(&ana).is_some());
        assert!(permits.users.taken.lock().is_empty());
    }
}
