//! A connected server, with any transport.

use bytes::Bytes;

use super::call::{CallError, ClientOptions, ConnectError, UserRequest};
use super::handshake::Handshake;
use super::http::{
    HttpConnection, HttpSseConnection, HttpTarget, StreamableHttpConnection, connect_http,
};
use super::stdio::{StdioConnection, StdioTarget};
use crate::core::model::tool::Tools;

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
        let (connection, tools) = connect_http(target, options).await?;
        let connection = match connection {
            HttpConnection::Streamable(http) => Self::Http(http),
            HttpConnection::Sse(sse) => Self::Sse(sse),
        };
        Ok((connection, tools))
    }

    /// Calls a tool and returns the raw `CallToolResult`.
    pub async fn call(&self, call: &UserRequest<'_>) -> Result<Bytes, CallError> {
        match self {
            Self::Stdio(stdio) => stdio.call(call).await,
            // The boxes keep the future of a call to a child small, because it is moved several times.
            Self::Http(http) => Box::pin(http.call(call)).await,
            Self::Sse(sse) => Box::pin(sse.call(call)).await,
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

    /// Returns the description that the server gave of itself, if it gave one.
    pub fn handshake(&self) -> Option<Handshake> {
        match self {
            Self::Stdio(stdio) => stdio.handshake(),
            Self::Http(http) => http.handshake(),
            Self::Sse(sse) => sse.handshake(),
        }
    }

    /// Whether the server speaks 2026-07-28. Its results may ask for input.
    pub fn is_modern(&self) -> bool {
        match self {
            Self::Http(http) => http.is_modern(),
            Self::Stdio(stdio) => stdio.is_modern(),
            Self::Sse(_) => false,
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

    /// Whether the client has closed the connection in order to open another one. Then the server has not failed.
    pub fn is_replaced(&self) -> bool {
        match self {
            Self::Stdio(stdio) => stdio.is_replaced(),
            Self::Http(_) | Self::Sse(_) => false,
        }
    }

    /// Waits until no call is running.
    pub async fn idle(&self) {
        match self {
            Self::Stdio(stdio) => stdio.idle().await,
            Self::Http(http) => http.idle().await,
            Self::Sse(sse) => sse.idle().await,
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

    /// Closes the connection for good: stops a child in the ordinary way, or ends the session at the server. Running calls
    /// end.
    pub async fn end(&self) {
        match self {
            Self::Stdio(stdio) => stdio.stop().await,
            Self::Http(http) => http.end().await,
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
