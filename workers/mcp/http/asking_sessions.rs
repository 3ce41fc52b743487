//! Sessions that declare the capabilities of clients, so that a server may ask a client during its call.
//!
//! A server of a revision with sessions knows the capabilities from `initialize`. The ordinary session declares none. The
//! first call of a client with capabilities opens a further session that declares exactly this set. All clients with the
//! same set share the session: the server sends its requests on the stream of the call that they belong to.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::session::HttpSession;
use super::transport::HttpTransport;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::model::remote::StoredSession;
use crate::time::clock::monotonic;
use crate::workers::mcp::call::ConnectError;
use crate::workers::mcp::host::SessionStore;
use crate::workers::mcp::jsonrpc::note;

/// The most sets of capabilities with sessions at the same time.
const MAX_SESSIONS: usize = 4;
/// A session that no call has used for this time is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// The time between two searches for idle sessions.
const IDLE_CHECK: Duration = Duration::from_secs(60);

/// The further sessions of one connection.
pub(super) struct AskingSessions {
    transport: Arc<HttpTransport>,
    sessions: Arc<Mutex<Vec<AskingSession>>>,
    /// Held by the call that opens a session.
    opening: tokio::sync::Mutex<()>,
    /// Closes idle sessions. It runs from the first session on.
    closer: Mutex<Option<JoinHandle<()>>>,
}

struct AskingSession {
    capabilities: ClientCapabilities,
    session: Arc<HttpSession>,
    last_use: Instant,
}

/// A session that is not stored: it ends with the connection.
struct Unstored;

#[async_trait]
impl SessionStore for Unstored {
    async fn load(&self) -> Option<StoredSession> {
        None
    }

    fn show(&self, _session_id: Option<&str>) {}

    async fn store(&self, _session: &StoredSession) {}

    async fn end(&self) {}
}

impl AskingSessions {
    pub(super) fn new(transport: Arc<HttpTransport>) -> Self {
        Self {
            transport,
            sessions: Arc::default(),
            opening: tokio::sync::Mutex::default(),
            closer: Mutex::default(),
        }
    }

    /// Returns the session with these capabilities. `None`: the server opened no such session, or other calls use all of
    /// them. Then the server cannot ask the client.
    pub(super) async fn get(&self, capabilities: ClientCapabilities) -> Option<Arc<HttpSession>> {
        if let Some(session) = self.find(capabilities) {
            return Some(session);
        }
        let _opening = self.opening.lock().await;
        if let Some(session) = self.find(capabilities) {
            return Some(session);
        }
        self.make_room()?;
        match open(&self.transport, capabilities).await {
            Ok(session) => {
                self.sessions.lock().push(AskingSession {
                    capabilities,
                    session: session.clone(),
                    last_use: monotonic(),
                });
                self.close_idle_ones();
                Some(session)
            }
            Err(error) => {
                let line = format!("a session that can ask clients was not opened: {error}");
                note(&*self.transport.sink, &line);
                None
            }
        }
    }

    fn find(&self, capabilities: ClientCapabilities) -> Option<Arc<HttpSession>> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|entry| !entry.session.is_lost());
        let entry = sessions
            .iter_mut()
            .find(|entry| entry.capabilities == capabilities)?;
        entry.last_use = monotonic();
        Some(entry.session.clone())
    }

    /// Closes the session that was unused for longest, if there is no room for another one. Returns `None` if calls use
    /// all of them.
    fn make_room(&self) -> Option<()> {
        let mut sessions = self.sessions.lock();
        if sessions.len() < MAX_SESSIONS {
            return Some(());
        }
        let unused = sessions
            .iter()
            .enumerate()
            .filter(|(_, entry)| is_unused(entry))
            .min_by_key(|(_, entry)| entry.last_use);
        let (index, _) = unused?;
        let entry = sessions.swap_remove(index);
        drop(sessions);
        tokio::spawn(end(entry.session));
        Some(())
    }

    fn close_idle_ones(&self) {
        let mut closer = self.closer.lock();
        if closer.is_some() {
            return;
        }
        let sessions = self.sessions.clone();
        *closer = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE_CHECK).await;
                for session in take_idle(&sessions) {
                    end(session).await;
                }
            }
        }));
    }

    /// Ends all sessions at the server. Nothing resumes them.
    pub(super) async fn end(&self) {
        let ending = self.take_all().into_iter().map(end);
        futures::future::join_all(ending).await;
    }

    /// Ends all sessions at the server, without waiting for it.
    pub(super) fn stop(&self) {
        for session in self.take_all() {
            tokio::spawn(end(session));
        }
    }

    fn take_all(&self) -> Vec<Arc<HttpSession>> {
        if let Some(closer) = self.closer.lock().take() {
            closer.abort();
        }
        let sessions = std::mem::take(&mut *self.sessions.lock());
        sessions.into_iter().map(|entry| entry.session).collect()
    }
}

impl Drop for AskingSessions {
    fn drop(&mut self) {
        if let Some(closer) = self.closer.lock().take() {
            closer.abort();
        }
    }
}

/// Whether no call has the session: the list holds the only reference.
fn is_unused(entry: &AskingSession) -> bool {
    Arc::strong_count(&entry.session) == 1
}

fn take_idle(sessions: &Mutex<Vec<AskingSession>>) -> Vec<Arc<HttpSession>> {
    let mut sessions = sessions.lock();
    let idle = sessions.extract_if(.., |entry| {
        is_unused(entry) && entry.last_use.elapsed() >= IDLE_LIMIT
    });
    idle.map(|entry| entry.session).collect()
}

async fn open(
    transport: &Arc<HttpTransport>,
    capabilities: ClientCapabilities,
) -> Result<Arc<HttpSession>, ConnectError> {
    let store = Arc::new(Unstored);
    let session = HttpSession::with_capabilities(transport.clone(), store, capabilities);
    let opened = session.initialize(false).await;
    let opened = opened.map_err(|error| error.to_string())?;
    session.use_context(opened.context);
    Ok(session)
}

async fn end(session: Arc<HttpSession>) {
    session.mark_lost("it was not used any more");
    let context = session.context();
    if context.has_session() {
        session.transport.end_session(&context).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scripted_server::ScriptedServer;
    use super::*;
    use crate::workers::mcp::host::tests::RecordingSink;

    fn set(bits: u16) -> ClientCapabilities {
        ClientCapabilities::from_bits(bits)
    }

    fn sessions_at(server: &ScriptedServer) -> AskingSessions {
        let sink = Arc::<RecordingSink>::default();
        AskingSessions::new(server.transport(sink))
    }

    #[tokio::test]
    async fn each_set_of_capabilities_has_one_session_that_declares_it() {
        let server = ScriptedServer::start(|_| None).await;
        let asking = sessions_at(&server);
        let elicitation = asking.get(set(1)).await.expect("a session");
        let again = asking.get(set(1)).await.expect("a session");
        assert!(Arc::ptr_eq(&elicitation, &again));
        asking.get(set(4 + 16)).await.expect("a session");
        let declared: Vec<_> = server
            .seen()
            .iter()
            .filter(|request| request.method() == "initialize")
            .map(|request| request.body["params"]["capabilities"].clone())
            .collect();
        assert_eq!(
            declared,
            [
                json!({ "elicitation": { "form": {} } }),
                json!({ "sampling": {}, "roots": {} })
            ]
        );
        asking.end().await;
        assert_eq!(server.count("DELETE"), 2);
        assert!(elicitation.is_lost());
    }

    #[tokio::test]
    async fn a_session_that_no_call_uses_makes_room_and_used_ones_do_not() {
        let server = ScriptedServer::start(|_| None).await;
        let asking = sessions_at(&server);
        let mut used = vec![];
        for bits in 1..=MAX_SESSIONS as u16 {
            used.push(asking.get(set(bits)).await.expect("a session"));
        }
        assert!(asking.get(set(16)).await.is_none(), "calls use all of them");
        let unused = used.remove(1);
        drop(unused);
        asking.get(set(16)).await.expect("a session");
        let open: Vec<_> = asking
            .sessions
            .lock()
            .iter()
            .map(|entry| entry.capabilities.bits())
            .collect();
        assert_eq!(open.len(), MAX_SESSIONS);
        assert!(open.contains(&16) && !open.contains(&2), "{open:?}");
    }
}
