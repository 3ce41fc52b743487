//! Translates the errors of SQLite into store errors.

use rusqlite::{Error, ErrorCode, ffi};

use crate::ports::error::StoreError;

/// Returns the store error of an error of SQLite.
pub(super) fn store_error(error: Error) -> StoreError {
    if is_disk_full(&error) {
        return StoreError::DiskFull(std::sync::Arc::new(error));
    }
    StoreError::failed(error)
}

/// Returns whether the file system has no space left. SQLite reports a memory map that it cannot
/// extend as an I/O error of its own.
fn is_disk_full(error: &Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.code == ErrorCode::DiskFull
            || [ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMOPEN].contains(&error.extended_code)
    })
}
