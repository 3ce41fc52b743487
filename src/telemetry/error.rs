//! Internal errors: the log gets the whole chain of causes, the caller learns that the program
//! failed.

use std::error::Error;

pub use crate::core::error_chain::error_chain;
use crate::core::failure::Failure;

/// Logs a bug of this program once, with all its causes, and returns the failure for the caller.
pub fn internal_error(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
    let cause = cause.into();
    tracing::error!(error = %error_chain(&*cause), "internal error");
    Failure::internal()
}
