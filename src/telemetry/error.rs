//!

use crate::core::failure::Failure;

/// Our own bug: the whole chain goes to the log, once; the caller learns that it was our fault.
pub fn internal_error(cause: impl std::fmt::Display) -> Failure {
    tracing::error!(%cause, "internal error");
    Failure::internal()
}
