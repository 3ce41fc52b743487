//! A connected server, whatever its transport.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::CallToolFrame;
use super::host::NotificationSink;
use super::http::{HttpSseConnection, HttpTarget, StreamableHttpConnection, connect_http};
use super::mux::{Closed, Mux, RpcReply};
use super::stdio::{StdioConnection, StdioTarget};
use crate::core::arguments::merge::SecretArgument;
use crate::core::failure::Failure;
use crate::core::model::tool::Tools;

/// The parts that every transport needs.
#[derive(Clone)]
pub struct ClientOptions {
    pub sink: Arc<dyn NotificationSink>,
    /// The largest result in bytes (`RESULT_LIMIT`).
    pub result_limit: usize,
}

/// A tool call as the server receives it.
pub struct ToolCall<'a> {
    pub tool: &'a str,
    /// A checked JSON object.
    pub args: &'a str,
    pub secrets: &'a [SecretArgument<'a>],
    pub traceparent: Option<&'a str>,
    pub timeout: Duration,
    /// Each progress notification restarts the timeout.
    pub reset_on_progress: bool,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum CallError {
    /// The server replied with this JSON-RPC error object.
    Rpc(Bytes),
    /// The connection ended. `begun` says whether the server may have started the call.
    Closed {
        begun: bool,
    },
    /// The server broke the protocol or the connection. The reason continues a sentence that begins with the server.
    Wrong {
        reason: String,
        begun: bool,
    },
    /// The user must authorize the server, or no token can be obtained now. The server has not started the call.
    Denied(Box<Failure>),
    /// The result is larger than `RESULT_LIMIT`.
    TooLarge,
    TimedOut,
}

/// Why a server is not connected. The reason continues a sentence that begins with the server.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ConnectError {
    pub reason: String,
    /// The failure for callers, if the server denies access.
    pub denied: Option<Box<Failure>>,
}

impl From<String> for ConnectError {
    fn from(reason: String) -> Self {
        Self {
            reason,
            denied: None,
        }
    }
}

impl From<&str> for ConnectError {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// An open channel to a server.
pub enum Connection {
    /// A child process.
    Stdio(Box<StdioConnection>),
    /// Streamable HTTP (2025-03-26 and later).
    Http(Box<StreamableHttpConnection>),
    /// HTTP+SSE (2024-11-05).
    Sse(Box<HttpSseConnection>),
}

impl Connection {
    /// Starts a child process, opens the session and lists the tools. The caller limits the time. Dropping the future
    /// kills the child.
    pub async fn connect_stdio(
        target: StdioTarget<'_>,
        options: ClientOptions,
    ) -> Result<(Self, Tools), ConnectError> {
        let (stdio, tools) = StdioConnection::connect(target, options).await?;
        Ok((Self::Stdio(Box::new(stdio)), tools))
    }

    /// Connects to a URL in the protocol mode that the server speaks, and lists the tools. The caller limits the time.
    pub async fn connect_http(
        target: HttpTarget,
        options: ClientOptions,
    ) -> Result<(Self, Tools), ConnectError> {
        connect_http(target, options).await
    }

    /// Calls a tool and returns the raw `CallToolResult`.
    pub async fn call(&self, call: ToolCall<'_>) -> Result<Bytes, CallError> {
        match self {
            Self::Stdio(stdio) => stdio.call(call).await,
            Self::Http(http) => http.call(call).await,
            Self::Sse(sse) => sse.call(call).await,
        }
    }

    /// Lists the tools again.
    pub async fn list_tools(&self) -> Result<Tools, ConnectError> {
        match self {
            Self::Stdio(stdio) => stdio.list_tools().await,
            Self::Http(http) => http.list_tools().await,
            Self::Sse(sse) => sse.list_tools().await,
        }
    }

    pub fn is_closed(&self) -> bool {
        match self {
            Self::Stdio(stdio) => stdio.is_closed(),
            Self::Http(http) => http.is_closed(),
            Self::Sse(sse) => sse.is_closed(),
        }
    }

    /// Waits until the connection has ended.
    pub async fn closed(&self) {
        match self {
            Self::Stdio(stdio) => stdio.closed().await,
            Self::Http(http) => http.closed().await,
            Self::Sse(sse) => sse.closed().await,
        }
    }

    /// Returns the number of running calls.
    pub fn calls(&self) -> usize {
        match self {
            Self::Stdio(stdio) => stdio.calls(),
            Self::Http(http) => http.calls(),
            Self::Sse(sse) => sse.calls(),
        }
    }

    /// Returns the reason for the end of a closed connection. A child that still runs is stopped.
    pub async fn why_it_ended(&self) -> String {
        match self {
            Self::Stdio(stdio) => stdio.why_it_ended().await,
            Self::Http(http) => http.why_it_ended(),
            Self::Sse(sse) => sse.why_it_ended(),
        }
    }

    /// Waits until the sink has received everything that an ended child printed.
    pub async fn drain_stderr(&self) {
        if let Self::Stdio(stdio) = self {
            stdio.drain_stderr().await;
        }
    }

    /// Closes the connection and stops a child in the ordinary way. Running calls end.
    pub async fn stop(&self) {
        match self {
            Self::Stdio(stdio) => stdio.stop().await,
            Self::Http(http) => http.stop(),
            Self::Sse(sse) => sse.stop(),
        }
    }

    /// Closes the connection and kills a child.
    pub async fn kill(&self) {
        match self {
            Self::Stdio(stdio) => stdio.kill().await,
            Self::Http(http) => http.stop(),
            Self::Sse(sse) => sse.stop(),
        }
    }

    /// Returns the start of the child in milliseconds since 1970. Older lines belong to another child.
    pub fn started_at(&self) -> u64 {
        match self {
            Self::Stdio(stdio) => stdio.started_at,
            Self::Http(_) | Self::Sse(_) => u64::MAX,
        }
    }

    /// Whether the server is a child process of this worker.
    pub fn has_child(&self) -> bool {
        matches!(self, Self::Stdio(_))
    }
}

/// Calls a tool over a mux.
pub async fn call_over(mux: &Arc<Mux>, call: ToolCall<'_>) -> Result<Bytes, CallError> {
    let progress = call.reset_on_progress.then(|| Arc::new(Notify::new()));
    let mut request = mux
        .register(progress.clone())
        .map_err(|Closed| CallError::Closed { begun: false })?;
    let frame = CallToolFrame {
        id: request.id,
        tool: call.tool,
        args: call.args,
        secrets: call.secrets,
        progress: progress.is_some(),
        traceparent: call.traceparent,
        meta: "",
    };
    let exchange = async {
        let not_begun = |Closed| CallError::Closed { begun: false };
        let room = request.reserve(frame.capacity()).await.map_err(not_begun)?;
        request.send(frame.build(), room).map_err(not_begun)?;
        request
            .reply()
            .await
            .map_err(|Closed| CallError::Closed { begun: true })
    };
    within_timeout(exchange, progress.as_deref(), call.timeout)
        .await
        .and_then(call_result)
}

/// Returns the result of a call.
pub fn call_result(reply: RpcReply) -> Result<Bytes, CallError> {
    match reply {
        RpcReply::Result(result) => Ok(result),
        RpcReply::Error(error) => Err(CallError::Rpc(error)),
        RpcReply::TooLarge => Err(CallError::TooLarge),
    }
}

/// Runs `exchange` for at most `limit`. Each notification of `progress` restarts the limit.
pub async fn within_timeout<T>(
    exchange: impl Future<Output = Result<T, CallError>>,
    progress: Option<&Notify>,
    limit: Duration,
) -> Result<T, CallError> {
    let Some(progress) = progress else {
        return tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| CallError::TimedOut)?;
    };
    let mut exchange = std::pin::pin!(exchange);
    loop {
        tokio::select! {
            done = &mut exchange => return done,
            () = progress.notified() => {}
            () = tokio::time::sleep(limit) => return Err(CallError::TimedOut),
        }
    }
}
