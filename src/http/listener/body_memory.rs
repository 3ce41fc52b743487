//! Bounds the memory of all request bodies that are in flight.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::core::failure::Failure;

/// A body up to this size needs no reservation. The number of connections bounds small bodies.
const SMALL_BODY: usize = 16 << 10;
/// Bytes of all larger bodies together. At least four bodies of the largest size fit.
const TOTAL: usize = 256 << 20;
/// Reservations count units of this many bytes.
const UNIT: usize = 1 << 10;
/// A request waits this long for memory before it is refused.
const WAIT: Duration = Duration::from_secs(10);

/// The memory that large request bodies share.
pub(super) struct BodyMemory {
    units: Semaphore,
    payload: usize,
}

impl BodyMemory {
    /// Creates the memory for bodies of at most `payload` bytes each.
    pub(super) fn new(payload: usize) -> Self {
        Self {
            units: Semaphore::new(TOTAL.max(4 * payload) / UNIT),
            payload,
        }
    }

    /// Returns the bytes that a request must reserve. A chunked body may have the largest size,
    /// and the reader refuses a larger body without reading it.
    pub(super) fn bytes_to_reserve(&self, headers: &HeaderMap) -> Option<usize> {
        if let Some(length) = headers.get(CONTENT_LENGTH) {
            let length = length.to_str().ok()?.parse::<usize>().ok()?;
            return (length > SMALL_BODY).then_some(length.min(self.payload));
        }
        headers
            .contains_key(TRANSFER_ENCODING)
            .then_some(self.payload)
    }

    /// Waits for memory. The permit is held until the request has its response.
    ///
    /// # Errors
    /// Returns `unavailable` if other bodies hold the memory for ten seconds.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Failure> {
        let units = bytes.div_ceil(UNIT) as u32;
        match tokio::time::timeout(WAIT, self.units.acquire_many(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Failure::unavailable(
                "Too many large request bodies are in flight; retry in a moment",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn headers(name: axum::http::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().expect("a value"))])
    }

    #[test]
    fn only_large_bodies_reserve_memory() {
        let memory = BodyMemory::new(6 << 20);
        assert_eq!(memory.bytes_to_reserve(&HeaderMap::new()), None);
        let small = headers(CONTENT_LENGTH, "16384");
        assert_eq!(memory.bytes_to_reserve(&small), None);
        let large = headers(CONTENT_LENGTH, "16385");
        assert_eq!(memory.bytes_to_reserve(&large), Some(16_385));
        let too_large = headers(CONTENT_LENGTH, "99999999999");
        assert_eq!(memory.bytes_to_reserve(&too_large), Some(6 << 20));
        let chunked = headers(TRANSFER_ENCODING, "chunked");
        assert_eq!(memory.bytes_to_reserve(&chunked), Some(6 << 20));
    }

    #[tokio::test]
    async fn a_body_waits_while_others_hold_the_memory() {
        let memory = BodyMemory::new(TOTAL / 4);
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(memory.reserve(TOTAL / 4).await.expect("memory"));
        }
        assert!(memory.reserve(UNIT).now_or_never().is_none());
        held.pop();
        assert!(memory.reserve(UNIT).await.is_ok());
    }
}
