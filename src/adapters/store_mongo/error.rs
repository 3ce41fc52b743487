//! Translates the errors of the MongoDB driver into store errors, and limits every operation.

use std::sync::Arc;
use std::time::Duration;

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::ports::error::StoreError;

/// The longest time of one operation.
pub(super) const OPERATION_LIMIT: Duration = Duration::from_secs(4);
/// The code of a unique key that exists already.
pub(super) const DUPLICATE_KEY: i32 = 11000;
/// The code of a server whose disk is full.
const OUT_OF_DISK_SPACE: i32 = 14031;
/// The codes of operations that the server has not executed and that a retry does not change:
/// Unauthorized, AuthenticationFailed, BSONObjectTooLarge, IllegalOperation.
const REFUSED: [i32; 4] = [13, 18, 10334, 20];

/// Limits the time of an operation.
pub(super) async fn with_timeout<T>(
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(OPERATION_LIMIT, operation.into_future()).await {
        Ok(result) => result.map_err(store_error),
        Err(_) => Err(timed_out()),
    }
}

/// Limits the time of an operation. Returns `None` if a unique key exists already, because another
/// process was faster.
pub(super) async fn unless_duplicate<T>(
    operation: impl IntoFuture<Output = Result<T, Error>>,
) -> Result<Option<T>, StoreError> {
    match tokio::time::timeout(OPERATION_LIMIT, operation.into_future()).await {
        Ok(Ok(result)) => Ok(Some(result)),
        Ok(Err(error)) if is_duplicate(&error) => Ok(None),
        Ok(Err(error)) => Err(store_error(error)),
        Err(_) => Err(timed_out()),
    }
}

pub(super) fn timed_out() -> StoreError {
    StoreError::TimedOut {
        limit: OPERATION_LIMIT,
    }
}

/// Returns the store error of an error of the driver. The texts of the driver name servers and
/// commands, and neither users nor passwords.
pub(super) fn store_error(error: Error) -> StoreError {
    let is_disk_full = code_of(&error) == Some(OUT_OF_DISK_SPACE);
    match &*error.kind {
        ErrorKind::ServerSelection { .. } => StoreError::Unreachable(Arc::new(error)),
        ErrorKind::Authentication { .. } => StoreError::AccessDenied(Arc::new(error)),
        _ if is_disk_full => StoreError::DiskFull(Arc::new(error)),
        _ => StoreError::failed(error),
    }
}

/// Returns whether a unique index refused a document.
pub(super) fn is_duplicate(error: &Error) -> bool {
    code_of(error) == Some(DUPLICATE_KEY)
}

/// Returns whether the server or the driver has refused the operation without executing it.
pub(super) fn was_refused(error: &Error) -> bool {
    code_of(error).is_some_and(|code| REFUSED.contains(&code))
        || matches!(
            &*error.kind,
            ErrorKind::Authentication { .. }
                | ErrorKind::InvalidArgument { .. }
                | ErrorKind::ServerSelection { .. }
        )
}

fn code_of(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::InsertMany(error) => {
            let mut codes = error.write_errors.iter().flatten().map(|error| error.code);
            codes.find(|code| *code != DUPLICATE_KEY)
        }
        _ => None,
    }
}

/// Returns the error of a document that cannot be decoded.
pub(super) fn damaged(cause: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::damaged("a document of MongoDB", cause)
}
