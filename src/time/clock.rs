//! The only reader of the clock. Core functions take the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Returns the wall time in milliseconds since 1970 (UTC).
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since_1970| since_1970.as_millis() as u64)
}

/// Returns the wall time in seconds since 1970 (UTC).
pub fn now_seconds() -> u64 {
    now_ms() / 1000
}

/// Returns the current instant of the monotonic clock. Deadlines and durations use this clock,
/// because an administrator may set the wall clock back.
pub fn monotonic() -> Instant {
    Instant::now()
}
