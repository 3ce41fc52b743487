//! Wakes the open streams: after changes of the log, and for the keep-alive. One task serves all streams, so a stream needs
//! no timer.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::core::catalog::Catalog;
use crate::core::ids::Position;
use crate::eventlog::projection::Projection;

/// The time between two keep-alive comments.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Changes within this time wake the streams once.
const MERGE: Duration = Duration::from_millis(250);
/// Notices that a slow stream may lag behind. A stream with more lag checks its list.
const MAX_LAG: usize = 16;

/// The reason why the streams wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The log has grown. A token may have been revoked, and lists may have changed.
    LogMoved {
        /// The position of the newest change of a tool list or of the description of a server.
        lists_changed: Position,
    },
    KeepAlive,
}

/// Sends notices to all streams. The task owns the sender, so its end ends all streams.
pub struct Announcer(broadcast::WeakSender<Notice>);

impl Announcer {
    /// Starts the task, which ends when `ending` is cancelled. Then all streams end.
    pub fn start(projection: Arc<Projection>, ending: CancellationToken) -> Self {
        let sender = broadcast::Sender::new(MAX_LAG);
        let weak = sender.downgrade();
        tokio::spawn(async move {
            ending
                .run_until_cancelled(announce(projection, sender))
                .await
        });
        Self(weak)
    }

    /// Returns the notices from now on. After the end of the process, the receiver is closed.
    pub fn subscribe(&self) -> broadcast::Receiver<Notice> {
        let ended = || broadcast::Sender::new(1);
        self.0.upgrade().unwrap_or_else(ended).subscribe()
    }
}

async fn announce(projection: Arc<Projection>, sender: broadcast::Sender<Notice>) {
    let mut positions = projection.subscribe();
    let mut keep_alive = ticks(KEEP_ALIVE);
    let mut merge = ticks(MERGE);
    let mut announced = projection.position();
    let mut descriptions = Descriptions::read(&projection.catalog());
    loop {
        let notice = tokio::select! {
            _ = keep_alive.tick() => Notice::KeepAlive,
            has_moved = moved(&mut positions, announced) => {
                if !has_moved {
                    return;
                }
                merge.tick().await;
                announced = projection.position();
                let catalog = projection.catalog();
                let described = descriptions.update(&catalog);
                Notice::LogMoved { lists_changed: catalog.tools_changed.max(described) }
            }
        };
        // Without open streams the notice is lost, which is allowed.
        let _ = sender.send(notice);
    }
}

/// The descriptions of all servers, as a hash, and the position at which a change was seen.
struct Descriptions {
    hash: u64,
    changed: Position,
}

impl Descriptions {
    fn read(catalog: &Catalog) -> Self {
        let mut hasher = DefaultHasher::new();
        for server in catalog.servers() {
            server.id.hash(&mut hasher);
            let description = server.description.as_ref();
            description
                .map(|description| &description.digest)
                .hash(&mut hasher);
        }
        Self {
            hash: hasher.finish(),
            changed: catalog.position,
        }
    }

    /// Returns the position of the newest change.
    fn update(&mut self, catalog: &Catalog) -> Position {
        let newest = Self::read(catalog);
        if newest.hash != self.hash {
            *self = newest;
        }
        self.changed
    }
}

/// Waits until the log is beyond a position. Returns false at the end of the process.
async fn moved(positions: &mut watch::Receiver<Position>, from: Position) -> bool {
    positions
        .wait_for(|position| *position > from)
        .await
        .is_ok()
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
