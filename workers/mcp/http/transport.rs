//! One message to a server and its answer, which comes as JSON or among the events of a stream. A stream that is
//! cut off is taken up again where the server can.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::{Notify, Semaphore};

use super::endpoint::{HttpEndpoint, RedactionGuard, SendError};
use super::protocol::{EVENT_STREAM, ProtocolContext, SESSION_ID};
use super::sse::{SseError, SseReader};
use crate::core::failure::Failure;
use crate::core::model::remote::ReconnectionOptions;
use crate::workers::http_client::StreamedResponse;
use crate::workers::mcp::connection::ConnectError;
use crate::workers::mcp::jsonrpc::{NotificationSink, RpcMessage, call_id, progress_of, subslice};
use crate::workers::mcp::mux::RpcReply;
use crate::workers::runtime::log_buffer::shorten;

/// Room for what stands around a result.
const AROUND: usize = 64 * 1024;
/// Of an answer that is no success, how much is read.
const REFUSAL: usize = 64 * 1024;
/// How long a message may take that nobody waits for.
const ASIDE: Duration = Duration::from_secs(10);
/// The server's questions that are answered at once.
const QUESTIONS: usize = 16;
/// However small a pause a server asks for.
const SHORTEST: Duration = Duration::from_millis(20);

/// A request of ours.
pub struct OutgoingRequest<'a> {
    pub id: u64,
    pub body: Bytes,
    pub method: &'static str,
    /// The tool it is about.
    pub name: Option<&'a str>,
    pub progress: Option<&'a Notify>,
    /// What its arguments add to the headers.
    pub mirrored: Vec<(HeaderName, HeaderValue)>,
}

/// What came back.
pub struct Received {
    pub status: StatusCode,
    pub answer: RpcReply,
    /// The session that the answer names.
    pub session: Option<HeaderValue>,
}

/// Why no answer came back.
#[derive(Debug)]
pub enum TransportError {
    /// The server cannot be reached; nothing was begun.
    Unreachable(String),
    /// The session is not known any more; nothing was begun.
    Stale,
    /// Access to it has to be given first, or cannot be had at the moment; nothing was begun.
    Denied(Box<Failure>),
    /// This request needs more access than was given; nothing was begun.
    TooNarrow(Box<Failure>),
    /// What came back is no MCP, or broke off.
    Wrong {
        reason: String,
        begun: bool,
        status: Option<StatusCode>,
    },
}

impl TransportError {
    pub fn reason(self) -> String {
        match self {
            Self::Unreachable(reason) | Self::Wrong { reason, .. } => reason,
            Self::Stale => "it does not know its session any more".into(),
            Self::Denied(failure) | Self::TooNarrow(failure) => failure.message,
        }
    }
}

impl From<TransportError> for ConnectError {
    fn from(trouble: TransportError) -> Self {
        match trouble {
            TransportError::Denied(failure) => Self {
                reason: failure.message.clone(),
                denied: Some(failure),
            },
            trouble => trouble.reason().into(),
        }
    }
}

impl From<SendError> for TransportError {
    fn from(unsent: SendError) -> Self {
        let wrong = |reason, begun| Self::Wrong {
            reason,
            begun,
            status: None,
        };
        match unsent {
            SendError::Unreachable(reason) => Self::Unreachable(reason),
            SendError::Broken(reason) => {
                wrong(format!("it broke the connection off: {reason}"), true)
            }
            SendError::Refused(reason) => wrong(reason, false),
            SendError::Denied(failure) => Self::Denied(failure),
        }
    }
}

fn wrong(reason: String, status: StatusCode) -> TransportError {
    TransportError::Wrong {
        reason,
        begun: !status.is_client_error(),
        status: Some(status),
    }
}

/// What every exchange with one server needs.
pub struct HttpTransport {
    pub endpoint: HttpEndpoint,
    pub hearing: NotificationSink,
    pub result_limit: usize,
    pub options: ReconnectionOptions,
    questions: Arc<Semaphore>,
}

impl HttpTransport {
    pub fn new(
        endpoint: HttpEndpoint,
        hearing: NotificationSink,
        result_limit: usize,
        options: ReconnectionOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            hearing,
            result_limit,
            options,
            questions: Arc::new(Semaphore::new(QUESTIONS)),
        })
    }

    /// Sends a request and waits for its answer.
    pub async fn send_request(
        self: &Arc<Self>,
        talk: &ProtocolContext,
        message: &OutgoingRequest<'_>,
    ) -> Result<Received, TransportError> {
        let mut headers = talk.headers(message.method, message.name);
        if !message.mirrored.is_empty() {
            headers.to_mut().extend(message.mirrored.iter().cloned());
        }
        let (mut response, _hidden) = self.post(&headers, message.body.clone()).await?;
        let (status, kind) = (response.status(), content_type(&response));
        let session = response.headers().get(SESSION_ID).cloned();
        let answer = if !status.is_success() {
            self.classify_refusal(talk, message, response).await?
        } else if kind == EVENT_STREAM {
            self.read_stream(talk, message, response).await?
        } else if kind == "application/json" {
            match read_body(&mut response, self.result_limit + AROUND).await {
                Ok(Some(body)) => self.find(message, &body).ok_or_else(|| {
                    wrong(
                        format!(
                            "answered {} with JSON that is no answer to it",
                            message.method
                        ),
                        status,
                    )
                })?,
                Ok(None) => RpcReply::TooLarge,
                Err(error) => return Err(cut_off(message, &error)),
            }
        } else {
            let what = if kind.is_empty() {
                "nothing".to_owned()
            } else {
                shorten(&kind, 100).to_owned()
            };
            return Err(wrong(
                format!(
                    "answered {} with {what}, which is no MCP (HTTP {status})",
                    message.method
                ),
                status,
            ));
        };
        Ok(Received {
            status,
            answer,
            session,
        })
    }

    /// Tells the server something that has no answer.
    pub async fn send_notification(
        &self,
        talk: &ProtocolContext,
        method: &'static str,
        body: Bytes,
    ) -> Result<StatusCode, TransportError> {
        Ok(self
            .post(&talk.headers(method, None), body)
            .await?
            .0
            .status())
    }

    /// The same, when nobody waits for it.
    pub fn spawn_notification(
        self: &Arc<Self>,
        talk: ProtocolContext,
        method: &'static str,
        body: Bytes,
    ) {
        let wire = self.clone();
        tokio::spawn(async move {
            tokio::time::timeout(ASIDE, wire.send_notification(&talk, method, body))
                .await
                .is_ok()
        });
    }

    async fn post(
        &self,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<(StreamedResponse, RedactionGuard), SendError> {
        self.endpoint
            .send(Method::POST, &self.endpoint.place, headers, body)
            .await
    }

    /// Asks for the server's own stream, or for the rest of one that was cut off.
    pub async fn open_stream(
        &self,
        talk: &ProtocolContext,
        last: Option<&str>,
    ) -> Result<(SseReader, RedactionGuard), TransportError> {
        let headers = talk.stream_headers(last);
        let (response, hidden) = self
            .endpoint
            .send(Method::GET, &self.endpoint.place, &headers, Bytes::new())
            .await?;
        let (status, kind) = (response.status(), content_type(&response));
        if !status.is_success() || kind != EVENT_STREAM {
            return Err(wrong(format!("HTTP {status}"), status));
        }
        Ok((SseReader::new(response, self.result_limit + AROUND), hidden))
    }

    /// An answer that is no success may still be one to our request.
    async fn classify_refusal(
        &self,
        talk: &ProtocolContext,
        message: &OutgoingRequest<'_>,
        mut response: StreamedResponse,
    ) -> Result<RpcReply, TransportError> {
        let status = response.status();
        if let Some(failure) = self.endpoint.too_narrow(&response) {
            return Err(TransportError::TooNarrow(Box::new(failure)));
        }
        let body = read_body(&mut response, REFUSAL)
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        let line = serde_json::from_slice::<RpcMessage>(&body)
            .ok()
            .filter(|line| line.method.is_none());
        let ours = line.as_ref().and_then(|line| line.id.and_then(call_id)) == Some(message.id);
        let stale = status == StatusCode::NOT_FOUND || (status == StatusCode::BAD_REQUEST && !ours);
        if talk.has_session() && stale {
            return Err(TransportError::Stale);
        }
        // Some tell what is wrong before they have read whose request it was.
        let nobodys = line
            .as_ref()
            .is_some_and(|line| line.id.is_none_or(|id| id.get() == "null"));
        match line.and_then(|line| line.error) {
            Some(error) if ours || nobodys => Ok(RpcReply::Error(subslice(&body, error))),
            _ => Err(wrong(
                format!("answered {} with HTTP {status}", message.method),
                status,
            )),
        }
    }

    /// Reads a stream until the answer is there.
    async fn read_stream(
        self: &Arc<Self>,
        talk: &ProtocolContext,
        message: &OutgoingRequest<'_>,
        response: StreamedResponse,
    ) -> Result<RpcReply, TransportError> {
        let (mut events, mut hidden) = (SseReader::new(response, self.result_limit + AROUND), None);
        let (mut last, mut retry, mut attempt) = (None, None, 0);
        loop {
            let mut why = match events.next().await {
                Ok(Some(event)) => {
                    attempt = 0;
                    if event.name == "message"
                        && let Some(answer) = self.on_message(talk, &event.data, Some(message))?
                    {
                        return Ok(answer);
                    }
                    continue;
                }
                Ok(None) => "it ended its stream before the answer".to_owned(),
                Err(SseError::TooLong) => return Ok(RpcReply::TooLarge),
                Err(SseError::Cut(why)) => why,
            };
            last = events.last_id().map(str::to_owned).or(last);
            retry = events.retry().or(retry);
            drop(hidden.take());
            // What is resumed is the answer: the request itself is never sent again.
            (events, hidden) = loop {
                let Some(last) = last
                    .as_deref()
                    .filter(|_| !talk.stateless && attempt < self.options.max_retries)
                else {
                    return Err(cut_off(message, &why));
                };
                tokio::time::sleep(self.pause(attempt, retry)).await;
                attempt += 1;
                match self.open_stream(talk, Some(last)).await {
                    Ok((events, hidden)) => break (events, Some(hidden)),
                    Err(TransportError::Wrong {
                        reason,
                        status: Some(status),
                        ..
                    }) if status.is_client_error() => {
                        return Err(cut_off(
                            message,
                            &format!("it cannot be resumed ({reason})"),
                        ));
                    }
                    Err(trouble) => why = trouble.reason(),
                }
            };
        }
    }

    /// The pause before an attempt to take a stream up again.
    pub fn pause(&self, attempt: u32, retry: Option<u64>) -> Duration {
        let ReconnectionOptions {
            initial_reconnection_delay: first,
            max_reconnection_delay: longest,
            ..
        } = self.options;
        let factor = self
            .options
            .reconnection_delay_grow_factor
            .powi(attempt.min(1000) as i32);
        let pause = retry
            .map_or(first as f64 * factor, |retry| retry as f64)
            .min(longest as f64);
        Duration::from_millis(pause as u64).max(SHORTEST)
    }

    /// Takes in one message of a stream; the answer to `message`, if it is that.
    pub fn on_message(
        self: &Arc<Self>,
        talk: &ProtocolContext,
        data: &Bytes,
        message: Option<&OutgoingRequest<'_>>,
    ) -> Result<Option<RpcReply>, TransportError> {
        if data.trim_ascii().is_empty() {
            // Its id alone matters: the stream can be resumed from here.
            return Ok(None);
        }
        let Ok(line) = serde_json::from_slice::<RpcMessage>(data) else {
            let text = String::from_utf8_lossy(data);
            let text = self.hearing.redactor.mask(&text);
            self.hearing.note(&format!(
                "the server sent an event that is no JSON-RPC message: {}",
                shorten(&text, 200)
            ));
            let named = |message: &&OutgoingRequest<'_>| {
                memchr::memmem::find(data, format!("\"c{}\"", message.id).as_bytes())
            };
            return match message.filter(|message| named(message).is_some()) {
                Some(message) => Err(cut_off(message, "its answer is no JSON")),
                None => Ok(None),
            };
        };
        match (line.method.as_deref(), line.id) {
            (Some("notifications/progress"), None) => {
                if let (Some(message), Some(id)) = (message, line.params.and_then(progress_of))
                    && let Some(progress) = message.progress.filter(|_| id == message.id)
                {
                    progress.notify_one();
                }
                Ok(None)
            }
            (Some(method), None) => {
                self.hearing.notification(method, line.params);
                Ok(None)
            }
            (Some(method), Some(id)) => {
                self.reply(talk, method, id);
                Ok(None)
            }
            (None, _) => Ok(message.and_then(|message| self.answer_of(message, &line, data))),
        }
    }

    /// The answer in a body, which may be a batch (2025-03-26).
    fn find(&self, message: &OutgoingRequest<'_>, body: &Bytes) -> Option<RpcReply> {
        if body.trim_ascii_start().starts_with(b"[") {
            let lines: Vec<RpcMessage> = serde_json::from_slice(body).ok()?;
            return lines
                .iter()
                .find_map(|line| self.answer_of(message, line, body));
        }
        self.answer_of(message, &serde_json::from_slice(body).ok()?, body)
    }

    fn answer_of(
        &self,
        message: &OutgoingRequest<'_>,
        line: &RpcMessage,
        bytes: &Bytes,
    ) -> Option<RpcReply> {
        if line.method.is_some() || line.id.and_then(call_id) != Some(message.id) {
            return None;
        }
        Some(match (line.result, line.error) {
            (Some(result), _) if result.get().len() > self.result_limit => RpcReply::TooLarge,
            (Some(result), _) => RpcReply::Result(subslice(bytes, result)),
            (None, Some(error)) => RpcReply::Error(subslice(bytes, error)),
            (None, None) => RpcReply::Result(Bytes::from_static(b"null")),
        })
    }

    /// Answers a question of the server, as a client without any abilities does.
    fn reply(self: &Arc<Self>, talk: &ProtocolContext, method: &str, id: &RawValue) {
        let Ok(permit) = self.questions.clone().try_acquire_owned() else {
            self.hearing
                .note("the server asked too many questions at once; one was dropped");
            return;
        };
        let outcome = match method {
            "ping" => r#""result":{}"#,
            "roots/list" => r#""result":{"roots":[]}"#,
            "elicitation/create" => r#""result":{"action":"decline"}"#,
            _ => r#""error":{"code":-32601,"message":"this client has no such method"}"#,
        };
        let body = Bytes::from(format!(
            r#"{{"jsonrpc":"2.0","id":{},{outcome}}}"#,
            id.get()
        ));
        let (wire, talk) = (self.clone(), talk.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::time::timeout(ASIDE, wire.send_notification(&talk, "", body))
                .await
                .is_ok()
        });
    }
}

fn cut_off(message: &OutgoingRequest<'_>, why: &str) -> TransportError {
    TransportError::Wrong {
        reason: format!("its answer to {} was cut off: {why}", message.method),
        begun: true,
        status: None,
    }
}

pub fn content_type(response: &StreamedResponse) -> String {
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    kind.split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// A whole body, or nothing where it is larger than that.
async fn read_body(response: &mut StreamedResponse, limit: usize) -> Result<Option<Bytes>, String> {
    if response
        .length()
        .is_some_and(|length| length > limit as u64)
    {
        return Ok(None);
    }
    let mut first = Bytes::new();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if first.len() + body.len() + chunk.len() > limit {
            return Ok(None);
        }
        if first.is_empty() && body.is_empty() {
            // Most answers are one chunk, and are not copied.
            first = chunk;
        } else {
            body.extend_from_slice(&first);
            first = Bytes::new();
            body.extend_from_slice(&chunk);
        }
    }
    Ok(Some(if body.is_empty() { first } else { body.into() }))
}
