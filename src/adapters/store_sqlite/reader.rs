//! Reads on connections of their own: they wait for no write and no write waits for them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{connect, failed};
use crate::ports::error::StoreError;

/// Reads at once; the others wait.
const READERS: usize = 4;

pub struct Readers {
    file: PathBuf,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub fn new(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            permits: Semaphore::new(READERS),
            idle: Mutex::default(),
        }
    }

    /// Runs `work` on a free connection, off the async threads.
    pub async fn read<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|error| StoreError(error.to_string()))?;
        let readers = self.clone();
        let run = move || {
            let idle = readers.lock().pop();
            let connection = idle.map_or_else(|| connect(&readers.file), Ok)?;
            let result = work(&connection).map_err(failed);
            readers.lock().push(connection);
            result
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(|error| StoreError(error.to_string()))?
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
