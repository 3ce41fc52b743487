//! Calls of tools: their input, their errors and their timeout, for every transport.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::Notify;

use super::frame::{RequestFrame, RequestParams};
use super::host::{NotificationSink, ProgressListener};
use super::mux::{Closed, Mux, RpcReply};
use crate::core::failure::Failure;

/// The parts that every transport needs.
#[derive(Clone)]
pub struct ClientOptions {
    pub sink: Arc<dyn NotificationSink>,
    /// The largest result in bytes (`RESULT_LIMIT`).
    pub result_limit: usize,
}

/// A request of a user as the server receives it.
pub struct UserRequest<'a> {
    pub method: &'static str,
    pub params: RequestParams<'a>,
    /// The value of the header `Mcp-Name`.
    pub name: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    /// The members of an MCP client's `_meta` that the server receives, as a JSON object.
    pub meta: Option<&'a str>,
    pub timeout: Duration,
    /// Each progress notification restarts the timeout.
    pub reset_on_progress: bool,
    /// Receives the progress notifications.
    pub progress: Option<Arc<dyn ProgressListener>>,
}

/// The effects of each progress notification of a call. Without an effect, the call asks for no progress.
#[derive(Clone, Default)]
pub struct ProgressEffects {
    /// Restarts the timeout.
    restart: Option<Arc<Notify>>,
    listener: Option<Arc<dyn ProgressListener>>,
}

impl ProgressEffects {
    /// Returns the effects that a call wants, if it wants any.
    pub fn new(call: &UserRequest<'_>) -> Option<Self> {
        (call.reset_on_progress || call.progress.is_some()).then(|| Self {
            restart: call.reset_on_progress.then(Arc::default),
            listener: call.progress.clone(),
        })
    }

    #[cfg(test)]
    pub fn of_listener(listener: Arc<dyn ProgressListener>) -> Self {
        Self {
            restart: None,
            listener: Some(listener),
        }
    }

    /// Handles the `params` of a notification.
    pub fn apply(&self, params: &RawValue) {
        if let Some(restart) = &self.restart {
            restart.notify_one();
        }
        if let Some(listener) = &self.listener {
            listener.on_progress(params);
        }
    }

    fn restart(&self) -> Option<&Notify> {
        self.restart.as_deref()
    }
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

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        Self {
            reason: failure.message.clone(),
            denied: Some(Box::new(failure)),
        }
    }
}

impl From<&str> for ConnectError {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

/// Calls a tool over a mux.
pub async fn call_over(mux: &Arc<Mux>, call: UserRequest<'_>) -> Result<Bytes, CallError> {
    let progress = ProgressEffects::new(&call);
    let mut request = mux
        .register(progress.clone())
        .map_err(|Closed| CallError::Closed { begun: false })?;
    let frame = RequestFrame {
        id: request.id,
        method: call.method,
        params: call.params,
        progress: progress.is_some(),
        traceparent: call.traceparent,
        meta: "",
        client_meta: call.meta,
    };
    let exchange = async {
        let not_begun = |Closed| CallError::Closed { begun: false };
        let space = request.reserve(frame.capacity()).await.map_err(not_begun)?;
        request.send(frame.build(), space).map_err(not_begun)?;
        request
            .reply()
            .await
            .map_err(|Closed| CallError::Closed { begun: true })
    };
    within_timeout(exchange, progress.as_ref(), call.timeout)
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

/// Runs `exchange` for at most `limit`. Each progress notification restarts the limit, if the call wants that.
pub async fn within_timeout<T>(
    exchange: impl Future<Output = Result<T, CallError>>,
    progress: Option<&ProgressEffects>,
    limit: Duration,
) -> Result<T, CallError> {
    let Some(restart) = progress.and_then(ProgressEffects::restart) else {
        return tokio::time::timeout(limit, exchange)
            .await
            .map_err(|_| CallError::TimedOut)?;
    };
    let mut exchange = std::pin::pin!(exchange);
    loop {
        tokio::select! {
            done = &mut exchange => return done,
            () = restart.notified() => {}
            () = tokio::time::sleep(limit) => return Err(CallError::TimedOut),
        }
    }
}
