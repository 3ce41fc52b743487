//! How long the log remembers the answers of jobs and the idempotency keys of requests.

use std::time::Duration;

use crate::time::clock::now_ms;

/// The log remembers an idempotency key for 24 hours.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(86_400);

/// Returns when an idempotency key that is used now expires, in milliseconds since 1970.
pub(super) fn idempotency_expiry() -> u64 {
    expiry(IDEMPOTENCY_TTL)
}

/// Returns when the answer of a job that ends now expires, in milliseconds since 1970.
pub(super) fn answer_expiry(answer_ttl: Duration) -> u64 {
    expiry(answer_ttl)
}

fn expiry(ttl: Duration) -> u64 {
    now_ms().saturating_add(ttl.as_millis() as u64)
}
