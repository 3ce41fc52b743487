//! The error of a store.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::core::failure::{Code, Failure};
use crate::core::ids::Position;

/// The cause of a store error. It is shared, because one failed commit fails many operations.
pub type Cause = Arc<dyn Error + Send + Sync>;

/// The reason why a store has not executed an operation. The text never repeats its source.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("the store cannot be reached")]
    Unreachable(#[source] Cause),
    #[error("the store did not answer within {} ms", limit.as_millis())]
    TimedOut { limit: Duration },
    #[error("the store refuses the user or the password")]
    AccessDenied(#[source] Cause),
    #[error("the disk of the store is full; free some space")]
    DiskFull(#[source] Cause),
    #[error("the data have {bytes} bytes, and the store accepts at most {limit} bytes at once")]
    TooLarge { bytes: usize, limit: usize },
    #[error("an append at {position} after {head} would leave a gap in the log")]
    Gap { position: Position, head: Position },
    #[error("{data} cannot be decoded")]
    Damaged {
        /// The name of the stored data, such as `entry 12 of the log`.
        data: String,
        #[source]
        source: Cause,
    },
    #[error(
        "a newer mcp-api wrote the store (version {found}; this program knows version {known}); start the newer mcp-api"
    )]
    Newer { found: u32, known: u32 },
    #[error("{0}")]
    Unusable(&'static str),
    /// The append may be in the log.
    #[error("the store has not confirmed the append")]
    OutcomeUnknown(#[source] Cause),
    #[error("the store is stopping")]
    Stopping,
    #[error("the store failed")]
    Failed(#[source] Cause),
}

impl StoreError {
    /// Returns an error whose cause the caller cannot repair.
    pub fn failed(cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Failed(Arc::new(cause))
    }

    /// Returns the error of stored data that cannot be decoded.
    pub fn damaged(data: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self::Damaged {
            data: data.into(),
            source: Arc::new(cause),
        }
    }

    /// Returns the failure of a request that needed the store. The caller of this function logs the
    /// error with its causes.
    pub fn failure(&self) -> Failure {
        match self {
            Self::DiskFull(_) => Failure::unavailable(
                "The disk of the store is full; free some space, then retry the request",
            ),
            Self::TooLarge { bytes, limit } => Failure::new(
                Code::PayloadTooLarge,
                format!("The change has {bytes} bytes, and the store accepts {limit}; send less"),
            ),
            _ => Failure::unavailable("The store cannot be reached; retry in a moment"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::error_chain::error_chain;

    #[test]
    fn a_failure_names_a_full_disk_and_a_change_that_is_too_large() {
        let full = StoreError::DiskFull(Arc::new(std::fmt::Error)).failure();
        assert_eq!(full.code, Code::Unavailable);
        assert!(full.message.contains("disk"), "{}", full.message);
        let large = StoreError::TooLarge {
            bytes: 17,
            limit: 16,
        };
        assert_eq!(large.failure().code, Code::PayloadTooLarge);
        assert_eq!(StoreError::Stopping.failure().code, Code::Unavailable);
    }

    #[test]
    fn an_error_does_not_repeat_its_cause() {
        let error = StoreError::failed(std::io::Error::other("disk I/O error"));
        assert!(!error.to_string().contains("disk I/O error"));
        assert_eq!(error_chain(&error), "the store failed: disk I/O error");
    }
}
