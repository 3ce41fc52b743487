//! A connected server, whichever way it is reached.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::{CallToolFrame, OpenedSecret};
use super::http::{HttpSseConnection, StreamableHttpConnection, connect_remote};
use super::jsonrpc::NotificationSink;
use super::mux::{Closed, Mux, RpcReply};
use super::stdio::Stdio;
use crate::core::arguments::merge::SecretArgument;
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::model::server::Transport;
use crate::core::model::tool::Tools;
use crate::workers::guard;
use crate::workers::install::PackageHandle;
use crate::workers::runtime::remote_state::RemoteState;

/// What a server's connections have in common, whichever runs at the moment.
#[derive(Clone)]
pub struct ConnectionDeps {
    pub hearing: NotificationSink,
    pub result_limit: usize,
    /// The child that is to live on while the server's lease is renewed.
    pub child: Arc<guard::ChildSet>,
    /// How long a child may live without a renewal.
    pub ttl: Duration,
    /// What is remembered of a server behind a URL.
    pub memory: RemoteState,
}

/// A tool call as a server is to see it.
pub struct ToolCall<'a> {
    pub tool: &'a str,
    pub args: &'a str,
    pub secrets: &'a [OpenedSecret],
    pub traceparent: Option<&'a str>,
    pub timeout: Duration,
    /// Progress starts the time anew.
    pub reset_on_progress: bool,
}

/// Why a call has no result.
#[derive(Debug)]
pub enum CallError {
    /// The server answered with this JSON-RPC error.
    Rpc(Bytes),
    /// The connection ended during the call; or before, where it is false.
    Closed {
        begun: bool,
    },
    /// The server answered with what is no MCP, or broke its answer off. The sentence goes on after its name.
    Wrong {
        reason: String,
        begun: bool,
    },
    /// Access to the server has to be given first, or cannot be had at the moment; nothing was begun.
    Denied(Box<Failure>),
    TooLarge,
    TimedOut,
    /// A secret cannot be used as an argument.
    BadSecret,
}

/// Why a server is not connected. The sentence goes on after its name.
#[derive(Debug)]
pub struct ConnectError {
    pub reason: String,
    /// What callers are told, where access to it is denied.
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

pub enum Connection {
    /// A child process.
    Stdio(Box<Stdio>),
    /// Streamable HTTP.
    Http(Box<StreamableHttpConnection>),
    /// HTTP and an event stream, as it was before that.
    Sse(Box<HttpSseConnection>),
}

impl Connection {
    /// Connects, opens the session and asks for the tools. The caller sets the time limit and may drop this at
    /// any moment. `package` is what the server was installed from, if it was.
    pub async fn open(
        server: &Server,
        package: Option<PackageHandle>,
        shared: &ConnectionDeps,
    ) -> Result<(Self, Tools), ConnectError> {
        let transport = server.config.transport.clone();
        let transport = match &package {
            Some(package) => transport.placed(&package.folder.to_string_lossy()),
            None => transport,
        };
        match &transport {
            Transport::Stdio { command, args, env } => {
                let (stdio, tools) = Stdio::connect(command, args, env, package, shared).await?;
                Ok((Self::Stdio(Box::new(stdio)), tools))
            }
            Transport::StreamableHttp(remote) => connect_remote(server, remote, shared).await,
        }
    }

    pub async fn call(&self, call: ToolCall<'_>) -> Result<Bytes, CallError> {
        match self {
            Self::Stdio(stdio) => stdio.call(call).await,
            Self::Http(http) => http.call(call).await,
            Self::Sse(sse) => sse.call(call).await,
        }
    }

    /// Asks again what the server offers.
    pub async fn list_tools(&self) -> Result<Tools, String> {
        match self {
            Self::Stdio(stdio) => stdio.list_tools().await,
            Self::Http(http) => http
                .list_tools()
                .await
                .map_err(|unconnected| unconnected.reason),
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

    /// Waits until the connection has ended by itself.
    pub async fn closed(&self) {
        match self {
            Self::Stdio(stdio) => stdio.closed().await,
            Self::Http(http) => http.closed().await,
            Self::Sse(sse) => sse.closed().await,
        }
    }

    /// Waits until the connection has no running calls.
    pub async fn idle(&self) {
        match self {
            Self::Stdio(stdio) => stdio.idle().await,
            Self::Http(http) => http.idle().await,
            Self::Sse(sse) => sse.idle().await,
        }
    }

    /// Why it ended, once it is closed. Whatever is left of it is stopped.
    pub async fn why_it_ended(&self) -> String {
        match self {
            Self::Stdio(stdio) => stdio.why_it_ended().await,
            Self::Http(http) => http.why_it_ended(),
            Self::Sse(sse) => sse.why_it_ended(),
        }
    }

    /// Waits until what an ended server has printed can be read in its ring.
    pub async fn drain_stderr(&self) {
        if let Self::Stdio(stdio) = self {
            stdio.last_words().await;
        }
    }

    /// Ends it well: a child is asked to end, calls under way end.
    pub async fn stop(&self) {
        match self {
            Self::Stdio(stdio) => stdio.stop().await,
            Self::Http(http) => http.stop(),
            Self::Sse(sse) => sse.stop(),
        }
    }

    /// Ends it at once.
    pub async fn kill(&self) {
        match self {
            Self::Stdio(stdio) => stdio.kill().await,
            Self::Http(http) => http.stop(),
            Self::Sse(sse) => sse.stop(),
        }
    }

    /// Since when what it printed is its own.
    pub fn started_at(&self) -> u64 {
        match self {
            Self::Stdio(stdio) => stdio.started_at,
            Self::Http(_) | Self::Sse(_) => u64::MAX,
        }
    }

    /// Whether a process of ours is at the other end.
    pub fn has_child(&self) -> bool {
        matches!(self, Self::Stdio(_))
    }
}

/// The secrets of a call as they are merged.
pub fn opened(secrets: &[OpenedSecret]) -> Result<Vec<SecretArgument<'_>>, CallError> {
    let opened = secrets.iter().map(|secret| {
        let value = secret.value.expose().map_err(|_| CallError::BadSecret)?;
        Ok(SecretArgument {
            name: secret.name.as_str(),
            value,
            form: secret.form,
        })
    });
    opened.collect()
}

/// Calls a tool of a server whose replies come back through a mux.
pub async fn call_over(mux: &Arc<Mux>, call: ToolCall<'_>) -> Result<Bytes, CallError> {
    let progress = call.reset_on_progress.then(|| Arc::new(Notify::new()));
    let mut request = mux
        .register(progress.clone())
        .map_err(|Closed| CallError::Closed { begun: false })?;
    let opened = opened(call.secrets)?;
    let frame = CallToolFrame {
        id: request.id,
        tool: call.tool,
        args: call.args,
        secrets: &opened,
        progress: progress.is_some(),
        traceparent: call.traceparent,
        meta: "",
    };
    let frame = frame.frame();
    let exchange = async {
        request
            .send(frame)
            .await
            .map_err(|Closed| CallError::Closed { begun: false })?;
        request
            .answer()
            .await
            .map_err(|Closed| CallError::Closed { begun: true })
    };
    in_time(exchange, progress.as_deref(), call.timeout)
        .await
        .and_then(result)
}

/// The result of a call.
pub fn result(answer: RpcReply) -> Result<Bytes, CallError> {
    match answer {
        RpcReply::Result(result) => Ok(result),
        RpcReply::Error(error) => Err(CallError::Rpc(error)),
        RpcReply::TooLarge => Err(CallError::TooLarge),
    }
}

/// Waits for `exchange`, `limit` at most; where progress counts, `limit` after the last of it.
pub async fn in_time<T>(
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
