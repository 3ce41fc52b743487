//! Keeps the catalog of this process at the head of the log.
//!
//! A reader loads the catalog and never waits. The appender publishes a catalog after its own
//! append, and `follow_log` folds what other processes append. Both fold the same log, so the newer
//! catalog replaces the older one.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast, watch};

use super::job_watch::{JobWatch, JobWatchers};
use super::reader::{ReadError, read_after};
use super::shared_entry::SharedEntries;
use super::{FOLD_PAGE, snapshot};
use crate::core::catalog::Catalog;
use crate::core::event::{DecodeError, Entry};
use crate::core::ids::{JobId, Position};
use crate::ports::bus::{Bus, EntrySigner, Hint, SignedEntry};
use crate::ports::error::StoreError;
use crate::ports::event_log::EventLog;
use crate::telemetry::error::error_chain;

/// The projection reads the log this often without a hint.
const POLL: Duration = Duration::from_secs(3);
/// A position that no log reaches.
const END_OF_LOG: Position = Position(u64::MAX);
/// Entries between two snapshots.
const SNAPSHOT_EVERY: u64 = 2000;

/// The catalog of this process at the head of the log.
pub struct Projection {
    log: Arc<dyn EventLog>,
    bus: Arc<dyn Bus>,
    catalog: ArcSwap<Catalog>,
    positions: watch::Sender<Position>,
    shared: SharedEntries,
    job_watchers: Arc<JobWatchers>,
    /// Held by the task that reads the log, so that many waiting tasks cause one read.
    read_turn: tokio::sync::Mutex<()>,
    /// The position of the newest snapshot. Held while a catalog is replaced.
    snapshot_position: Mutex<Position>,
    /// Only one snapshot is stored at a time, however fast the log grows.
    snapshot_permit: Arc<Semaphore>,
    halted: OnceLock<DecodeError>,
}

impl Projection {
    /// Loads the newest snapshot and folds the entries after it.
    ///
    /// # Errors
    /// Returns an error if the store cannot be read.
    pub async fn open(log: Arc<dyn EventLog>, bus: Arc<dyn Bus>) -> Result<Arc<Self>, StoreError> {
        let catalog = snapshot::load_snapshot(&*log).await?.unwrap_or_default();
        let position = catalog.position;
        let projection = Arc::new(Self {
            log,
            bus,
            catalog: ArcSwap::from_pointee(catalog),
            positions: watch::Sender::new(position),
            shared: SharedEntries::default(),
            job_watchers: Arc::default(),
            read_turn: tokio::sync::Mutex::default(),
            snapshot_position: Mutex::new(position),
            snapshot_permit: Arc::new(Semaphore::new(1)),
            halted: OnceLock::new(),
        });
        projection.read_log(END_OF_LOG).await?;
        Ok(projection)
    }

    /// Sends appended entries to other processes, and folds theirs without a read of the log.
    pub fn share_entries(&self, signer: Arc<dyn EntrySigner>) {
        if let Some(log) = self.log.identity().filter(|_| self.bus.reaches_processes()) {
            self.shared.start(log.to_owned(), signer);
        }
    }

    /// Folds the entries of other processes until this process ends.
    pub async fn follow_log(self: Arc<Self>) {
        let mut hints = self.bus.hints();
        loop {
            let wanted = tokio::select! {
                hint = hints.recv() => match hint {
                    Ok(Hint::LogMoved(head)) if head > self.position() => head,
                    Ok(Hint::EntryAppended(entry)) if entry.position > self.position() => {
                        if self.fold_shared(&entry) {
                            continue;
                        }
                        entry.position
                    }
                    Ok(_) => continue,
                    Err(broadcast::error::RecvError::Lagged(_)) => END_OF_LOG,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = tokio::time::sleep(POLL) => END_OF_LOG,
            };
            let _turn = self.read_turn.lock().await;
            if let Err(error) = self.read_log(wanted).await {
                tracing::warn!(
                    error = %error_chain(&error),
                    "the projection cannot read the log; retrying"
                );
            }
        }
    }

    /// Returns the current catalog. The call is cheap. The guard must not be held across an await.
    pub fn catalog(&self) -> Guard<Arc<Catalog>> {
        self.catalog.load()
    }

    /// Returns the position of the current catalog.
    pub fn position(&self) -> Position {
        self.catalog.load().position
    }

    /// Returns the log that this projection folds.
    pub fn log(&self) -> &dyn EventLog {
        &*self.log
    }

    /// Returns a receiver of the position of every new catalog.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.positions.subscribe()
    }

    /// Returns a watch that wakes when the catalog shows a change of this job.
    pub fn watch_job(&self, job: JobId) -> JobWatch {
        self.job_watchers.watch(job)
    }

    /// Returns the reason why this process cannot fold the log any further, if there is one. The
    /// process then appends nothing.
    pub fn halted(&self) -> Option<&DecodeError> {
        self.halted.get()
    }

    /// Waits until the catalog has reached a position, at most `limit`. Returns whether it has.
    pub async fn wait_for(&self, position: Position, limit: Duration) -> bool {
        if self.position() >= position {
            return true;
        }
        let mut positions = self.subscribe();
        let mut reached = async || positions.wait_for(|at| *at >= position).await.is_ok();
        let read_or_reached = async {
            tokio::select! {
                is_reached = reached() => return is_reached,
                _turn = self.read_turn.lock() => {
                    // After a failed read, `follow_log` reads the entries later.
                    let _ = self.read_log(position).await;
                }
            }
            reached().await
        };
        tokio::time::timeout(limit, read_or_reached)
            .await
            .unwrap_or(false)
    }

    /// Shows the catalog after an append of this process, and notifies the other processes.
    pub fn publish(&self, catalog: Catalog, appended: &Entry) {
        let shared = self.shared.sign(appended);
        let moved = Hint::LogMoved(catalog.position);
        self.replace_if_newer(catalog, std::slice::from_ref(appended));
        self.bus.publish(shared.map_or(moved, Hint::EntryAppended));
    }

    /// Folds an entry that came with a hint. Returns `false` if the log must be read.
    fn fold_shared(&self, shared: &SignedEntry) -> bool {
        let Some(entry) = self.shared.verify(shared) else {
            return false;
        };
        let mut catalog = Catalog::clone(&self.catalog.load());
        // A read reports an entry that this version of the program cannot fold.
        if catalog.position.next() != entry.position || catalog.fold(&entry).is_err() {
            return false;
        }
        self.log.record_entry(entry.position);
        self.replace_if_newer(catalog, std::slice::from_ref(&entry));
        true
    }

    /// Folds the entries up to `wanted`, unless another task has folded them meanwhile.
    async fn read_log(&self, wanted: Position) -> Result<(), StoreError> {
        while self.position() < wanted && self.halted().is_none() {
            let mut catalog = Catalog::clone(&self.catalog.load());
            let entries = match read_after(&*self.log, catalog.position, FOLD_PAGE).await {
                Ok(entries) => entries,
                Err(ReadError::Truncated(_)) => {
                    self.skip_to_beginning().await?;
                    continue;
                }
                Err(ReadError::Store(error)) => return Err(error),
            };
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                if let Err(error) = catalog.fold(entry) {
                    tracing::error!(
                        error = %error_chain(&error),
                        position = %entry.position,
                        "the projection cannot fold an entry and halts"
                    );
                    // Another task may have set the same error.
                    let _ = self.halted.set(error);
                    break;
                }
            }
            self.replace_if_newer(catalog, &entries);
        }
        Ok(())
    }

    /// Continues with the beginning of a shortened log, because the entries before it are removed.
    async fn skip_to_beginning(&self) -> Result<(), StoreError> {
        let Some(beginning) = snapshot::load_beginning(&*self.log).await? else {
            return Err(StoreError::Unusable("the beginning of the log is missing"));
        };
        tracing::info!(
            position = %beginning.position,
            "the projection continues at the beginning of the shortened log"
        );
        self.replace_if_newer(beginning, &[]);
        self.job_watchers.notify_all();
        Ok(())
    }

    fn replace_if_newer(&self, catalog: Catalog, folded: &[Entry]) {
        let mut snapshot_position = self.snapshot_position.lock();
        let position = catalog.position;
        if position <= self.position() {
            return;
        }
        let catalog = Arc::new(catalog);
        self.catalog.store(catalog.clone());
        let newest = folded.iter().rfind(|entry| entry.position == position);
        self.shared.record(newest);
        self.positions.send_replace(position);
        self.job_watchers.notify(folded);
        if position.0 >= snapshot_position.0 + SNAPSHOT_EVERY
            && let Ok(permit) = self.snapshot_permit.clone().try_acquire_owned()
        {
            *snapshot_position = position;
            let log = self.log.clone();
            tokio::spawn(async move {
                if let Err(error) = snapshot::save_snapshot(&*log, catalog).await {
                    tracing::warn!(
                        error = %error_chain(&error),
                        "the projection cannot store a snapshot; it stores a later one"
                    );
                }
                drop(permit);
            });
        }
    }
}
