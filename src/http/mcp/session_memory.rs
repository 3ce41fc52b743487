//! The settings of the sessions of the legacy era: the resources that a client watches, and its log level. Every facade keeps
//! them in memory, and a facade that starts later does not know them.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use crate::core::failure::Failure;
use crate::core::ids::Digest;
use crate::core::mcp::log_level::{LogLevel, WantedLog};
use crate::core::model::client_session::SessionSetting;
use crate::core::model::upstream_change::MAX_WATCHED_URI;

/// The most sessions whose settings a facade remembers.
const MAX_SESSIONS: usize = 10_000;
/// The most resources that one stream watches.
pub(super) const MAX_STREAM_URIS: usize = 64;

/// URIs as a client spells them.
pub(super) type ClientUris = Arc<BTreeSet<Arc<str>>>;

/// The settings of the newest sessions.
pub struct SessionMemories(Cache<Digest, Arc<SessionMemory>>);

/// The settings of one session.
#[derive(Default)]
pub struct SessionMemory {
    watched: watch::Sender<ClientUris>,
    level: Mutex<Option<LogLevel>>,
}

impl Default for SessionMemories {
    fn default() -> Self {
        Self(Cache::new(MAX_SESSIONS))
    }
}

impl SessionMemories {
    /// Returns the settings of a session. A session without settings gets empty ones.
    pub fn of_session(&self, session: Digest) -> Arc<SessionMemory> {
        let created = self.0.get_or_insert_with(&session, || {
            Ok::<_, std::convert::Infallible>(Arc::default())
        });
        let Ok(memory) = created;
        memory
    }

    /// Returns the log lines that the client of a session takes.
    pub fn wanted_log(&self, session: Digest) -> WantedLog {
        let memory = self.0.get(&session);
        let level = memory.and_then(|memory| *memory.level.lock());
        level.map_or(WantedLog::Default, WantedLog::From)
    }

    /// Applies a change that another facade has made. A change beyond a limit has no effect.
    pub fn apply(&self, session: Digest, setting: &SessionSetting) {
        match setting {
            SessionSetting::Watched(uri) if uri.len() <= MAX_WATCHED_URI => {
                let _ = self.of_session(session).watch(uri);
            }
            SessionSetting::Watched(_) => {}
            SessionSetting::Unwatched(uri) => {
                if let Some(memory) = self.0.get(&session) {
                    memory.unwatch(uri);
                }
            }
            SessionSetting::LogLevel(level) => self.of_session(session).set_level(*level),
        }
    }

    /// Forgets the settings of a session that has ended.
    pub fn remove(&self, session: Digest) {
        self.0.remove(&session);
    }
}

impl SessionMemory {
    /// Returns the watched resources, now and after each change.
    pub(super) fn watched(&self) -> watch::Receiver<ClientUris> {
        self.watched.subscribe()
    }

    /// Adds a resource.
    ///
    /// # Errors
    /// `unavailable` if the session watches too many resources.
    pub fn watch(&self, uri: &str) -> Result<(), Failure> {
        let mut is_full = false;
        self.watched.send_if_modified(|watched| {
            is_full = watched.len() >= MAX_STREAM_URIS && !watched.contains(uri);
            !is_full && Arc::make_mut(watched).insert(uri.into())
        });
        if is_full {
            return Err(too_many_resources());
        }
        Ok(())
    }

    /// Sets the level from which on the client takes log lines.
    pub fn set_level(&self, level: LogLevel) {
        *self.level.lock() = Some(level);
    }

    /// Removes a resource.
    pub fn unwatch(&self, uri: &str) {
        self.watched
            .send_if_modified(|watched| Arc::make_mut(watched).remove(uri));
    }
}

/// Returns the failure of a stream that watches too many resources.
pub(super) fn too_many_resources() -> Failure {
    Failure::unavailable(format!(
        "A stream watches at most {MAX_STREAM_URIS} resources; end some subscriptions"
    ))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_session_watches_a_bounded_number_of_resources() {
        let memories = SessionMemories::default();
        let session = Digest(Uuid::from_u128(1));
        let memory = memories.of_session(session);
        for number in 0..MAX_STREAM_URIS {
            memory.watch(&format!("a:{number}")).expect("watched");
        }
        assert!(memory.watch("a:more").is_err());
        memory.watch("a:0").expect("watched already");
        memories.apply(session, &SessionSetting::Unwatched("a:0".to_owned()));
        memories.apply(session, &SessionSetting::Watched("a:more".to_owned()));
        let long = "x".repeat(MAX_WATCHED_URI + 1);
        memories.apply(session, &SessionSetting::Unwatched("a:1".to_owned()));
        memories.apply(session, &SessionSetting::Watched(long));
        let watched = memory.watched().borrow().clone();
        assert!(watched.contains("a:more") && watched.len() == MAX_STREAM_URIS - 1);
    }

    #[test]
    fn a_session_that_has_ended_is_forgotten() {
        let memories = SessionMemories::default();
        let session = Digest(Uuid::from_u128(1));
        assert_eq!(memories.wanted_log(session), WantedLog::Default);
        memories.apply(session, &SessionSetting::LogLevel(LogLevel::Error));
        assert_eq!(
            memories.wanted_log(session),
            WantedLog::From(LogLevel::Error)
        );
        memories.of_session(session).watch("a:b").expect("watched");
        memories.remove(session);
        assert!(memories.of_session(session).watched().borrow().is_empty());
        assert_eq!(memories.wanted_log(session), WantedLog::Default);
    }
}
