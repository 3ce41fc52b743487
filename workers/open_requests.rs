//! Requests of servers to the clients of running calls, and the answers that arrive at any facade.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use uuid::Uuid;

use super::mcp::ClientAsker;
use super::mcp::pause::CallPause;
use super::redact::Redactor;
use crate::core::ids::WorkerId;
use crate::core::json_object::push_json_text;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::input_required::{ClientMethod, ELICITATION_COMPLETED};
use crate::core::model::server_request::{
    AnswerDelivery, AnswerRequest, RequestAddress, ServerRequest,
};
use crate::core::names::UserName;
use crate::ports::bus::InterimSender;
use crate::ports::interim::MAX_MESSAGE;
use crate::telemetry::metrics::Metrics;

/// The most requests that wait for the client of one call.
const MAX_OPEN: usize = 8;
/// The longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The longest wait for all answers of one call.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(10 * 60);
/// JSON-RPC 2.0: the request failed.
const INTERNAL_ERROR: i64 = -32603;
/// JSON-RPC 2.0: the receiver has no such method.
const METHOD_NOT_FOUND: i64 = -32601;

/// All calls of this worker whose clients can be asked.
#[derive(Default)]
pub struct OpenRequests(Mutex<HashMap<Uuid, AskingCall>>);

struct AskingCall {
    user: UserName,
    next: u32,
    waiting: HashMap<u32, oneshot::Sender<AnswerRequest>>,
}

impl OpenRequests {
    /// Gives an answer to the call that waits for it, once.
    pub(super) fn deliver(&self, answer: AnswerRequest) -> AnswerDelivery {
        let mut calls = self.0.lock();
        let waiting = calls
            .get_mut(&answer.address.call)
            .filter(|call| call.user == answer.user)
            .and_then(|call| call.waiting.remove(&answer.address.number));
        drop(calls);
        match waiting.map(|waiting| waiting.send(answer)) {
            Some(Ok(())) => AnswerDelivery::Taken,
            _ => AnswerDelivery::Gone,
        }
    }

    /// Opens a request. Returns `None` if the call has ended or too many of its requests are open.
    fn open(&self, call: Uuid) -> Option<(u32, oneshot::Receiver<AnswerRequest>)> {
        let mut calls = self.0.lock();
        let call = calls.get_mut(&call)?;
        // A request whose wait has ended is not open any more.
        call.waiting.retain(|_, waiting| !waiting.is_closed());
        if call.waiting.len() >= MAX_OPEN {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        call.next += 1;
        call.waiting.insert(call.next, sender);
        Some((call.next, receiver))
    }
}

/// The client of one call, as its server may ask it.
pub(super) struct CallClient {
    open: Arc<OpenRequests>,
    worker: WorkerId,
    call: Uuid,
    capabilities: ClientCapabilities,
    interim: InterimSender,
    redactor: Arc<Redactor>,
    metrics: Arc<Metrics>,
    pause: CallPause,
    /// The room for requests on the stream of the call.
    slots: Arc<Semaphore>,
}

/// Ends the requests of a call when it is dropped.
pub(super) struct CallClientGuard(Arc<CallClient>);

impl CallClientGuard {
    pub(super) fn client(&self) -> &Arc<CallClient> {
        &self.0
    }
}

impl Drop for CallClientGuard {
    fn drop(&mut self) {
        self.0.open.0.lock().remove(&self.0.call);
    }
}

/// The parts of a call that ask its client.
pub(super) struct CallClientParts {
    pub open: Arc<OpenRequests>,
    pub worker: WorkerId,
    pub user: UserName,
    pub capabilities: ClientCapabilities,
    pub interim: InterimSender,
    /// Masks what the client of this user must not see.
    pub redactor: Arc<Redactor>,
    pub metrics: Arc<Metrics>,
}

impl CallClient {
    /// Lets the server of a call ask the client until the guard is dropped.
    pub(super) fn begin(parts: CallClientParts) -> CallClientGuard {
        let call = Uuid::new_v4();
        let asking = AskingCall {
            user: parts.user,
            next: 0,
            waiting: HashMap::new(),
        };
        parts.open.0.lock().insert(call, asking);
        CallClientGuard(Arc::new(Self {
            open: parts.open,
            worker: parts.worker,
            call,
            capabilities: parts.capabilities,
            interim: parts.interim,
            redactor: parts.redactor,
            metrics: parts.metrics,
            pause: CallPause::default(),
            slots: Arc::new(Semaphore::new(MAX_OPEN)),
        }))
    }

    /// Asks the client, and returns its answer.
    ///
    /// # Errors
    /// Returns the JSON-RPC error for the server, with the outcome for the metrics.
    pub(super) async fn ask(
        &self,
        method: ClientMethod,
        params: Option<&RawValue>,
    ) -> Result<AnswerRequest, Refusal> {
        // A cancelled call drops this future while it waits.
        let mut counted = CountedRequest {
            metrics: &self.metrics,
            method,
            outcome: Refusal::CALL_ENDED.outcome,
        };
        let answered = self.send_and_wait(method, params).await;
        counted.outcome = match &answered {
            Ok(_) => "answered",
            Err(refusal) => refusal.outcome,
        };
        answered
    }

    /// Returns a message of the server to the client, with masked parameters, or `None` if they are too large to be sent.
    fn message(&self, number: u32, method: &str, params: Option<&RawValue>) -> Option<Bytes> {
        // The size comes first, because masking a large text takes long.
        if params.is_some_and(|params| params.get().len() > MAX_MESSAGE) {
            return None;
        }
        let message = ServerRequest {
            address: RequestAddress {
                worker: self.worker,
                call: self.call,
                number,
            },
            method: method.to_owned(),
            params: params.and_then(|params| {
                RawValue::from_string(self.redactor.mask_json(params.get())).ok()
            }),
        };
        serde_json::to_vec(&message).ok().map(Bytes::from)
    }

    async fn send_and_wait(
        &self,
        method: ClientMethod,
        params: Option<&RawValue>,
    ) -> Result<AnswerRequest, Refusal> {
        if !self.capabilities.has(method.needs(params)) {
            return Err(Refusal::NOT_DECLARED);
        }
        let (number, answer) = self.open.open(self.call).ok_or(Refusal::TOO_MANY)?;
        let request = self.message(number, method.as_str(), params);
        let request = request.ok_or(Refusal::NOT_SENT)?;
        let _pause = self.pause.begin();
        if !self.interim.send_request(request) {
            return Err(Refusal::NOT_SENT);
        }
        let left = CALL_LIMIT.saturating_sub(self.pause.total());
        match tokio::time::timeout(left.min(ANSWER_LIMIT), answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Refusal::CALL_ENDED),
            Err(_) => Err(Refusal::TOO_LATE),
        }
    }
}

/// Counts a request with its outcome when it is dropped.
struct CountedRequest<'a> {
    metrics: &'a Metrics,
    method: ClientMethod,
    /// The label `outcome` of the metric.
    outcome: &'static str,
}

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        let method = self.method.as_str();
        self.metrics.count_server_request(method, self.outcome);
    }
}

/// Why a client was not asked, or gave no answer.
#[derive(Debug)]
pub(super) struct Refusal {
    code: i64,
    pub sentence: &'static str,
    /// The label `outcome` of the metric.
    outcome: &'static str,
}

impl Refusal {
    const NOT_DECLARED: Self = Self {
        code: METHOD_NOT_FOUND,
        sentence: "the client has not declared that it can answer",
        outcome: "undeclared",
    };
    const TOO_MANY: Self = Self::internal("too many requests to the client are open", "refused");
    const NOT_SENT: Self = Self::internal("the request could not be sent to the client", "refused");
    const CALL_ENDED: Self = Self::internal("the call of the client has ended", "ended");
    const TOO_LATE: Self = Self::internal("the client did not answer in time", "timeout");

    const fn internal(sentence: &'static str, outcome: &'static str) -> Self {
        Self {
            code: INTERNAL_ERROR,
            sentence,
            outcome,
        }
    }
}

#[async_trait]
impl ClientAsker for CallClient {
    async fn answer(&self, method: ClientMethod, params: Option<&RawValue>) -> String {
        match self.ask(method, params).await {
            Ok(AnswerRequest {
                result: Some(result),
                ..
            }) => format!(r#""result":{}"#, result.get()),
            Ok(AnswerRequest {
                error: Some(error), ..
            }) => format!(r#""error":{}"#, error.get()),
            Ok(_) => r#""result":{}"#.to_owned(),
            Err(refusal) => {
                let mut message = String::new();
                push_json_text(&mut message, refusal.sentence);
                format!(r#""error":{{"code":{},"message":{message}}}"#, refusal.code)
            }
        }
    }

    fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    fn elicitation_completed(&self, params: &RawValue) {
        if !self.capabilities.has(ClientCapabilities::ELICITATION_URL) {
            return;
        }
        // A notification has no number. It may be lost, because the call goes on without it.
        if let Some(message) = self.message(0, ELICITATION_COMPLETED, Some(params)) {
            self.interim.send_request(message);
        }
    }

    fn capabilities(&self) -> ClientCapabilities {
        self.capabilities
    }

    fn pause(&self) -> &CallPause {
        &self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::bus::{Interim, InterimReceiver, interim_channel};
    use crate::time::clock::monotonic;

    fn user(name: &str) -> UserName {
        name.parse().expect("a name")
    }

    struct Asked {
        open: Arc<OpenRequests>,
        client: CallClientGuard,
        receiver: InterimReceiver,
    }

    fn begin() -> Asked {
        let (interim, receiver) = interim_channel();
        let open = Arc::<OpenRequests>::default();
        let client = CallClient::begin(CallClientParts {
            open: open.clone(),
            worker: WorkerId(Uuid::from_u128(1)),
            user: user("ana"),
            capabilities: ClientCapabilities::ROOTS,
            interim,
            redactor: Arc::default(),
            metrics: Metrics::new(),
        });
        Asked {
            open,
            client,
            receiver,
        }
    }

    impl Asked {
        fn address(&mut self) -> RequestAddress {
            let Some(Interim::Request(request)) = self.receiver.try_recv() else {
                panic!("no request");
            };
            let request: ServerRequest = serde_json::from_slice(&request).expect("JSON");
            request.address
        }

        fn deliver(&self, address: RequestAddress, name: &str) -> AnswerDelivery {
            self.open.deliver(AnswerRequest {
                address,
                user: user(name),
                result: RawValue::from_string("{}".into()).ok(),
                error: None,
            })
        }

        async fn ask(&self) -> String {
            self.client
                .client()
                .answer(ClientMethod::ListRoots, None)
                .await
        }
    }

    #[tokio::test]
    async fn an_answer_is_delivered_once_and_only_to_its_user() {
        let mut asked = begin();
        let client = asked.client.client().clone();
        let mut asking = Box::pin(client.answer(ClientMethod::ListRoots, None));
        assert!(futures::poll!(&mut asking).is_pending());
        let address = asked.address();
        assert_eq!(asked.deliver(address, "ben"), AnswerDelivery::Gone);
        assert_eq!(asked.deliver(address, "ana"), AnswerDelivery::Taken);
        assert_eq!(asked.deliver(address, "ana"), AnswerDelivery::Gone);
        assert_eq!(asking.await, r#""result":{}"#);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_is_an_error_after_five_minutes() {
        let mut asked = begin();
        let start = monotonic();
        assert!(asked.ask().await.contains("did not answer in time"));
        assert_eq!(start.elapsed(), ANSWER_LIMIT);
        let address = asked.address();
        assert_eq!(asked.deliver(address, "ana"), AnswerDelivery::Gone);
        assert!(asked.ask().await.contains("in time"));
        assert!(asked.ask().await.contains("in time"));
        assert_eq!(
            start.elapsed(),
            CALL_LIMIT,
            "all answers of a call have a limit too"
        );
    }

    #[tokio::test]
    async fn the_requests_of_a_call_end_with_it_and_are_limited() {
        let asked = begin();
        let client = asked.client.client().clone();
        let asking: Vec<_> = (0..MAX_OPEN)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.answer(ClientMethod::ListRoots, None).await })
            })
            .collect();
        while asked.open.0.lock()[&client.call].waiting.len() < MAX_OPEN {
            tokio::task::yield_now().await;
        }
        assert!(asked.ask().await.contains("too many requests"));
        drop(asked.client);
        for asking in asking {
            assert!(asking.await.expect("an answer").contains("has ended"));
        }
        assert!(asked.open.0.lock().is_empty());
    }

    #[tokio::test]
    async fn a_client_is_asked_only_within_its_capabilities() {
        let mut asked = begin();
        let client = asked.client.client().clone();
        let answer = client.answer(ClientMethod::Sample, None).await;
        assert!(answer.contains("-32601"), "{answer}");
        assert!(asked.receiver.try_recv().is_none());
    }
}
