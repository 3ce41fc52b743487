//! The bounds of open streams, and the one stream of each session.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::core::failure::Failure;
use crate::core::ids::Digest;
use crate::core::names::UserName;

/// The open streams of this facade.
pub struct OpenStreams {
    limit: usize,
    limit_per_user: usize,
    state: Mutex<StreamTable>,
}

#[derive(Default)]
struct StreamTable {
    total: usize,
    by_user: HashMap<UserName, usize>,
    by_session: HashMap<Digest, CancellationToken>,
}

/// One open stream. Dropping it frees its place.
pub struct StreamPermit {
    streams: Arc<OpenStreams>,
    user: UserName,
    session: Option<Digest>,
    /// Cancelled when another stream of the session opens, or when the session ends.
    pub replaced: CancellationToken,
}

impl OpenStreams {
    pub fn new(limit: usize, limit_per_user: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            limit_per_user,
            state: Mutex::default(),
        })
    }

    /// Opens a stream of a user. A stream of a session replaces the open stream of the session.
    ///
    /// # Errors
    /// `unavailable` if too many streams are open.
    pub fn open(
        self: &Arc<Self>,
        user: &UserName,
        session: Option<Digest>,
    ) -> Result<StreamPermit, Failure> {
        let mut state = self.state.lock();
        if state.total >= self.limit {
            return Err(Failure::unavailable(
                "Too many event streams are open (MCP_MAX_STREAMS); retry in a moment",
            ));
        }
        let of_user = state.by_user.entry(user.clone()).or_default();
        if *of_user >= self.limit_per_user {
            return Err(Failure::unavailable(
                "The user has too many open event streams (MCP_MAX_STREAMS_PER_USER); close some of them",
            ));
        }
        *of_user += 1;
        state.total += 1;
        let replaced = CancellationToken::new();
        let previous =
            session.and_then(|session| state.by_session.insert(session, replaced.clone()));
        drop(state);
        if let Some(previous) = previous {
            previous.cancel();
        }
        Ok(StreamPermit {
            streams: self.clone(),
            user: user.clone(),
            session,
            replaced,
        })
    }

    /// Ends the stream of a session.
    pub fn end_session(&self, session: Digest) {
        let stream = self.state.lock().by_session.remove(&session);
        if let Some(stream) = stream {
            stream.cancel();
        }
    }

    /// Returns the number of open streams.
    pub fn count(&self) -> usize {
        self.state.lock().total
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut state = self.streams.state.lock();
        state.total -= 1;
        if let Some(of_user) = state.by_user.get_mut(&self.user) {
            *of_user -= 1;
            if *of_user == 0 {
                state.by_user.remove(&self.user);
            }
        }
        if let Some(session) = self.session
            && state.by_session.get(&session) == Some(&self.replaced)
        {
            state.by_session.remove(&session);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn user(name: &str) -> UserName {
        name.parse().expect("a name")
    }

    #[test]
    fn streams_are_limited_in_total_and_for_each_user() {
        let streams = OpenStreams::new(3, 2);
        let first = streams.open(&user("ana"), None).expect("open");
        let _second = streams.open(&user("ana"), None).expect("open");
        assert!(streams.open(&user("ana"), None).is_err());
        let _third = streams.open(&user("ben"), None).expect("open");
        assert!(streams.open(&user("cleo"), None).is_err());
        drop(first);
        assert!(streams.open(&user("ana"), None).is_ok());
        assert_eq!(streams.count(), 2);
    }

    #[test]
    fn a_second_stream_of_a_session_replaces_the_first() {
        let streams = OpenStreams::new(10, 10);
        let session = Digest(Uuid::from_u128(1));
        let first = streams.open(&user("ana"), Some(session)).expect("open");
        let second = streams.open(&user("ana"), Some(session)).expect("open");
        assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled());
        drop(first);
        streams.end_session(session);
        assert!(second.replaced.is_cancelled());
    }
}
