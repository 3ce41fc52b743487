//! Keeps this process's catalogue at the head of the log.
//!
//! Readers take the catalogue as it is and never wait. Two move it on: the appender after its own append,
//! and whoever reads what others have appended. Neither waits for the other, since both fold the same log:
//! the newer catalogue is shown, the older one is dropped.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Semaphore, broadcast, watch};

use super::snapshot;
use crate::core::catalog::Catalog;
use crate::core::event::DecodeError;
use crate::core::ids::Position;
use crate::ports::bus::{Bus, Hint};
use crate::ports::error::StoreError;
use crate::ports::event_log::EventLog;

/// How often the log is looked at without a hint.
const POLL: Duration = Duration::from_secs(3);
/// Appends read at once.
const PAGE: usize = 1000;
/// Further than any log goes.
const ALL: Position = Position(u64::MAX);
/// Appends between two snapshots.
const SNAPSHOT_EVERY: u64 = 2000;

pub struct Projection {
    log: Arc<dyn EventLog>,
    bus: Arc<dyn Bus>,
    catalog: ArcSwap<Catalog>,
    moved: watch::Sender<Position>,
    /// Held by the one who reads, so that a crowd that is behind reads once.
    reading: tokio::sync::Mutex<()>,
    /// Held by the one who shows a catalogue: where the newest snapshot was taken.
    snapshot: Mutex<Position>,
    /// One snapshot is made at a time, however fast the log grows.
    saving: Arc<Semaphore>,
    stuck: OnceLock<DecodeError>,
}

impl Projection {
    /// Reads the newest snapshot and the log after it.
    pub async fn open(log: Arc<dyn EventLog>, bus: Arc<dyn Bus>) -> Result<Arc<Self>, StoreError> {
        let catalog = snapshot::load_snapshot(&*log).await?.unwrap_or_default();
        let position = catalog.position;
        let projection = Arc::new(Self {
            log,
            bus,
            catalog: ArcSwap::from_pointee(catalog),
            moved: watch::Sender::new(position),
            reading: tokio::sync::Mutex::default(),
            snapshot: Mutex::new(position),
            saving: Arc::new(Semaphore::new(1)),
            stuck: OnceLock::new(),
        });
        projection.read(ALL).await?;
        Ok(projection)
    }

    /// Follows what other processes append, until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut hints = self.bus.hints();
        loop {
            let wanted = tokio::select! {
                hint = hints.recv() => match hint {
                    Ok(Hint::LogMoved(head)) if head > self.position() => head,
                    Ok(_) => continue,
                    Err(broadcast::error::RecvError::Lagged(_)) => ALL,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = tokio::time::sleep(POLL) => ALL,
            };
            let _reading = self.reading.lock().await;
            if let Err(error) = self.read(wanted).await {
                tracing::warn!(%error, "cannot follow the log; trying again");
            }
        }
    }

    /// The catalogue as it is now. Cheap; never held across an await.
    pub fn catalog(&self) -> Guard<Arc<Catalog>> {
        self.catalog.load()
    }

    pub fn position(&self) -> Position {
        self.catalog.load().position
    }

    pub fn log(&self) -> &dyn EventLog {
        &*self.log
    }

    /// Tells of every move of the catalogue.
    pub fn subscribe(&self) -> watch::Receiver<Position> {
        self.moved.subscribe()
    }

    /// The event that this program cannot fold, if there is one: it changes nothing any more.
    pub fn halted(&self) -> Option<&DecodeError> {
        self.stuck.get()
    }

    /// Waits until the catalogue has reached a position, `limit` at most. False: it has not.
    pub async fn wait_for(&self, position: Position, limit: Duration) -> bool {
        if self.position() >= position {
            return true;
        }
        let mut moves = self.subscribe();
        let mut moved = async || moves.wait_for(|at| *at >= position).await.is_ok();
        let arrived = async {
            tokio::select! {
                there = moved() => return there,
                // Where it cannot be read yet, a later look will find it.
                _reading = self.reading.lock() => drop(self.read(position).await),
            }
            moved().await
        };
        tokio::time::timeout(limit, arrived).await.unwrap_or(false)
    }

    /// Shows the catalogue after an append of this process, and tells the others.
    pub fn publish(&self, catalog: Catalog) {
        let position = catalog.position;
        self.replace_if_newer(catalog);
        self.bus.publish(Hint::LogMoved(position));
    }

    /// Reads what others have appended, where it has not been read as far as wanted meanwhile.
    async fn read(&self, wanted: Position) -> Result<(), StoreError> {
        while self.position() < wanted && self.halted().is_none() {
            let mut catalog = Catalog::clone(&self.catalog.load());
            let entries = self.log.read(catalog.position, PAGE).await?;
            for entry in &entries {
                if let Err(unreadable) = catalog.fold(entry) {
                    tracing::error!(%unreadable, position = %entry.position, "the log cannot be folded any further");
                    let _ = self.stuck.set(unreadable);
                    break;
                }
            }
            self.replace_if_newer(catalog);
            if entries.len() < PAGE {
                break;
            }
        }
        Ok(())
    }

    /// Shows a catalogue, where there is no newer one.
    fn replace_if_newer(&self, catalog: Catalog) {
        let mut snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        let position = catalog.position;
        if position <= self.position() {
            return;
        }
        let catalog = Arc::new(catalog);
        self.catalog.store(catalog.clone());
        self.moved.send_replace(position);
        if position.0 >= snapshot.0 + SNAPSHOT_EVERY
            && let Ok(saving) = self.saving.clone().try_acquire_owned()
        {
            *snapshot = position;
            let log = self.log.clone();
            tokio::spawn(async move {
                if let Err(error) = snapshot::save_snapshot(&*log, catalog).await {
                    tracing::warn!(%error, "a snapshot could not be stored; a later one will be");
                }
                drop(saving);
            });
        }
    }
}
