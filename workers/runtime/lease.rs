//! How long this worker may run one server, by its own clock.
//!
//! The store's lease ends later than this says: whoever stood still finds out here, before it does
//! anything, that it may not any more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The part of a lease that is not used: a child is dead before somebody else may start another.
const MARGIN: u32 = 12;

/// The monotonic clock, which goes on while a process is stopped.
fn now_ms(at: Instant) -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // One more, so that 0 is always the past.
    at.saturating_duration_since(*START).as_millis() as u64 + 1
}

#[derive(Default)]
pub struct LocalLease {
    until: AtomicU64,
    /// It is nobody's to give: every worker may run the server.
    free: AtomicBool,
    taken: std::sync::Mutex<Option<Instant>>,
    shortened: Notify,
}

impl LocalLease {
    /// The store gave it to us, asked at that moment.
    pub fn taken(&self, asked: Instant, ttl: Duration) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
        self.free.store(false, Ordering::Release);
        self.extend(asked, ttl);
    }

    /// The server may run in every worker. What ends with it is only a worker that stands still.
    pub fn granted(&self, ttl: Duration) {
        self.free.store(true, Ordering::Release);
        self.extend(Instant::now(), ttl);
    }

    pub fn is_free(&self) -> bool {
        self.free.load(Ordering::Acquire)
    }

    pub fn extend(&self, asked: Instant, ttl: Duration) {
        self.until
            .fetch_max(now_ms(asked + ttl - ttl / MARGIN), Ordering::Release);
    }

    /// It is given up, or was never had.
    pub fn end(&self) {
        self.until.store(0, Ordering::Release);
        self.shortened.notify_waiters();
    }

    /// The store did not name it among ours, asked at that moment. One taken since then was not meant.
    pub fn denied(&self, asked: Instant) {
        let taken = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_some_and(|taken| taken < asked) {
            self.end();
        }
    }

    pub fn is_held(&self) -> bool {
        now_ms(Instant::now()) < self.until.load(Ordering::Acquire)
    }

    /// How long it is still held.
    pub fn left(&self) -> Duration {
        let until = self.until.load(Ordering::Acquire);
        Duration::from_millis(until.saturating_sub(now_ms(Instant::now())))
    }

    /// Waits until it is not held any more.
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
