//! The calls of a child that may ask the clients of its calls (`interaction: exclusive`).
//!
//! The requests of a child process name no call. Calls run one at a time, in the order of their arrival, so that each request
//! belongs to the running call. A call that has ended without an answer of the child may still run there. Until the child has
//! answered it, no call begins whose client can be asked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use crate::core::mcp::input_required::{ClientMethod, ELICITATION_COMPLETED, is_question};
use crate::core::mcp::version::Era;
use crate::workers::mcp::call::{BegunCall, CallError, UserRequest};
use crate::workers::mcp::frame::plain;
use crate::workers::mcp::host::{ClientAsker, LogListener};
use crate::workers::mcp::jsonrpc::{LOG_LINE, response};
use crate::workers::mcp::mux::Mux;

/// How long a child may owe the answer of a cancelled call. Then the next call whose client can be asked closes the connection,
/// and the worker starts the child again, because the child may never answer (MCP, Cancellation: a receiver should not).
const OWED_ANSWER: Duration = Duration::from_secs(2);

/// The member of the reply to a request whose call has ended.
const CALL_ENDED: &str = r#""error":{"code":-32603,"message":"the call of the client has ended"}"#;

/// Runs the calls of one child one at a time.
pub struct ExclusiveCalls {
    mux: Arc<Mux>,
    turn: tokio::sync::Mutex<()>,
    running: Mutex<Option<RunningCall>>,
}

/// The receivers of what a child sends during a call.
struct RunningCall {
    id: u64,
    asker: Option<Arc<dyn ClientAsker>>,
    log: Option<Arc<dyn LogListener>>,
}

/// The right to run a call. Dropping it ends the call.
struct Turn<'a> {
    calls: &'a ExclusiveCalls,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.calls.running.lock() = None;
    }
}

/// Why no client was asked.
pub enum NotAsked {
    /// No call runs alone, or its client cannot be asked.
    NoClient,
    /// The request cannot be passed on, or the call has too many of them.
    Refused,
}

impl ExclusiveCalls {
    pub(super) fn new(mux: Arc<Mux>) -> Arc<Self> {
        Arc::new(Self {
            mux,
            turn: tokio::sync::Mutex::default(),
            running: Mutex::default(),
        })
    }

    /// Runs a call when all earlier calls have ended. The wait counts towards the time limit of the call.
    pub(super) async fn call(&self, call: &UserRequest<'_>) -> Result<Bytes, CallError> {
        let waiting = tokio::time::timeout_at(call.deadline, self.turn.lock());
        // Locals are dropped in reverse order: the mux counts a call without an answer before the next call begins.
        let turn = Turn {
            calls: self,
            _turn: waiting.await.map_err(|_| CallError::NoTurn)?,
        };
        if call.asker.is_some() {
            self.wait_for_owed_answers(call.deadline).await?;
        }
        let begun = BegunCall::register(&self.mux, call)?;
        *turn.calls.running.lock() = Some(RunningCall {
            id: begun.id(),
            asker: call.asker.clone(),
            log: call.log.clone(),
        });
        begun
            .exchange(Era::Legacy, call, call.asker.as_deref())
            .await
    }

    /// Waits for the answers of earlier calls until `end` at the latest. A child that owes one for too long is closed.
    async fn wait_for_owed_answers(&self, end: Instant) -> Result<(), CallError> {
        let Some(since) = self.mux.owes_answers_since() else {
            return Ok(());
        };
        let until = since + OWED_ANSWER;
        let answered = tokio::time::timeout_at(until.min(end), self.mux.owed_answers());
        match answered.await {
            Ok(()) => Ok(()),
            Err(_) if end < until => Err(CallError::NoTurn),
            Err(_) => {
                self.mux
                    .replace("it did not answer a cancelled call, so it could ask no client");
                Ok(())
            }
        }
    }

    /// Asks the client of the running call, and sends its answer to the child. The asker limits the number of requests and
    /// their time.
    ///
    /// # Errors
    /// Fails if no client was asked.
    pub fn ask(
        self: &Arc<Self>,
        method: ClientMethod,
        params: Option<&RawValue>,
        id: &RawValue,
    ) -> Result<(), NotAsked> {
        let asked = self.with_running(|call| Some((call.id, call.asker.clone()?)));
        let (call, asker) = asked.ok_or(NotAsked::NoClient)?;
        let slot = params
            .is_none_or(is_question)
            .then(|| asker.slot())
            .flatten()
            .ok_or(NotAsked::Refused)?;
        let calls = self.clone();
        let (params, id) = (params.map(ToOwned::to_owned), id.to_owned());
        tokio::spawn(async move {
            // The child must have room for the reply before the next request has room.
            let _slot = slot;
            let member = asker.answer(method, params.as_deref()).await;
            calls.reply(call, &id, &member).await;
        });
        Ok(())
    }

    /// Replies to a request of the child. The answer of a client must not reach another call, even if the child uses the id of
    /// its request again: after the end of the call, the child gets an error if it still executes the call, and nothing
    /// otherwise.
    async fn reply(&self, call: u64, id: &RawValue, member: &str) {
        let line = response(id, member) + "\n";
        let Ok(space) = self
            .mux
            .reserve(line.len().max(CALL_ENDED.len() + id.get().len() + 64))
            .await
        else {
            return;
        };
        // A call that begins needs this lock before its request is queued.
        let running = self.running.lock();
        let is_running = running.as_ref().is_some_and(|running| running.id == call);
        let line = if is_running {
            line
        } else if self.mux.owes_answer_to(call) {
            response(id, CALL_ENDED) + "\n"
        } else {
            return;
        };
        // If the connection has ended, the child needs no answer.
        let _ = self.mux.enqueue(plain(line.into()), space);
    }

    /// Passes a log line, or the end of an elicitation in URL mode, to the running call.
    pub fn on_notification(&self, method: &str, params: &RawValue) {
        match method {
            LOG_LINE => {
                if let Some(log) = self.with_running(|call| call.log.clone()) {
                    log.on_log(params);
                }
            }
            ELICITATION_COMPLETED => {
                let asker = self.with_running(|call| call.asker.clone());
                if let Some(asker) = asker.filter(|_| is_question(params)) {
                    asker.elicitation_completed(params);
                }
            }
            _ => {}
        }
    }

    /// Returns a part of the call that the child executes now, if it executes no other.
    fn with_running<T>(&self, part: impl FnOnce(&RunningCall) -> Option<T>) -> Option<T> {
        let running = self.running.lock();
        let running = running.as_ref()?;
        self.mux
            .runs_alone(running.id)
            .then(|| part(running))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::poll;
    use tokio::sync::OwnedSemaphorePermit;

    use super::*;
    use crate::core::mcp::capabilities::ClientCapabilities;
    use crate::time::clock::monotonic;
    use crate::workers::mcp::frame::RequestParams;
    use crate::workers::mcp::mux::RpcReply;
    use crate::workers::mcp::pause::CallPause;

    /// A client that answers with its name.
    struct NamedClient {
        name: &'static str,
        slots: Arc<tokio::sync::Semaphore>,
        pause: CallPause,
    }

    #[async_trait]
    impl ClientAsker for NamedClient {
        async fn answer(&self, _: ClientMethod, _: Option<&RawValue>) -> String {
            format!(r#""result":"{}""#, self.name)
        }

        fn slot(&self) -> Option<OwnedSemaphorePermit> {
            self.slots.clone().try_acquire_owned().ok()
        }

        fn elicitation_completed(&self, _: &RawValue) {}

        fn capabilities(&self) -> ClientCapabilities {
            ClientCapabilities::ROOTS
        }

        fn pause(&self) -> &CallPause {
            &self.pause
        }
    }

    fn request(client: Option<&'static str>) -> UserRequest<'static> {
        let asker = client.map(|name| {
            let client = NamedClient {
                name,
                slots: Arc::new(tokio::sync::Semaphore::new(1)),
                pause: CallPause::default(),
            };
            Arc::new(client) as Arc<dyn ClientAsker>
        });
        UserRequest {
            method: "tools/call",
            params: RequestParams::Members(""),
            input: "",
            capabilities: ClientCapabilities::default(),
            asker,
            name: None,
            traceparent: None,
            meta: None,
            deadline: monotonic() + Duration::from_secs(60),
            limit: Duration::from_secs(60),
            reset_on_progress: false,
            progress: None,
            log: None,
        }
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    /// Returns the lines that the child reads now.
    fn read(mux: &Mux) -> Vec<String> {
        let mut batch = vec![];
        mux.fill_batch(&mut batch).expect("open");
        let lines = batch.iter().map(|queued| queued.frame.bytes.clone());
        lines
            .map(|bytes| String::from_utf8(bytes).expect("UTF-8"))
            .collect()
    }

    async fn asked(calls: &Arc<ExclusiveCalls>) -> Vec<String> {
        let asked = calls.ask(ClientMethod::ListRoots, None, &raw("1"));
        if asked.is_err() {
            return vec!["refused".into()];
        }
        tokio::task::yield_now().await;
        read(&calls.mux)
    }

    fn reply() -> RpcReply {
        RpcReply::Result(Bytes::from_static(b"{}"))
    }

    const ANSWER_OF_ANA: &str = "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"ana\"}\n";

    #[tokio::test]
    async fn calls_run_one_at_a_time_and_each_client_is_asked_in_its_own_call() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (ana, ben) = (request(Some("ana")), request(Some("ben")));
        let mut first = Box::pin(calls.call(&ana));
        let mut second = Box::pin(calls.call(&ben));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(
            asked(&calls).await,
            ["refused"],
            "the child has read no call"
        );
        assert_eq!(read(&calls.mux).len(), 1);
        assert_eq!(asked(&calls).await, [ANSWER_OF_ANA]);
        calls.mux.complete(1000, reply());
        assert_eq!(asked(&calls).await, ["refused"], "the call has ended");
        first.await.expect("a result");
        assert!(poll!(&mut second).is_pending());
        assert_eq!(read(&calls.mux).len(), 1);
        assert!(asked(&calls).await[0].contains(r#""result":"ben""#));
        calls.mux.complete(1001, reply());
        second.await.expect("a result");
        assert!(calls.running.lock().is_none());
    }

    #[tokio::test]
    async fn a_call_that_an_unnamed_reply_ended_may_still_run_so_no_other_client_is_asked() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (ana, ben) = (request(Some("ana")), request(Some("ben")));
        let mut first = Box::pin(calls.call(&ana));
        assert!(poll!(&mut first).is_pending());
        read(&calls.mux);
        calls.mux.complete_unnamed(1000, reply());
        first.await.expect("a result");
        let mut next = Box::pin(calls.call(&ben));
        assert!(poll!(&mut next).is_pending());
        assert!(read(&calls.mux).is_empty(), "the next call waits");
        assert_eq!(asked(&calls).await, ["refused"]);
        // The reply with the name of the call ends the wait.
        calls.mux.complete(1000, reply());
        assert!(poll!(&mut next).is_pending());
        assert_eq!(read(&calls.mux).len(), 1);
        assert!(asked(&calls).await[0].contains(r#""result":"ben""#));
    }

    #[tokio::test]
    async fn after_a_cancelled_call_a_call_whose_client_can_be_asked_waits_for_its_answer() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (ana, ben) = (request(Some("ana")), request(Some("ben")));
        let mut cancelled = Box::pin(calls.call(&ben));
        assert!(poll!(&mut cancelled).is_pending());
        read(&calls.mux);
        drop(cancelled);
        let mut next = Box::pin(calls.call(&ana));
        assert!(poll!(&mut next).is_pending());
        assert_eq!(read(&calls.mux).len(), 1, "only the cancellation");
        assert_eq!(asked(&calls).await, ["refused"]);
        calls.mux.complete(1000, reply());
        assert!(poll!(&mut next).is_pending());
        assert_eq!(read(&calls.mux).len(), 1);
        assert_eq!(asked(&calls).await, [ANSWER_OF_ANA]);
        calls.mux.complete(1001, reply());
        next.await.expect("a result");
    }

    #[tokio::test]
    async fn a_cancelled_call_that_was_never_written_is_not_owed() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (ana, ben) = (request(Some("ana")), request(Some("ben")));
        let mut cancelled = Box::pin(calls.call(&ben));
        assert!(poll!(&mut cancelled).is_pending());
        drop(cancelled);
        let mut next = Box::pin(calls.call(&ana));
        assert!(poll!(&mut next).is_pending());
        assert_eq!(read(&calls.mux).len(), 1);
        assert_eq!(asked(&calls).await, [ANSWER_OF_ANA]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_owes_an_answer_is_closed_before_a_call_whose_client_can_be_asked() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (ana, without_asker) = (request(Some("ana")), request(None));
        let mut cancelled = Box::pin(calls.call(&ana));
        assert!(poll!(&mut cancelled).is_pending());
        read(&calls.mux);
        drop(cancelled);
        let mut other = Box::pin(calls.call(&without_asker));
        assert!(poll!(&mut other).is_pending());
        assert_eq!(
            read(&calls.mux).len(),
            2,
            "it needs no client, so it begins"
        );
        drop(other);
        let mut short = request(Some("ana"));
        short.deadline = monotonic() + OWED_ANSWER / 2;
        let refused = calls.call(&short).await;
        assert!(matches!(refused, Err(CallError::NoTurn)), "{refused:?}");
        let start = monotonic();
        let refused = calls.call(&ana).await;
        assert_eq!(start.elapsed(), OWED_ANSWER / 2);
        assert!(
            matches!(refused, Err(CallError::Closed { begun: false })),
            "{refused:?}"
        );
        let reason = calls.mux.close_reason().expect("a reason");
        assert!(reason.contains("cancelled call"), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_waits_for_its_turn_within_its_own_time_limit() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (mut long, short) = (request(None), request(None));
        long.deadline = monotonic() + Duration::from_secs(600);
        let mut running = Box::pin(calls.call(&long));
        assert!(poll!(&mut running).is_pending());
        let start = monotonic();
        let waited = calls.call(&short).await;
        assert!(matches!(waited, Err(CallError::NoTurn)), "{waited:?}");
        assert_eq!(start.elapsed(), short.limit);
    }

    #[tokio::test]
    async fn a_request_that_clients_cannot_read_and_one_request_too_many_are_refused() {
        let calls = ExclusiveCalls::new(Mux::new());
        let ana = request(Some("ana"));
        let mut running = Box::pin(calls.call(&ana));
        assert!(poll!(&mut running).is_pending());
        read(&calls.mux);
        let ask = |params: Option<&RawValue>| calls.ask(ClientMethod::Elicit, params, &raw("1"));
        assert!(matches!(ask(Some(&raw("[1]"))), Err(NotAsked::Refused)));
        assert!(ask(None).is_ok());
        assert!(matches!(ask(None), Err(NotAsked::Refused)), "one slot");
    }

    /// The child asks with the same id in each call, and answers the first call without waiting for the reply.
    #[tokio::test]
    async fn an_answer_that_comes_after_its_call_reaches_no_other_call() {
        let calls = ExclusiveCalls::new(Mux::new());
        let (ana, ben) = (request(Some("ana")), request(Some("ben")));
        let mut first = Box::pin(calls.call(&ana));
        assert!(poll!(&mut first).is_pending());
        read(&calls.mux);
        let id = raw("1");
        assert!(calls.ask(ClientMethod::ListRoots, None, &id).is_ok());
        calls.mux.complete(1000, reply());
        first.await.expect("a result");
        let mut second = Box::pin(calls.call(&ben));
        assert!(poll!(&mut second).is_pending());
        tokio::task::yield_now().await;
        let lines = read(&calls.mux);
        assert_eq!(lines.len(), 1, "only the second call: {lines:?}");
    }

    /// The child waits for the reply before it can answer the cancelled call.
    #[tokio::test]
    async fn a_question_of_a_cancelled_call_gets_an_error() {
        let calls = ExclusiveCalls::new(Mux::new());
        let ana = request(Some("ana"));
        let mut cancelled = Box::pin(calls.call(&ana));
        assert!(poll!(&mut cancelled).is_pending());
        read(&calls.mux);
        assert!(calls.ask(ClientMethod::ListRoots, None, &raw("1")).is_ok());
        drop(cancelled);
        tokio::task::yield_now().await;
        let lines = read(&calls.mux).concat();
        assert!(lines.contains("notifications/cancelled"), "{lines}");
        assert!(
            lines.contains("has ended") && !lines.contains("ana"),
            "{lines}"
        );
    }
}
