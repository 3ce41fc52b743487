//! The calls of sessions that run at this facade. A client may cancel a call at any facade.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::session::Session;
use crate::core::ids::Digest;
use crate::core::names::UserName;

/// The running calls, by user, endpoint, session and request id.
#[derive(Default)]
pub struct RunningCalls(Mutex<HashMap<Digest, CancellationToken>>);

/// Removes a call from the running calls when it is dropped.
pub struct RunningGuard {
    calls: Arc<RunningCalls>,
    key: Digest,
    pub cancelled: CancellationToken,
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        let mut calls = self.calls.0.lock();
        // A later call with the same id may have taken the place.
        if calls.get(&self.key) == Some(&self.cancelled) {
            calls.remove(&self.key);
        }
    }
}

impl RunningCalls {
    /// Adds a call until the guard is dropped.
    pub fn add(self: &Arc<Self>, key: Digest) -> RunningGuard {
        let cancelled = CancellationToken::new();
        self.0.lock().insert(key, cancelled.clone());
        RunningGuard {
            calls: self.clone(),
            key,
            cancelled,
        }
    }

    /// Cancels a call. Returns whether it runs here.
    pub fn cancel(&self, key: Digest) -> bool {
        let call = self.0.lock().remove(&key);
        if let Some(call) = &call {
            call.cancel();
        }
        call.is_some()
    }
}

/// Returns the key of a session.
pub(super) fn session_key(session: &Session, user: &UserName, route: &str) -> Digest {
    digest(&[&session.random, user.as_str().as_bytes(), route.as_bytes()])
}

/// Returns the key of a call in a session. The id is the raw JSON of the client.
pub(super) fn call_key(session: Digest, id: &str) -> Digest {
    digest(&[session.0.as_bytes(), id.as_bytes()])
}

fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let bytes = hash.finalize();
    Digest(Uuid::from_slice(&bytes[..16]).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::mcp::capabilities::ClientCapabilities;
    use crate::core::mcp::version::ProtocolVersion;

    #[test]
    fn sessions_with_an_equal_random_part_share_no_call() {
        let calls = Arc::<RunningCalls>::default();
        let users: [UserName; 2] = ["ana", "ben"].map(|name| name.parse().expect("a name"));
        for round in 0..10_000_u64 {
            let version = ProtocolVersion::V2025_11_25;
            let mut session =
                Session::begin(version, ClientCapabilities::default(), 1).expect("a session");
            session.random = [(round % 7) as u8; 12];
            let mut guards = vec![];
            for user in &users {
                for route in ["/mcp", "/mcp/servers/a/mcp"] {
                    let key = call_key(session_key(&session, user, route), "7");
                    guards.push((key, calls.add(key)));
                }
            }
            let (cancelled, guard) = guards.swap_remove(round as usize % guards.len());
            assert!(calls.cancel(cancelled) && guard.cancelled.is_cancelled());
            assert!(!calls.cancel(cancelled));
            let others = guards.iter();
            assert_eq!(
                others
                    .filter(|(_, guard)| guard.cancelled.is_cancelled())
                    .count(),
                0
            );
        }
        assert!(calls.0.lock().is_empty());
    }
}
