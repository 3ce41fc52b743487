//! Calls of tools: their input, their errors and their timeout, for every transport.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::frame::{RequestFrame, RequestParams};
use super::host::{ClientAsker, LogListener, NotificationSink, ProgressListener};
use super::mux::{Closed, Mux, PendingRequest, RpcReply};
use super::pause::CallPause;
use super::request_meta::child_meta;
use super::resource_watch::ResourceWatch;
use crate::core::failure::Failure;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::version::Era;
use crate::time::clock::monotonic;

/// The parts that every transport needs.
#[derive(Clone)]
pub struct ClientOptions {
    pub sink: Arc<dyn NotificationSink>,
    /// The resources that clients watch through the connection.
    pub watch: Arc<ResourceWatch>,
    /// The largest result in bytes (`RESULT_LIMIT`).
    pub result_limit: usize,
}

/// A request of a user as the server receives it.
pub struct UserRequest<'a> {
    pub method: &'static str,
    pub params: RequestParams<'a>,
    /// The input that the server has asked for: members of `params`, as checked JSON. Only servers of 2026-07-28 ask so.
    pub input: &'a str,
    /// The capabilities of the MCP client that waits.
    pub capabilities: ClientCapabilities,
    /// Asks the client, if it answers requests while it waits.
    pub asker: Option<Arc<dyn ClientAsker>>,
    /// The value of the header `Mcp-Name`.
    pub name: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    /// The members of an MCP client's `_meta` that the server receives, as a JSON object.
    pub meta: Option<&'a str>,
    /// The call must have its result by then. The time in which a server waits for the client does not count.
    pub deadline: Instant,
    /// The time limit after a progress notification that restarts it.
    pub limit: Duration,
    /// Each progress notification restarts the time limit.
    pub reset_on_progress: bool,
    /// Receives the progress notifications.
    pub progress: Option<Arc<dyn ProgressListener>>,
    /// Receives the log lines that arrive on the stream of this call. Only a server behind a URL has such a stream.
    pub log: Option<Arc<dyn LogListener>>,
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

    /// Returns the effects that only inform a listener.
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
    /// Earlier calls of a server that runs one call at a time took the whole time limit. The call was not sent.
    NoTurn,
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

/// Sends a request of a user over a mux to a server of this era.
pub async fn call_over(
    mux: &Arc<Mux>,
    era: Era,
    call: &UserRequest<'_>,
) -> Result<Bytes, CallError> {
    let begun = BegunCall::register(mux, call)?;
    begun.exchange(era, call, None).await
}

/// A call that has its request id.
pub struct BegunCall {
    request: PendingRequest,
    progress: Option<ProgressEffects>,
}

impl BegunCall {
    pub fn register(mux: &Arc<Mux>, call: &UserRequest<'_>) -> Result<Self, CallError> {
        let progress = ProgressEffects::new(call);
        let request = mux
            .register(progress.clone())
            .map_err(|Closed| CallError::Closed { begun: false })?;
        Ok(Self { request, progress })
    }

    pub fn id(&self) -> u64 {
        self.request.id
    }

    /// Sends the request and waits for its reply within the time limit of the call, which pauses while `asker` asks the
    /// client.
    pub async fn exchange(
        mut self,
        era: Era,
        call: &UserRequest<'_>,
        asker: Option<&dyn ClientAsker>,
    ) -> Result<Bytes, CallError> {
        let limit = TimeLimit::for_call(call);
        let request = &mut self.request;
        let progress = self.progress.as_ref();
        let meta = child_meta(era, call.capabilities);
        let frame = RequestFrame {
            id: request.id,
            method: call.method,
            params: call.params,
            more: call.input,
            progress: progress.is_some(),
            traceparent: call.traceparent,
            meta: &meta,
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
        within_timeout(pin!(exchange), progress, asker, limit)
            .await
            .and_then(call_result)
    }
}

/// Returns the result of a call.
pub fn call_result(reply: RpcReply) -> Result<Bytes, CallError> {
    match reply {
        RpcReply::Result(result) => Ok(result),
        RpcReply::Error(error) => Err(CallError::Rpc(error)),
        RpcReply::TooLarge => Err(CallError::TooLarge),
    }
}

/// The time of a call.
#[derive(Clone, Copy)]
pub struct TimeLimit {
    deadline: Instant,
    /// The time after a progress notification that restarts the limit.
    after_progress: Duration,
}

impl TimeLimit {
    pub fn for_call(call: &UserRequest<'_>) -> Self {
        Self {
            deadline: call.deadline,
            after_progress: call.limit,
        }
    }
}

/// Runs `exchange` within a time limit. Each progress notification restarts the limit, if the call wants that. The limit
/// pauses while the client is asked. `exchange` is pinned by the caller, so that the future of a call holds it once.
pub async fn within_timeout<T>(
    mut exchange: Pin<&mut impl Future<Output = Result<T, CallError>>>,
    progress: Option<&ProgressEffects>,
    asker: Option<&dyn ClientAsker>,
    limit: TimeLimit,
) -> Result<T, CallError> {
    let restart = progress.and_then(ProgressEffects::restart);
    if restart.is_none() && asker.is_none() {
        return tokio::time::timeout_at(limit.deadline, exchange)
            .await
            .map_err(|_| CallError::TimedOut)?;
    }
    let pause = asker.map(ClientAsker::pause);
    let paused = || pause.map_or(Duration::ZERO, CallPause::total);
    let mut deadline = limit.deadline;
    let mut paused_before = paused();
    loop {
        let is_paused = pause.is_some_and(CallPause::is_paused);
        let end = deadline + (paused() - paused_before);
        tokio::select! {
            done = exchange.as_mut() => return done,
            () = notified(restart) => {
                deadline = monotonic() + limit.after_progress;
                paused_before = paused();
            }
            () = changed(pause) => {}
            () = tokio::time::sleep_until(end), if !is_paused => return Err(CallError::TimedOut),
        }
    }
}

async fn notified(restart: Option<&Notify>) {
    match restart {
        Some(restart) => restart.notified().await,
        None => std::future::pending().await,
    }
}

async fn changed(pause: Option<&CallPause>) {
    match pause {
        Some(pause) => pause.changed().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use tokio::sync::OwnedSemaphorePermit;

    use super::*;
    use crate::core::mcp::input_required::ClientMethod;

    #[derive(Default)]
    struct SlowClient(CallPause);

    #[async_trait]
    impl ClientAsker for SlowClient {
        async fn answer(&self, _: ClientMethod, _: Option<&RawValue>) -> String {
            let _pause = self.0.begin();
            tokio::time::sleep(Duration::from_secs(100)).await;
            r#""result":{}"#.to_owned()
        }

        fn slot(&self) -> Option<OwnedSemaphorePermit> {
            None
        }

        fn elicitation_completed(&self, _: &RawValue) {}

        fn capabilities(&self) -> ClientCapabilities {
            ClientCapabilities::ROOTS
        }

        fn pause(&self) -> &CallPause {
            &self.0
        }
    }

    /// Runs a call that works, asks its client for 100 s and works again. The call has 10 s.
    async fn run(before: u64, after: u64) -> Result<(), CallError> {
        let client = SlowClient::default();
        let exchange = async {
            tokio::time::sleep(Duration::from_secs(before)).await;
            client.answer(ClientMethod::ListRoots, None).await;
            tokio::time::sleep(Duration::from_secs(after)).await;
            Ok(())
        };
        let time = Duration::from_secs(10);
        let limit = TimeLimit {
            deadline: monotonic() + time,
            after_progress: time,
        };
        within_timeout(pin!(exchange), None, Some(&client), limit).await
    }

    #[tokio::test(start_paused = true)]
    async fn progress_restarts_the_whole_limit_of_a_call() {
        let effects = ProgressEffects {
            restart: Some(Arc::default()),
            listener: None,
        };
        let limit = TimeLimit {
            deadline: monotonic() + Duration::from_secs(1),
            after_progress: Duration::from_secs(10),
        };
        let start = monotonic();
        let exchange = async {
            if let Some(restart) = effects.restart() {
                restart.notify_one();
            }
            std::future::pending::<Result<(), CallError>>().await
        };
        let ended = within_timeout(pin!(exchange), Some(&effects), None, limit).await;
        assert!(matches!(ended, Err(CallError::TimedOut)));
        assert_eq!(start.elapsed(), limit.after_progress);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_of_a_call_pauses_while_its_client_is_asked() {
        assert!(run(4, 5).await.is_ok());
        assert!(matches!(run(4, 7).await, Err(CallError::TimedOut)));
        assert!(matches!(run(11, 0).await, Err(CallError::TimedOut)));
    }
}
