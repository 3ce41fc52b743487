//! Keeps this process's catalogue at the head of the log.
//!
//! Readers take the catalogue as it is and never wait. The one who may move it on holds the
//! [`Tip`]: the appender after its own append, the follower when others have appended.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Mutex, MutexGuard, broadcast, watch};

use crate::core::catalog::{Catalog, FOLD_VERSION};
use crate::core::event::Unreadable;
use crate::core::names::Position;
use crate::ports::{Bus, EventLog, Hint, StoreError};

/// How often the log is looked at without a hint.
const POLL: Duration = Duration::from_secs(3);
/// Appends read at once.
const PAGE: usize = 1000;
/// Appends between two snapshots.
const SNAPSHOT_EVERY: u64 = 2000;

pub struct Follow {
    log: Arc<dyn EventLog>,
    bus: Arc<dyn Bus>,
    catalog: ArcSwap<Catalog>,
    moved: watch::Sender<Position>,
    tip: Mutex<Position>,
    stuck: OnceLock<Unreadable>,
}

impl Follow {
    /// Reads the newest snapshot and the log after it.
    pub async fn open(log: Arc<dyn EventLog>, bus: Arc<dyn Bus>) -> Result<Arc<Self>, StoreError> {
        let catalog = match log.load_snapshot(FOLD_VERSION).await? {
            Some(bytes) => Catalog::from_snapshot(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the snapshot cannot be read; folding the whole log");
                Catalog::default()
            }),
            None => Catalog::default(),
        };
        let position = catalog.position;
        let follow = Arc::new(Self {
            log,
            bus,
            catalog: ArcSwap::from_pointee(catalog),
            moved: watch::Sender::new(position),
            tip: Mutex::new(position),
            stuck: OnceLock::new(),
        });
        follow.tip().await.catch_up().await?;
        Ok(follow)
    }

    /// Follows what other processes append, until the process ends.
    pub async fn run(self: Arc<Self>) {
        let mut hints = self.bus.hints();
        loop {
            let behind = tokio::select! {
                hint = hints.recv() => match hint {
                    Ok(Hint::LogMoved(head)) => head > self.position(),
                    Ok(Hint::Status(_)) => false,
                    Err(broadcast::error::RecvError::Lagged(_)) => true,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = tokio::time::sleep(POLL) => true,
            };
            if behind && let Err(error) = self.tip().await.catch_up().await {
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
    pub fn moves(&self) -> watch::Receiver<Position> {
        self.moved.subscribe()
    }

    /// The event that this program cannot fold, if there is one: it changes nothing any more.
    pub fn stuck(&self) -> Option<&Unreadable> {
        self.stuck.get()
    }

    /// Waits until the catalogue has reached a position, `limit` at most. False: it has not.
    pub async fn reach(&self, position: Position, limit: Duration) -> bool {
        if self.position() >= position {
            return true;
        }
        let mut moves = self.moves();
        let arrived = async {
            if self.tip().await.catch_up().await.is_ok() && self.position() >= position {
                return true;
            }
            moves.wait_for(|at| *at >= position).await.is_ok()
        };
        tokio::time::timeout(limit, arrived).await.unwrap_or(false)
    }

    /// The right to move the catalogue on.
    pub async fn tip(&self) -> Tip<'_> {
        Tip { follow: self, snapshot: self.tip.lock().await }
    }
}

/// Held by the one who moves the catalogue.
pub struct Tip<'a> {
    follow: &'a Follow,
    /// Where the newest snapshot was taken.
    snapshot: MutexGuard<'a, Position>,
}

impl Tip<'_> {
    /// Reads what others have appended.
    pub async fn catch_up(&mut self) -> Result<(), StoreError> {
        if self.follow.stuck().is_some() {
            return Ok(());
        }
        loop {
            let mut catalog = Catalog::clone(&self.follow.catalog.load());
            let entries = self.follow.log.read(catalog.position, PAGE).await?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in &entries {
                if let Err(unreadable) = catalog.fold(entry) {
                    tracing::error!(%unreadable, position = %entry.position, "the log cannot be folded any further");
                    let _ = self.follow.stuck.set(unreadable);
                    self.show(catalog);
                    return Ok(());
                }
            }
            self.show(catalog);
        }
    }

    /// Shows the catalogue after an append of this process, and tells the others.
    pub fn publish(&mut self, catalog: Catalog) {
        let position = catalog.position;
        self.show(catalog);
        self.follow.bus.publish(Hint::LogMoved(position));
    }

    fn show(&mut self, catalog: Catalog) {
        let position = catalog.position;
        let catalog = Arc::new(catalog);
        self.follow.catalog.store(catalog.clone());
        self.follow.moved.send_replace(position);
        if position.0 >= self.snapshot.0 + SNAPSHOT_EVERY {
            *self.snapshot = position;
            tokio::spawn(save_snapshot(self.follow.log.clone(), catalog));
        }
    }
}

async fn save_snapshot(log: Arc<dyn EventLog>, catalog: Arc<Catalog>) {
    let position = catalog.position;
    let bytes = match tokio::task::spawn_blocking(move || catalog.to_snapshot()).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return tracing::error!(%error, "a snapshot could not be made"),
        Err(error) => return tracing::error!(%error, "a snapshot could not be made"),
    };
    if let Err(error) = log.save_snapshot(FOLD_VERSION, position, bytes).await {
        tracing::warn!(%error, "a snapshot could not be stored; a later one will be");
    }
}
