//! The session with one server: opened once, resumed after a restart, and opened again after the server lost it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use super::log_level::AskedLevel;
use super::open::{OpenError, OpenedSession};
use super::param_headers::ParamHeaders;
use super::protocol::ProtocolContext;
use super::transport::{HttpTransport, OutgoingRequest, Received, TransportError};
use crate::core::failure::Code;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::model::remote::StoredSession;
use crate::time::clock::{monotonic, now_ms};
use crate::workers::mcp::call::ConnectError;
use crate::workers::mcp::frame::TOOL_CALL;
use crate::workers::mcp::handshake::Handshake;
use crate::workers::mcp::host::SessionStore;
use crate::workers::mcp::jsonrpc::{RpcError, first_request_id, note, wrap_request_id};
use crate::workers::mcp::mux::RpcReply;
use crate::workers::mcp::tool_list::method_result;

/// New sessions for one request, because the server may restart in between.
const MAX_REOPENINGS: usize = 3;
/// A session that lived for this time resets the pause before the next session.
const STABLE_SESSION: Duration = Duration::from_secs(60);
/// A session is stored after it has lasted for this time.
const STORE_DELAY: Duration = Duration::from_secs(10);
/// The pause after the first short session. Each further short session doubles the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two sessions.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Codes with which servers report an unknown session under HTTP 200.
const SESSION_ERRORS: [i64; 2] = [-32002, -32001];

pub struct HttpSession {
    pub transport: Arc<HttpTransport>,
    /// The capabilities that `initialize` declares.
    pub capabilities: ClientCapabilities,
    pub store: Arc<dyn SessionStore>,
    context: ArcSwap<ProtocolContext>,
    /// The newest description that the server gave of itself.
    pub handshake: ArcSwapOption<Handshake>,
    /// Held by the request that opens the next session.
    reopening: Mutex<SessionHistory>,
    /// The arguments that calls repeat in headers.
    pub param_headers: ArcSwap<ParamHeaders>,
    /// Notified after a new session was opened.
    pub reopened: Notify,
    /// The log level that the server was asked for.
    pub log_level: Mutex<AskedLevel>,
    next_id: AtomicU64,
    lost: watch::Sender<Option<String>>,
    /// Held by the task that checks a doubtful session.
    checking: Mutex<()>,
}

/// When the sessions of a connection were opened.
struct SessionHistory {
    opened_at: Instant,
    /// Sessions in a row that did not last.
    short_sessions: u32,
}

impl SessionHistory {
    /// Returns the earliest time for the next session.
    fn next_opening(&self) -> Instant {
        self.opened_at + pause_after(self.short_sessions)
    }

    /// Records a new session.
    fn record(&mut self, now: Instant) {
        if now - self.opened_at >= STABLE_SESSION {
            self.short_sessions = 0;
        } else {
            self.short_sessions += 1;
        }
        self.opened_at = now;
    }
}

/// Returns the pause before the next session after that many short sessions.
fn pause_after(short_sessions: u32) -> Duration {
    match short_sessions {
        0 => Duration::ZERO,
        count => FIRST_PAUSE
            .saturating_mul(1 << (count - 1).min(16))
            .min(MAX_PAUSE),
    }
}

/// The decision about a session after a request.
enum Verdict {
    /// The outcome is final.
    Final,
    /// The server refused the session, so it has not executed the request.
    SessionRefused { token_is_fresh: bool },
}

impl Verdict {
    const REFUSED: Self = Self::SessionRefused {
        token_is_fresh: false,
    };
}

impl HttpSession {
    pub fn new(transport: Arc<HttpTransport>, store: Arc<dyn SessionStore>) -> Arc<Self> {
        Self::with_capabilities(transport, store, ClientCapabilities::default())
    }

    /// Returns a session that declares capabilities of clients when it is opened.
    pub fn with_capabilities(
        transport: Arc<HttpTransport>,
        store: Arc<dyn SessionStore>,
        capabilities: ClientCapabilities,
    ) -> Arc<Self> {
        Arc::new(Self {
            transport,
            capabilities,
            store,
            context: ArcSwap::default(),
            handshake: ArcSwapOption::default(),
            reopening: Mutex::new(SessionHistory {
                opened_at: monotonic(),
                short_sessions: 0,
            }),
            param_headers: ArcSwap::default(),
            reopened: Notify::new(),
            log_level: Mutex::default(),
            next_id: AtomicU64::new(first_request_id(now_ms())),
            lost: watch::Sender::new(None),
            checking: Mutex::default(),
        })
    }

    pub fn context(&self) -> Arc<ProtocolContext> {
        self.context.load_full()
    }

    pub fn use_context(&self, context: ProtocolContext) {
        self.context.store(Arc::new(context));
    }

    pub fn next_id(&self) -> u64 {
        wrap_request_id(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Sends a request. If the server has lost the session, a new session is opened and the request is sent again,
    /// because the server has not executed it.
    pub async fn send(
        self: &Arc<Self>,
        request: &OutgoingRequest<'_>,
    ) -> Result<RpcReply, TransportError> {
        let context = self.context();
        let outcome = self.transport.send_request(&context, request).await;
        match outcome {
            Ok(Received {
                reply: reply @ (RpcReply::Result(_) | RpcReply::TooLarge),
                ..
            }) => Ok(reply),
            // The box keeps the future of an ordinary call small.
            outcome => Box::pin(self.recover(context, request, outcome)).await,
        }
    }

    /// Opens new sessions until the outcome of the request is final.
    async fn recover(
        self: &Arc<Self>,
        mut context: Arc<ProtocolContext>,
        request: &OutgoingRequest<'_>,
        mut outcome: Result<Received, TransportError>,
    ) -> Result<RpcReply, TransportError> {
        for _ in 0..MAX_REOPENINGS {
            let verdict = self.judge(&context, request.method, &outcome).await;
            let Verdict::SessionRefused { token_is_fresh } = verdict else {
                break;
            };
            context = self.reopen(&context, token_is_fresh).await?;
            outcome = self.transport.send_request(&context, request).await;
        }
        self.mark_lost_after(&outcome);
        match outcome {
            Ok(received) => Ok(received.reply),
            Err(TransportError::Unauthorized { failure, .. }) => {
                Err(TransportError::Denied(failure))
            }
            Err(error) => Err(error),
        }
    }

    /// Decides whether the server refused the session of a request.
    async fn judge(
        self: &Arc<Self>,
        context: &Arc<ProtocolContext>,
        method: &str,
        outcome: &Result<Received, TransportError>,
    ) -> Verdict {
        if !context.has_session() {
            return Verdict::Final;
        }
        let is_call = method == TOOL_CALL;
        match outcome {
            Err(TransportError::SessionUnknown) => Verdict::REFUSED,
            Err(TransportError::Unauthorized { token_is_fresh, .. }) => Verdict::SessionRefused {
                token_is_fresh: *token_is_fresh,
            },
            // The server has not executed a request that it answers with 4xx.
            Err(TransportError::Protocol {
                status: Some(status),
                begun: false,
                ..
            }) if status.is_client_error() => self.verdict_by_ping(context).await,
            Err(TransportError::Protocol {
                status: Some(status),
                ..
            }) if status.is_server_error() && !is_call => self.verdict_by_ping(context).await,
            Err(TransportError::Protocol {
                status: Some(status),
                ..
            }) if status.is_server_error() => {
                // The server may have executed the call, so only later requests get a new session.
                self.check_in_background(context.clone());
                Verdict::Final
            }
            Ok(received) => self.judge_reply(context, is_call, received).await,
            Err(_) => Verdict::Final,
        }
    }

    /// Decides whether an error reply concerns the session.
    async fn judge_reply(
        self: &Arc<Self>,
        context: &Arc<ProtocolContext>,
        is_call: bool,
        received: &Received,
    ) -> Verdict {
        let is_session_error = is_session_error(&received.reply);
        if is_session_error && !is_call {
            return Verdict::REFUSED;
        }
        // A tool may use the same code for its own resources. A server that answers a ping with it does not know the
        // session, so it has not executed the call.
        if is_session_error || (!received.status.is_success() && !is_call) {
            return self.verdict_by_ping(context).await;
        }
        if received.status.is_server_error() {
            // The server may have executed the call, so only later requests get a new session.
            self.check_in_background(context.clone());
        }
        Verdict::Final
    }

    async fn verdict_by_ping(&self, context: &ProtocolContext) -> Verdict {
        if self.is_session_alive(context).await {
            Verdict::Final
        } else {
            Verdict::REFUSED
        }
    }

    /// Sends a ping in a session. A reply shows that the server knows the session, even if the server has no such method.
    async fn is_session_alive(&self, context: &ProtocolContext) -> bool {
        let ping = self.message("ping", &context.params(""));
        match self.transport.send_request(context, &ping).await {
            // Some servers report an unknown session as an internal error.
            Ok(received) => {
                !is_session_error(&received.reply) && !received.status.is_server_error()
            }
            // The state of the session is unknown, and the server cannot open another session now.
            Err(TransportError::Unreachable(_) | TransportError::Denied(_)) => true,
            Err(_) => false,
        }
    }

    /// Checks a session without delaying the caller. One check runs at a time.
    fn check_in_background(self: &Arc<Self>, context: Arc<ProtocolContext>) {
        let session = self.clone();
        tokio::spawn(async move {
            let Ok(_checking) = session.checking.try_lock() else {
                return;
            };
            if !session.is_session_alive(&context).await {
                // The next request reports an error.
                let _ = session.reopen(&context, false).await;
            }
        });
    }

    /// Ends the connection after an outcome that no later request can change.
    fn mark_lost_after(&self, outcome: &Result<Received, TransportError>) {
        match outcome {
            Err(TransportError::Unreachable(_)) => {
                if let Err(error) = outcome {
                    self.mark_lost(&error.to_string());
                }
            }
            // The next start of the connection shows what the user has to do.
            Err(TransportError::Denied(failure) | TransportError::Unauthorized { failure, .. })
                if failure.code == Code::ReauthRequired =>
            {
                self.mark_lost(&failure.message)
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Sends a request that is no tool call. `members` are the members of its `params`. Returns `None` if the server has
    /// no such method.
    pub async fn request(
        self: &Arc<Self>,
        method: &'static str,
        members: &str,
    ) -> Result<Option<Bytes>, ConnectError> {
        let request = self.message(method, &self.context().params(members));
        let reply = self.send(&request).await?;
        Ok(method_result(method, reply)?)
    }

    /// Returns a request that is no tool call. `params` is JSON.
    pub fn message(&self, method: &'static str, params: &str) -> OutgoingRequest<'static> {
        let id = self.next_id();
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#);
        OutgoingRequest {
            id,
            body: body.into(),
            method,
            name: None,
            progress: None,
            asker: None,
            log: None,
            param_headers: vec![],
            token_is_fresh: false,
        }
    }

    /// Opens a session in place of a lost one, once for all requests that lost it. A server that loses its sessions
    /// again and again gets them after growing pauses.
    async fn reopen(
        self: &Arc<Self>,
        lost: &ProtocolContext,
        token_is_fresh: bool,
    ) -> Result<Arc<ProtocolContext>, TransportError> {
        let mut history = self.reopening.lock().await;
        let current = self.context();
        if current.number != lost.number {
            return Ok(current);
        }
        tokio::time::sleep_until(history.next_opening()).await;
        let opened = match self.initialize(token_is_fresh).await {
            Ok(opened) => opened,
            Err(error) => {
                let error = reopen_error(error);
                // The next start of the connection finds out how the server speaks now.
                self.mark_lost(&error.to_string());
                return Err(error);
            }
        };
        history.record(monotonic());
        let OpenedSession {
            mut context,
            stored,
        } = opened;
        context.number = lost.number + 1;
        let context = Arc::new(context);
        self.context.store(context.clone());
        self.reopened.notify_waiters();
        self.store
            .show(stored.as_ref().map(|session| session.id.as_str()));
        note(
            &*self.transport.sink,
            "the server did not know its session any more; another session was opened",
        );
        tokio::spawn(store_when_stable(self.clone(), context.number, stored));
        Ok(context)
    }

    /// Ends the connection. The first reason counts.
    pub fn mark_lost(&self, reason: &str) {
        self.lost.send_if_modified(|lost| {
            let is_first = lost.is_none();
            lost.get_or_insert_with(|| reason.to_owned());
            is_first
        });
    }

    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    pub fn why_lost(&self) -> String {
        self.lost
            .borrow()
            .clone()
            .unwrap_or_else(|| "it was closed".into())
    }

    /// Waits until the connection has ended.
    pub async fn lost(&self) {
        let _ = self.lost.subscribe().wait_for(Option::is_some).await;
    }
}

/// Stores a session after it has lasted for [`STORE_DELAY`]. Without the stored session a restart opens a new session.
async fn store_when_stable(session: Arc<HttpSession>, number: u64, stored: Option<StoredSession>) {
    tokio::time::sleep(STORE_DELAY).await;
    if session.context().number != number {
        return;
    }
    match stored {
        Some(stored) => session.store.store(&stored).await,
        None => session.store.end().await,
    }
}

/// Whether a reply says that the server does not know the session.
pub(super) fn is_session_error(reply: &RpcReply) -> bool {
    let RpcReply::Error(error) = reply else {
        return false;
    };
    serde_json::from_slice::<RpcError>(error)
        .is_ok_and(|error| SESSION_ERRORS.contains(&error.code))
}

/// Returns the error of a request whose session was lost and cannot be replaced.
fn reopen_error(error: OpenError) -> TransportError {
    let lost = |reason: String| TransportError::Protocol {
        reason: format!("it does not know its session any more, and opened no other: {reason}"),
        begun: false,
        status: None,
    };
    match error {
        OpenError::Failed(ConnectError {
            denied: Some(failure),
            ..
        }) => TransportError::Denied(failure),
        OpenError::OtherMode(reason) | OpenError::Failed(ConnectError { reason, .. }) => {
            lost(reason)
        }
        OpenError::Stateless => lost("it has no sessions any more".into()),
    }
}

#[cfg(test)]
mod tests;
