//! A connected Streamable HTTP server. Each call is an HTTP request of its own.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::asking_sessions::{AskingSessions, UsedSession};
use super::log_level::call_meta;
use super::notifications::listen;
use super::param_headers::ParamHeaders;
use super::protocol::ProtocolContext;
use super::session::HttpSession;
use super::subscriptions::follow_watch;
use super::transport::{OutgoingRequest, TransportError};
use crate::core::model::tool::Tools;
use crate::workers::mcp::call::{
    CallError, ConnectError, ProgressEffects, TimeLimit, UserRequest, call_result, within_timeout,
};
use crate::workers::mcp::frame::{RequestFrame, TOOL_CALL, cancelled};
use crate::workers::mcp::handshake::Handshake;
use crate::workers::mcp::host::{ClientAsker, LogListener};
use crate::workers::mcp::resource_watch::ResourceWatch;
use crate::workers::mcp::tool_list::ToolListPager;

pub struct StreamableHttpConnection {
    session: Arc<HttpSession>,
    /// The sessions of calls whose clients can be asked.
    asking: AskingSessions,
    /// Reads the server's own stream, and subscribes to resources.
    tasks: Vec<JoinHandle<()>>,
    calls: AtomicUsize,
    /// Notified when the last running call ends.
    idle: Notify,
}

impl StreamableHttpConnection {
    /// Creates a connection. With a watch, it reads the server's own stream and subscribes to the watched resources.
    pub fn new(session: Arc<HttpSession>, watch: Option<Arc<ResourceWatch>>) -> Self {
        let asking = AskingSessions::new(session.transport.clone(), watch.is_some());
        let mut tasks = vec![];
        if let Some(watch) = watch {
            tasks.push(tokio::spawn(listen(session.clone(), watch.clone())));
            if !session.context().stateless {
                tasks.push(tokio::spawn(follow_watch(session.clone(), watch)));
            }
        }
        Self {
            asking,
            session,
            tasks,
            calls: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    pub async fn call(&self, call: &UserRequest<'_>) -> Result<Bytes, CallError> {
        if self.is_closed() {
            return Err(CallError::Closed { begun: false });
        }
        let _running = RunningCall::new(self);
        let progress = ProgressEffects::new(call);
        let asker = call.asker.as_ref();
        let exchange = self.session_for(asker);
        let exchange = pin!(async { Ok(exchange.await) });
        let limit = TimeLimit::for_call(call);
        let used = within_timeout(exchange, None, None, limit).await?;
        let session = used.as_ref().map_or(&self.session, |used| &used.session);
        let id = session.next_id();
        let context = session.context();
        let log = call.log.as_deref();
        let wanted_log = log.map(LogListener::wanted);
        let meta = call_meta(&context, call.capabilities, wanted_log);
        let frame = RequestFrame {
            id,
            method: call.method,
            params: call.params,
            more: call.input,
            progress: progress.is_some(),
            traceparent: call.traceparent,
            meta: &meta,
            client_meta: call.meta,
        };
        // The frame wipes its secrets after the request was sent or dropped.
        let body = Bytes::from_owner(frame.build());
        let param_headers = match call.name {
            Some(tool) if call.method == TOOL_CALL => {
                session.param_headers.load().headers(tool, &body)
            }
            _ => vec![],
        };
        let request = OutgoingRequest {
            id,
            body,
            method: call.method,
            name: call.name,
            progress: progress.as_ref(),
            asker,
            log,
            param_headers,
            token_is_fresh: false,
        };
        let mut cancel = CancelOnDrop {
            session,
            id,
            ended: false,
        };
        let exchange = async {
            if let Some(wanted) = wanted_log {
                session.ask_for_log(wanted).await;
            }
            session.send(&request).await.map_err(call_error)
        };
        let asker = asker.map(|asker| &**asker);
        let reply = within_timeout(pin!(exchange), progress.as_ref(), asker, limit).await;
        // After a timeout the server still executes the call.
        cancel.ended = !matches!(reply, Err(CallError::TimedOut));
        reply.and_then(call_result)
    }

    /// Returns the session that declares what the client of a call can be asked for. `None`: the ordinary session serves the
    /// call.
    async fn session_for(&self, asker: Option<&Arc<dyn ClientAsker>>) -> Option<UsedSession> {
        let asker = asker.filter(|_| !self.is_modern())?;
        self.asking.get(asker.capabilities()).await
    }

    pub async fn list_tools(&self) -> Result<Tools, ConnectError> {
        list(&self.session).await
    }

    pub fn handshake(&self) -> Option<Handshake> {
        self.session.handshake.load().as_deref().cloned()
    }

    pub fn is_modern(&self) -> bool {
        self.session.context().stateless
    }

    pub fn is_closed(&self) -> bool {
        self.session.is_lost()
    }

    pub async fn closed(&self) {
        self.session.lost().await;
    }

    /// Waits until no call is running.
    pub async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.calls.load(Ordering::Acquire) == 0 {
                return;
            }
            idle.await;
        }
    }

    pub fn why_it_ended(&self) -> String {
        self.session.why_lost()
    }

    /// Closes the connection. The server keeps the session, because the next start resumes it.
    pub fn stop(&self) {
        self.session.mark_lost("it was stopped");
        self.asking.stop();
        self.stop_listening();
    }

    /// Closes the connection and ends the session at the server. Use [`Self::stop`] if a later start resumes the session.
    pub async fn end(&self) {
        self.asking.end().await;
        self.stop();
        let context = self.session.context();
        if context.has_session() {
            self.session.transport.end_session(&context).await;
        }
    }

    fn stop_listening(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for StreamableHttpConnection {
    fn drop(&mut self) {
        self.stop_listening();
    }
}

/// Lists the tools.
pub(super) async fn list(session: &Arc<HttpSession>) -> Result<Tools, ConnectError> {
    let mut pager = ToolListPager::new(session.transport.result_limit);
    while let Some(params) = pager.next_params() {
        pager.add_page(session.request("tools/list", &params).await?)?;
    }
    let tools = pager.finish(&*session.transport.sink);
    if session.context().stateless {
        let param_headers = ParamHeaders::from_tools(&tools);
        session.param_headers.store(Arc::new(param_headers));
    }
    Ok(tools)
}

fn call_error(error: TransportError) -> CallError {
    match error {
        TransportError::Unreachable(_) => CallError::Closed { begun: false },
        TransportError::SessionUnknown => CallError::Wrong {
            reason: error.to_string(),
            begun: false,
        },
        TransportError::Denied(failure)
        | TransportError::InsufficientScope(failure)
        | TransportError::Unauthorized { failure, .. } => CallError::Denied(failure),
        TransportError::Protocol { reason, begun, .. } => CallError::Wrong { reason, begun },
    }
}

/// Counts a call while it runs.
struct RunningCall<'a>(&'a StreamableHttpConnection);

impl<'a> RunningCall<'a> {
    fn new(connection: &'a StreamableHttpConnection) -> Self {
        connection.calls.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Cancels a call at the server if it is dropped before the reply. Without a session the end of the HTTP request cancels
/// the call.
struct CancelOnDrop<'a> {
    session: &'a HttpSession,
    id: u64,
    ended: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let context = self.session.context();
        if context.stateless {
            return;
        }
        let frame = cancelled(self.id, "the caller no longer waits for the result");
        self.session.transport.spawn_notification(
            ProtocolContext::clone(&context),
            "notifications/cancelled",
            Bytes::from_owner(frame),
        );
    }
}
