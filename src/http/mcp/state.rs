//! The services that the MCP endpoints of one facade share.

use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::announcer::Announcer;
use super::changes::ChangeMerger;
use super::directory::DirectoryCache;
use super::introductions::Introductions;
use super::list_cache::ListCache;
use super::running::RunningCalls;
use super::session_memory::SessionMemories;
use super::sign_in_waits::SignInWaits;
use super::streams::OpenStreams;
use super::watch_table::WatchTable;
use crate::cluster::command_client::CommandClient;
use crate::config::McpEndpoints;
use crate::core::ids::Digest;
use crate::core::model::client_session::SessionChange;
use crate::eventlog::projection::Projection;
use crate::ports::bus::{Bus, Hint};
use crate::time::clock::now_seconds;

/// The most ended sessions that a facade remembers.
const MAX_ENDED_SESSIONS: usize = 100_000;
/// A facade refuses an ended session for an hour. Later, its id is usable by its own user again.
const ENDED_SECONDS: u64 = 3600;

/// The shared services of the MCP endpoints.
pub struct McpState {
    pub directory: DirectoryCache,
    pub lists: ListCache,
    pub running: Arc<RunningCalls>,
    pub ended_sessions: EndedSessions,
    pub streams: Arc<OpenStreams>,
    pub sign_ins: SignInWaits,
    pub introductions: Introductions,
    pub announcer: Announcer,
    pub changes: ChangeMerger,
    pub sessions: SessionMemories,
    pub watched: Arc<WatchTable>,
}

/// The sessions that a client has ended, with the time of the end in seconds since 1970.
pub struct EndedSessions(Cache<Digest, u64>);

impl EndedSessions {
    /// Returns whether a session has ended.
    pub fn contains(&self, session: Digest) -> bool {
        let ended = self.0.get(&session);
        ended.is_some_and(|ended| now_seconds() < ended + ENDED_SECONDS)
    }
}

impl McpState {
    /// Creates the services and starts their tasks, which end when `ending` is cancelled.
    pub fn start(
        config: &McpEndpoints,
        projection: Arc<Projection>,
        commands: CommandClient,
        bus: &dyn Bus,
        ending: CancellationToken,
    ) -> Arc<Self> {
        let watched = WatchTable::new(commands, projection.clone());
        let repeat = watched.clone().repeat();
        let until = ending.clone();
        tokio::spawn(async move { until.run_until_cancelled(repeat).await });
        let state = Arc::new(Self {
            directory: DirectoryCache::new(config.name_limit),
            lists: ListCache::default(),
            running: Arc::default(),
            ended_sessions: EndedSessions(Cache::new(MAX_ENDED_SESSIONS)),
            streams: OpenStreams::new(config.max_streams, config.max_streams_per_user),
            sign_ins: SignInWaits::default(),
            introductions: Introductions::default(),
            announcer: Announcer::start(projection, ending.clone()),
            changes: ChangeMerger::start(ending.clone()),
            sessions: SessionMemories::default(),
            watched,
        });
        let mut hints = bus.hints();
        let weak = Arc::downgrade(&state);
        let receive = async move {
            loop {
                let hint = hints.recv().await;
                let Some(state) = weak.upgrade() else {
                    return;
                };
                match hint {
                    Ok(Hint::McpCallCancelled(call)) => {
                        state.running.cancel(call);
                    }
                    Ok(Hint::McpSessionEnded(session)) => state.end_session(session),
                    Ok(Hint::UpstreamChanged(change)) => state.changes.add(change),
                    Ok(Hint::McpSessionChanged(change)) => state.change_session(&change),
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tokio::spawn(async move { ending.run_until_cancelled(receive).await });
        state
    }

    /// Refuses a session from now on, and ends its stream at this facade.
    pub fn end_session(&self, session: Digest) {
        self.ended_sessions.0.insert(session, now_seconds());
        self.streams.end_session(session);
        self.sessions.remove(session);
    }

    /// Applies a change that another facade has made.
    fn change_session(&self, change: &SessionChange) {
        let is_known = change.facade == self.watched.facade();
        if !is_known && !self.ended_sessions.contains(change.session) {
            self.sessions.apply(change.session, &change.setting);
        }
    }
}
