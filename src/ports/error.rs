//! The error of a store.

/// The store cannot be reached, or it refuses an operation. The caller retries.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);
