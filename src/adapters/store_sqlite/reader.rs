//! Reads on connections of their own: a read does not wait for a write, and a write does not wait
//! for a read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::connection::{Access, connect};
use super::error::store_error;
use crate::ports::error::StoreError;

/// The most concurrent reads. Further reads wait.
const READERS: usize = 4;

pub(super) struct Readers {
    file: PathBuf,
    access: Access,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(file: &Path, access: Access) -> Self {
        Self {
            file: file.to_owned(),
            access,
            permits: Semaphore::new(READERS),
            idle: Mutex::default(),
        }
    }

    /// Runs `work` on a free connection, on a thread for blocking work.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.permits.acquire().await.map_err(StoreError::failed)?;
        let readers = self.clone();
        let run = move || {
            let idle = readers.idle.lock().pop();
            let connection = match idle {
                Some(connection) => connection,
                None => connect(&readers.file, readers.access)?,
            };
            let result = work(&connection).map_err(store_error);
            readers.idle.lock().push(connection);
            result
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(StoreError::failed)?
    }
}
