//! Sessions that declare the capabilities of clients, so that a server may ask a client during its call.
//!
//! A server of a revision with sessions knows the capabilities from `initialize`. The ordinary session declares none. The
//! first call of a client with capabilities opens a further session that declares exactly this set. All clients with the
//! same set share the session: the server sends its requests on the stream of the call that they belong to.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::notifications::listen;
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
/// The longest time for the opening of a session.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// After a refusal, the server is not asked for the same session again for this time.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// The time between two searches for idle sessions.
const IDLE_CHECK: Duration = Duration::from_secs(60);

/// The further sessions of one connection.
pub(super) struct AskingSessions(Arc<Shared>);

struct Shared {
    transport: Arc<HttpTransport>,
    /// Each session reads the server's own stream, if the connection does.
    listens: bool,
    state: Mutex<State>,
    /// Held while a session is opened.
    opening: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    sessions: Vec<AskingSession>,
    /// The newest refusal of the server for each set of capabilities.
    refused: Vec<(ClientCapabilities, Instant)>,
    /// Closes idle sessions. It runs from the first session on.
    closer: Option<JoinHandle<()>>,
    has_stopped: bool,
}

struct AskingSession {
    capabilities: ClientCapabilities,
    session: Arc<HttpSession>,
    listener: Option<JoinHandle<()>>,
    /// Each call that uses the session has a reference.
    uses: Arc<()>,
    last_use: Instant,
}

/// The session of one call. It is not closed while the call runs.
pub(super) struct UsedSession {
    pub session: Arc<HttpSession>,
    _use: Arc<()>,
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
    pub(super) fn new(transport: Arc<HttpTransport>, listens: bool) -> Self {
        Self(Arc::new(Shared {
            transport,
            listens,
            state: Mutex::default(),
            opening: Arc::default(),
        }))
    }

    /// Returns the session with these capabilities. `None`: the server opened no such session, or other calls use all of
    /// them. Then the server cannot ask the client.
    pub(super) async fn get(&self, capabilities: ClientCapabilities) -> Option<UsedSession> {
        if let Some(used) = self.0.find(capabilities) {
            return Some(used);
        }
        let opening = self.0.opening.clone().lock_owned().await;
        if let Some(used) = self.0.find(capabilities) {
            return Some(used);
        }
        if !self.0.may_open(capabilities) {
            return None;
        }
        // A task, so that the session is known and ends one day, even if this call gives up.
        let shared = self.0.clone();
        let opened = tokio::spawn(async move {
            let _opening = opening;
            shared.open(capabilities).await
        });
        opened.await.ok().flatten()
    }

    /// Ends all sessions at the server. Nothing resumes them.
    pub(super) async fn end(&self) {
        let ending = self.0.take_all().into_iter().map(end);
        futures::future::join_all(ending).await;
    }

    /// Ends all sessions at the server, without waiting for it.
    pub(super) fn stop(&self) {
        for session in self.0.take_all() {
            tokio::spawn(end(session));
        }
    }
}

impl Drop for AskingSessions {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.has_stopped = true;
        state.sessions.clear();
        if let Some(closer) = state.closer.take() {
            closer.abort();
        }
    }
}

impl Shared {
    fn find(&self, capabilities: ClientCapabilities) -> Option<UsedSession> {
        let mut state = self.state.lock();
        state.sessions.retain(|entry| !entry.session.is_lost());
        let mut sessions = state.sessions.iter_mut();
        let entry = sessions.find(|entry| entry.capabilities == capabilities)?;
        entry.last_use = monotonic();
        Some(entry.used())
    }

    /// Returns whether there is room for a session, and the server has not just refused one. Closes the session that was
    /// unused for longest, if that makes room.
    fn may_open(&self, capabilities: ClientCapabilities) -> bool {
        let mut state = self.state.lock();
        state.refused.retain(|(_, at)| at.elapsed() < REFUSED_FOR);
        if state.has_stopped || state.refused.iter().any(|(set, _)| *set == capabilities) {
            return false;
        }
        if state.sessions.len() < MAX_SESSIONS {
            return true;
        }
        let sessions = state.sessions.iter().enumerate();
        let unused = sessions
            .filter(|(_, entry)| entry.is_unused())
            .min_by_key(|(_, entry)| entry.last_use)
            .map(|(index, _)| index);
        let Some(index) = unused else {
            return false;
        };
        let entry = state.sessions.swap_remove(index);
        tokio::spawn(end(entry));
        true
    }

    async fn open(self: Arc<Self>, capabilities: ClientCapabilities) -> Option<UsedSession> {
        let opening = open(&self.transport, capabilities);
        let opened = match tokio::time::timeout(OPEN_LIMIT, opening).await {
            Ok(opened) => opened.map_err(|error| error.reason),
            Err(_) => Err("it did not answer in time".to_owned()),
        };
        match opened {
            Ok(session) => self.add(capabilities, session),
            Err(reason) => {
                let line = format!("a session that can ask clients was not opened: {reason}");
                note(&*self.transport.sink, &line);
                let mut state = self.state.lock();
                state.refused.push((capabilities, monotonic()));
                None
            }
        }
    }

    fn add(
        self: &Arc<Self>,
        capabilities: ClientCapabilities,
        session: Arc<HttpSession>,
    ) -> Option<UsedSession> {
        let listener = self
            .listens
            .then(|| tokio::spawn(listen(session.clone(), Arc::default())));
        let entry = AskingSession {
            capabilities,
            session,
            listener,
            uses: Arc::default(),
            last_use: monotonic(),
        };
        let mut state = self.state.lock();
        if state.has_stopped {
            tokio::spawn(end(entry));
            return None;
        }
        let used = entry.used();
        state.sessions.push(entry);
        if state.closer.is_none() {
            state.closer = Some(tokio::spawn(close_idle_ones(Arc::downgrade(self))));
        }
        Some(used)
    }

    fn take_all(&self) -> Vec<AskingSession> {
        let mut state = self.state.lock();
        state.has_stopped = true;
        if let Some(closer) = state.closer.take() {
            closer.abort();
        }
        std::mem::take(&mut state.sessions)
    }

    fn take_idle(&self) -> Vec<AskingSession> {
        let mut state = self.state.lock();
        let idle = state.sessions.extract_if(.., |entry| {
            entry.is_unused() && entry.last_use.elapsed() >= IDLE_LIMIT
        });
        idle.collect()
    }
}

impl AskingSession {
    fn used(&self) -> UsedSession {
        UsedSession {
            session: self.session.clone(),
            _use: self.uses.clone(),
        }
    }

    fn is_unused(&self) -> bool {
        Arc::strong_count(&self.uses) == 1
    }

    fn stop_listening(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
        }
    }
}

impl Drop for AskingSession {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

/// Closes idle sessions until the connection is dropped.
async fn close_idle_ones(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(IDLE_CHECK).await;
        let Some(idle) = shared.upgrade().map(|shared| shared.take_idle()) else {
            return;
        };
        for session in idle {
            end(session).await;
        }
    }
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

async fn end(mut entry: AskingSession) {
    entry.stop_listening();
    entry.session.mark_lost("it was not used any more");
    let context = entry.session.context();
    if context.has_session() {
        entry.session.transport.end_session(&context).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scripted_server::{ScriptedResponse, ScriptedServer};
    use super::*;
    use crate::workers::mcp::host::tests::RecordingSink;

    fn set(bits: u16) -> ClientCapabilities {
        ClientCapabilities::from_bits(bits)
    }

    fn sessions_at(server: &ScriptedServer) -> AskingSessions {
        let sink = Arc::<RecordingSink>::default();
        AskingSessions::new(server.transport(sink), false)
    }

    #[tokio::test]
    async fn each_set_of_capabilities_has_one_session_that_declares_it() {
        let server = ScriptedServer::start(|_| None).await;
        let asking = sessions_at(&server);
        let elicitation = asking.get(set(1)).await.expect("a session");
        let again = asking.get(set(1)).await.expect("a session");
        assert!(Arc::ptr_eq(&elicitation.session, &again.session));
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
        assert!(elicitation.session.is_lost());
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
        let state = asking.0.state.lock();
        let open: Vec<_> = state
            .sessions
            .iter()
            .map(|entry| entry.capabilities.bits())
            .collect();
        assert_eq!(open.len(), MAX_SESSIONS);
        assert!(open.contains(&16) && !open.contains(&2), "{open:?}");
    }

    #[tokio::test]
    async fn the_stream_of_a_lost_session_ends_with_it() {
        let server = ScriptedServer::start(|request| {
            (request.method() == "GET").then(ScriptedResponse::hanging)
        })
        .await;
        let sink = Arc::<RecordingSink>::default();
        let asking = AskingSessions::new(server.transport(sink), true);
        let lost = asking.get(set(1)).await.expect("a session").session;
        while server.count("GET") == 0 {
            tokio::task::yield_now().await;
        }
        lost.mark_lost("a test");
        asking.get(set(1)).await.expect("another session");
        // The list of sessions and the listener had the other references.
        let ended = async {
            while Arc::strong_count(&lost) > 1 {
                tokio::task::yield_now().await;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
        ended.expect("the listener has ended");
    }

    #[tokio::test]
    async fn a_refused_session_is_not_asked_for_again_at_once() {
        let server = ScriptedServer::start(|request| {
            let refusal = ScriptedResponse::new(500, "not today");
            (request.method() == "initialize").then_some(refusal)
        })
        .await;
        let asking = sessions_at(&server);
        assert!(asking.get(set(1)).await.is_none());
        assert!(asking.get(set(1)).await.is_none());
        assert_eq!(server.count("initialize"), 1);
    }

    #[tokio::test]
    async fn a_session_whose_call_gave_up_ends_with_the_connection() {
        let server = ScriptedServer::start(|_| None).await;
        let asking = sessions_at(&server);
        let mut opening = Box::pin(asking.get(set(1)));
        assert!(futures::poll!(&mut opening).is_pending());
        assert!(futures::poll!(&mut opening).is_pending());
        drop(opening);
        // The next call waits for the session that is being opened.
        asking.get(set(1)).await.expect("a session");
        assert_eq!(server.count("initialize"), 1);
        asking.end().await;
        assert_eq!(server.count("DELETE"), 1);
    }
}
