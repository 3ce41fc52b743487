//! A connected Streamable HTTP server: each call is a request of its own, any number at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::notifications::listen;
use super::param_headers::ParamHeaders;
use super::protocol::ProtocolContext;
use super::session::HttpSession;
use super::transport::{OutgoingRequest, TransportError};
use crate::core::model::tool::Tools;
use crate::workers::mcp::connection::{CallError, ConnectError, ToolCall, in_time, opened, result};
use crate::workers::mcp::frame::{CallToolFrame, cancelled};
use crate::workers::mcp::tool_list::ToolListPager;

const CALL: &str = "tools/call";

pub struct StreamableHttpConnection {
    session: Arc<HttpSession>,
    /// Its own stream is read; not for a user's connection, whose news would concern nobody.
    listening: Option<JoinHandle<()>>,
    calls: AtomicUsize,
    /// Notified when the last running call ends.
    idle: Notify,
}

impl StreamableHttpConnection {
    pub fn new(session: Arc<HttpSession>) -> Self {
        let listening = session
            .memory
            .user
            .is_none()
            .then(|| tokio::spawn(listen(session.clone())));
        Self {
            session,
            listening,
            calls: AtomicUsize::new(0),
            idle: Notify::new(),
        }
    }

    /// Calls a tool and gives the raw CallToolResult.
    pub async fn call(&self, call: ToolCall<'_>) -> Result<Bytes, CallError> {
        if self.is_closed() {
            return Err(CallError::Closed { begun: false });
        }
        let _under_way = UnderWay::new(self);
        let progress = call.reset_on_progress.then(Notify::new);
        let (id, talk) = (self.session.next_id(), self.session.talk());
        let frame = {
            let opened = opened(call.secrets)?;
            CallToolFrame {
                id,
                tool: call.tool,
                args: call.args,
                secrets: &opened,
                progress: progress.is_some(),
                traceparent: call.traceparent,
                meta: talk.meta(),
            }
            .frame()
        };
        // Wiped when it was sent, or is not to be sent any more.
        let body = Bytes::from_owner(frame);
        let mirrored = self.session.mirrored.load().headers(call.tool, &body);
        let progress_of = progress.as_ref();
        let message = OutgoingRequest {
            id,
            body,
            method: CALL,
            name: Some(call.tool),
            progress: progress_of,
            mirrored,
        };
        let mut cancel = Cancel {
            session: &self.session,
            id,
            over: false,
        };
        let exchange = async { self.session.ask(&message).await.map_err(error) };
        let answer = in_time(exchange, progress.as_ref(), call.timeout).await;
        // On time out it runs on at the server.
        cancel.over = !matches!(answer, Err(CallError::TimedOut));
        answer.and_then(result)
    }

    pub async fn list_tools(&self) -> Result<Tools, ConnectError> {
        list(&self.session).await
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

    /// The session stays open at the server: it is taken up again at the next start.
    pub fn stop(&self) {
        self.session.mark_lost(&"it was stopped");
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for StreamableHttpConnection {
    fn drop(&mut self) {
        self.listening.iter().for_each(JoinHandle::abort);
    }
}

pub async fn list(session: &HttpSession) -> Result<Tools, ConnectError> {
    let mut pages = ToolListPager::new(session.wire.result_limit);
    while let Some(params) = pages.next() {
        pages.take(session.request("tools/list", &params).await?)?;
    }
    let tools = pages.tools();
    if session.talk().stateless {
        session.mirrored.store(Arc::new(ParamHeaders::of(&tools)));
    }
    Ok(tools)
}

fn error(trouble: TransportError) -> CallError {
    match trouble {
        TransportError::Unreachable(_) => CallError::Closed { begun: false },
        TransportError::Stale => CallError::Wrong {
            reason: TransportError::Stale.reason(),
            begun: false,
        },
        TransportError::Denied(failure) | TransportError::TooNarrow(failure) => {
            CallError::Denied(failure)
        }
        TransportError::Wrong { reason, begun, .. } => CallError::Wrong { reason, begun },
    }
}

/// Counts a call while it is under way.
struct UnderWay<'a>(&'a StreamableHttpConnection);

impl<'a> UnderWay<'a> {
    fn new(connection: &'a StreamableHttpConnection) -> Self {
        connection.calls.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

/// Dropped before the answer, it tells the server that nobody waits for that any more. Without sessions the end of
/// the connection says so.
struct Cancel<'a> {
    session: &'a HttpSession,
    id: u64,
    over: bool,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        let talk = self.session.talk();
        if !self.over && !talk.stateless {
            let frame = cancelled(self.id, "nobody waits for the answer any more");
            self.session.wire.spawn_notification(
                ProtocolContext::clone(&talk),
                "notifications/cancelled",
                Bytes::from_owner(frame),
            );
        }
    }
}
