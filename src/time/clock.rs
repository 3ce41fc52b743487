//! The only reader of the clock. Core functions take the time as an argument.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Returns the wall time in milliseconds since 1970 (UTC).
pub fn now_ms() -> u64 {
    since_1970().as_millis() as u64
}

/// Returns the wall time of a past instant in milliseconds since 1970 (UTC).
///
/// The difference of two rounded times could be a millisecond later than the instant, and a pause of the thread makes this
/// time earlier, never later.
pub fn wall_ms_of(past: Instant) -> u64 {
    let now = since_1970();
    now.saturating_sub(past.elapsed()).as_millis() as u64
}

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_never_shown_later_than_it_was() {
        for number in 0..1_000 {
            let start = monotonic();
            let latest = now_ms();
            // The time between the two reads ends in all parts of a millisecond.
            while start.elapsed() < Duration::from_micros(number % 10 * 100) {
                std::hint::spin_loop();
            }
            let shown = wall_ms_of(start);
            assert!(shown <= latest, "{shown} is later than {latest}");
        }
    }
}
