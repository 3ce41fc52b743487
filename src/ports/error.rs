//!

/// A store that cannot be reached or does not obey. Nobody knows a better remedy than asking again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);
