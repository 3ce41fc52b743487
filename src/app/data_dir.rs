//! The lock on the data folder.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::StartError;
use crate::time::clock;

/// A process that was just killed may hold the lock for this long, because a child that it was
/// starting has the lock until the child executes its own program.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Creates the folder and locks it for as long as the returned file is open.
///
/// # Errors
/// Returns `InUse` if another process holds the lock, and `DataDir` if the folder cannot be used.
pub(super) fn lock_data_dir(data_dir: &Path) -> Result<File, StartError> {
    let unusable = |source| StartError::DataDir {
        path: data_dir.display().to_string(),
        source,
    };
    let file = open_lock_file(data_dir).map_err(unusable)?;
    let deadline = clock::monotonic() + RELEASE_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if clock::monotonic() < deadline => {
                std::thread::sleep(RETRY_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StartError::InUse {
                    path: data_dir.display().to_string(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
    }
}

fn open_lock_file(data_dir: &Path) -> io::Result<File> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)?;
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(data_dir.join("lock"))
}
