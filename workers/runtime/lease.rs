//! The time for which this worker may run one server, measured by the worker's own monotonic clock.
//!
//! The local lease ends before the lease in the store. A worker that was stopped for a while finds out here that its
//! lease has ended, before it does anything else.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::time::clock::monotonic;

/// The unused part of a lease is its twelfth. A child is dead before another worker may start the server.
const MARGIN: u32 = 12;

/// Returns milliseconds of the monotonic clock, which continues while the process is stopped. The result is at least 1,
/// so that 0 is always in the past.
fn monotonic_ms(at: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(monotonic);
    at.saturating_duration_since(*START).as_millis() as u64 + 1
}

/// The right of this worker to run one server.
#[derive(Default)]
pub struct LocalLease {
    /// The end in milliseconds of the monotonic clock.
    until_ms: AtomicU64,
    /// The fencing token of the lease in the store.
    token: AtomicU64,
    /// Every worker may run the server, so the store has no lease of it.
    is_shared: AtomicBool,
    acquired: Mutex<Option<Instant>>,
    shortened: Notify,
}

impl LocalLease {
    /// Records a lease that the store gave with a fencing token. `requested` is the moment of the request.
    pub fn start(&self, requested: Instant, ttl: Duration, token: u64) {
        *self.acquired.lock() = Some(requested);
        self.token.store(token, Ordering::Release);
        self.is_shared.store(false, Ordering::Release);
        self.extend(requested, ttl);
    }

    /// Records that every worker may run the server. Only a worker that is stopped loses this right.
    pub fn start_shared(&self, ttl: Duration) {
        self.is_shared.store(true, Ordering::Release);
        self.extend(monotonic(), ttl);
    }

    /// Returns the fencing token for a record in the log, or `None` if every worker may run the server.
    pub fn fencing_token(&self) -> Option<u64> {
        (!self.is_shared()).then(|| self.token.load(Ordering::Acquire))
    }

    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Acquire)
    }

    /// Extends the lease after a renewal. `requested` is the moment of the request.
    pub fn extend(&self, requested: Instant, ttl: Duration) {
        let end = monotonic_ms(requested + ttl - ttl / MARGIN);
        self.until_ms.fetch_max(end, Ordering::Release);
    }

    /// Ends the lease at once.
    pub fn end(&self) {
        self.until_ms.store(0, Ordering::Release);
        self.shortened.notify_waiters();
    }

    /// Ends the lease because a renewal that was requested at `requested` did not name it. A lease that was acquired
    /// later stays.
    pub fn refuse(&self, requested: Instant) {
        let acquired = *self.acquired.lock();
        if acquired.is_some_and(|acquired| acquired < requested) {
            self.end();
        }
    }

    pub fn is_held(&self) -> bool {
        monotonic_ms(monotonic()) < self.until_ms.load(Ordering::Acquire)
    }

    /// Returns the time until the lease ends.
    pub fn left(&self) -> Duration {
        let until = self.until_ms.load(Ordering::Acquire);
        Duration::from_millis(until.saturating_sub(monotonic_ms(monotonic())))
    }

    /// Waits until the lease has ended.
    pub async fn ended(&self) {
        loop {
            let shortened = self.shortened.notified();
            let left = self.left();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                () = shortened => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(12);

    #[test]
    fn a_lease_ends_before_the_lease_in_the_store() {
        let lease = LocalLease::default();
        assert!(!lease.is_held());
        lease.start(monotonic(), TTL, 7);
        assert!(lease.is_held());
        assert_eq!(lease.fencing_token(), Some(7));
        assert!(lease.left() <= TTL - TTL / MARGIN);
    }

    #[test]
    fn a_renewal_that_began_before_the_lease_does_not_end_it() {
        let lease = LocalLease::default();
        let before = monotonic();
        let acquired = before + Duration::from_millis(5);
        lease.start(acquired, TTL, 7);
        lease.refuse(before);
        assert!(lease.is_held());
        lease.refuse(acquired + Duration::from_millis(5));
        assert!(!lease.is_held());
    }
}
