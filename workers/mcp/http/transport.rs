//! One message to a server and its reply, which is a JSON body or an event of a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::body::{ContentKind, read_beginning, read_body, unreadable_encoding};
use super::endpoint::{HttpEndpoint, HttpRequest, RedactionGuards, SendError};
use super::protocol::{ProtocolContext, SESSION_ID};
use super::sse::SseReader;
use crate::core::failure::Failure;
use crate::core::model::remote::ReconnectionOptions;
use crate::http_client::StreamedResponse;
use crate::workers::mcp::call::{ConnectError, ProgressEffects};
use crate::workers::mcp::host::{ClientAsker, LogListener, NotificationSink};
use crate::workers::mcp::jsonrpc::{ErrorReply, request_id, subslice};
use crate::workers::mcp::mux::RpcReply;

/// Bytes of a message around its result.
const ENVELOPE: usize = 64 * 1024;
/// Bytes of a response without success that are read.
const REFUSAL_LIMIT: usize = 64 * 1024;
/// Bytes of a body in an error message.
pub(super) const EXCERPT: usize = 200;
/// The longest time for a message that has no caller.
pub(super) const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of the server that are answered at once.
const MAX_SERVER_REQUESTS: usize = 16;

/// A request to the server.
pub struct OutgoingRequest<'a> {
    pub id: u64,
    pub body: Bytes,
    pub method: &'static str,
    /// The value of the header `Mcp-Name`: a tool, a prompt or the URI of a resource.
    pub name: Option<&'a str>,
    pub progress: Option<&'a ProgressEffects>,
    /// Asks the client of the call.
    pub asker: Option<&'a Arc<dyn ClientAsker>>,
    /// Receives the log lines that arrive on the stream of the reply.
    pub log: Option<&'a dyn LogListener>,
    /// Headers that repeat arguments of the call.
    pub param_headers: Vec<(HeaderName, HeaderValue)>,
    /// The access token was refreshed for this request already.
    pub token_is_fresh: bool,
}

/// A reply and the HTTP response that brought it.
pub struct Received {
    pub status: StatusCode,
    pub reply: RpcReply,
    /// The session that the response names.
    pub session: Option<HeaderValue>,
}

/// Why a request has no reply. The texts continue a sentence that begins with the server.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The server cannot be reached and has not received the request.
    #[error("{0}")]
    Unreachable(String),
    /// The server does not know the session and has not executed the request.
    #[error("it does not know its session any more")]
    SessionUnknown,
    /// The server answered with HTTP 401 and has not executed the request.
    #[error("{}", .failure.message)]
    Unauthorized {
        failure: Box<Failure>,
        token_is_fresh: bool,
    },
    /// No access token can be obtained. The server has not received the request.
    #[error("{}", .0.message)]
    Denied(Box<Failure>),
    /// The token needs more scopes for this request. The server has not executed it.
    #[error("{}", .0.message)]
    InsufficientScope(Box<Failure>),
    /// The response is no MCP reply, or it broke off. `begun` says whether the server may have executed the request.
    #[error("{reason}")]
    Protocol {
        reason: String,
        begun: bool,
        /// The HTTP status, if the server refused the request with it.
        status: Option<StatusCode>,
    },
}

impl TransportError {
    /// Returns the error for a response that is no reply.
    pub fn protocol(reason: String, status: StatusCode) -> Self {
        Self::Protocol {
            reason,
            begun: !status.is_client_error(),
            status: Some(status),
        }
    }

    /// Returns the error for a reply that the server began and did not finish.
    pub fn broken_reply(method: &str, reason: &str) -> Self {
        Self::Protocol {
            reason: format!("its answer to {method} was cut off: {reason}"),
            begun: true,
            status: None,
        }
    }
}

impl From<SendError> for TransportError {
    fn from(error: SendError) -> Self {
        let reason = error.to_string();
        match error {
            SendError::Unreachable(_) => Self::Unreachable(reason),
            SendError::Unauthorized {
                failure,
                token_is_fresh,
            } => Self::Unauthorized {
                failure,
                token_is_fresh,
            },
            SendError::Denied(failure) => Self::Denied(failure),
            SendError::Broken(_) => Self::Protocol {
                reason,
                begun: true,
                status: None,
            },
            SendError::Refused(_) => Self::Protocol {
                reason,
                begun: false,
                status: None,
            },
        }
    }
}

impl From<TransportError> for ConnectError {
    fn from(error: TransportError) -> Self {
        let reason = error.to_string();
        let denied = match error {
            TransportError::Unauthorized { failure, .. }
            | TransportError::Denied(failure)
            | TransportError::InsufficientScope(failure) => Some(failure),
            TransportError::Unreachable(_)
            | TransportError::SessionUnknown
            | TransportError::Protocol { .. } => None,
        };
        Self { reason, denied }
    }
}

/// Sends messages to one server.
pub struct HttpTransport {
    pub endpoint: HttpEndpoint,
    pub sink: Arc<dyn NotificationSink>,
    /// The largest result in bytes (`RESULT_LIMIT`).
    pub result_limit: usize,
    pub options: ReconnectionOptions,
    pub server_requests: Arc<Semaphore>,
}

impl HttpTransport {
    pub fn new(
        endpoint: HttpEndpoint,
        sink: Arc<dyn NotificationSink>,
        result_limit: usize,
        options: ReconnectionOptions,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            sink,
            result_limit,
            options,
            server_requests: Arc::new(Semaphore::new(MAX_SERVER_REQUESTS)),
        })
    }

    /// The largest message in bytes.
    pub fn message_limit(&self) -> usize {
        self.result_limit + ENVELOPE
    }

    /// Sends a request and waits for its reply.
    pub async fn send_request(
        self: &Arc<Self>,
        context: &ProtocolContext,
        request: &OutgoingRequest<'_>,
    ) -> Result<Received, TransportError> {
        let mut headers = context.headers(request.method, request.name);
        if !request.param_headers.is_empty() {
            headers
                .to_mut()
                .extend(request.param_headers.iter().cloned());
        }
        let message = HttpRequest {
            method: Method::POST,
            url: &self.endpoint.url,
            headers: &headers,
            body: request.body.clone(),
            token_is_fresh: request.token_is_fresh,
        };
        let (response, _redaction) = self.endpoint.send(message).await?;
        let status = response.status();
        let session = response.headers().get(SESSION_ID).cloned();
        let reply = if status.is_success() {
            self.read_reply(context, request, response).await?
        } else {
            self.read_refusal(context, request, response).await?
        };
        Ok(Received {
            status,
            reply,
            session,
        })
    }

    async fn read_reply(
        self: &Arc<Self>,
        context: &ProtocolContext,
        request: &OutgoingRequest<'_>,
        mut response: StreamedResponse,
    ) -> Result<RpcReply, TransportError> {
        let status = response.status();
        let method = request.method;
        if let Some(encoding) = unreadable_encoding(&response) {
            let reason = format!(
                "answered {method} in the encoding {}, which the client cannot read and did not ask for (HTTP {status})",
                self.sink.excerpt(encoding.as_bytes(), EXCERPT)
            );
            return Err(TransportError::protocol(reason, status));
        }
        match ContentKind::from_response(&response) {
            ContentKind::EventStream => self.read_stream(context, request, response).await,
            ContentKind::Json => match read_body(&mut response, self.message_limit()).await {
                Ok(Some(body)) => self
                    .find_reply(request, &body)
                    .ok_or_else(|| self.no_reply(method, &body, status)),
                Ok(None) => Ok(RpcReply::TooLarge),
                Err(error) => Err(TransportError::broken_reply(method, &error.to_string())),
            },
            ContentKind::Other(kind) => {
                let body = read_beginning(&mut response, REFUSAL_LIMIT).await;
                let reason = format!(
                    "answered {method} with {}, which is no MCP (HTTP {status}): {}",
                    self.sink.excerpt(kind.as_bytes(), 100),
                    self.sink.excerpt(&body, EXCERPT)
                );
                Err(TransportError::protocol(reason, status))
            }
        }
    }

    /// Returns the error for a successful response whose body is no reply to the request.
    fn no_reply(&self, method: &str, body: &Bytes, status: StatusCode) -> TransportError {
        let reason = if body.trim_ascii().is_empty() {
            format!("answered {method} with nothing, which is no MCP (HTTP {status})")
        } else {
            format!(
                "answered {method} with a body that is no answer to it (HTTP {status}): {}",
                self.sink.excerpt(body, EXCERPT)
            )
        };
        TransportError::protocol(reason, status)
    }

    /// Reads a response without success. Its body may still be a JSON-RPC error for the request.
    async fn read_refusal(
        &self,
        context: &ProtocolContext,
        request: &OutgoingRequest<'_>,
        mut response: StreamedResponse,
    ) -> Result<RpcReply, TransportError> {
        let status = response.status();
        if let Some(failure) = self.endpoint.insufficient_scope(&response) {
            return Err(TransportError::InsufficientScope(Box::new(failure)));
        }
        let encoding = unreadable_encoding(&response);
        let body = read_beginning(&mut response, REFUSAL_LIMIT).await;
        let error = ErrorReply::parse(&body);
        let is_ours = error
            .as_ref()
            .is_some_and(|error| error.id.and_then(request_id) == Some(request.id));
        let is_stale =
            status == StatusCode::NOT_FOUND || (status == StatusCode::BAD_REQUEST && !is_ours);
        if context.has_session() && is_stale {
            return Err(TransportError::SessionUnknown);
        }
        match error {
            // A server that could not read the request replies without its id.
            Some(error) if is_ours || error.id.is_none() => {
                Ok(RpcReply::Error(subslice(&body, error.error)))
            }
            _ => Err(TransportError::protocol(
                self.refusal_reason(request.method, status, encoding, &body),
                status,
            )),
        }
    }

    fn refusal_reason(
        &self,
        method: &str,
        status: StatusCode,
        encoding: Option<String>,
        body: &Bytes,
    ) -> String {
        let mut reason = format!("answered {method} with HTTP {status}");
        if status == StatusCode::UNAUTHORIZED && self.endpoint.has_static_credentials() {
            reason.push_str(", so it refuses the credentials in headers or url");
        }
        if let Some(encoding) = encoding {
            reason.push_str(&format!(
                " and a body in the encoding {}",
                self.sink.excerpt(encoding.as_bytes(), 100)
            ));
        } else if !body.trim_ascii().is_empty() {
            reason.push_str(": ");
            reason.push_str(self.sink.excerpt(body, EXCERPT).trim());
        }
        reason
    }

    /// Sends a message that has no reply.
    pub async fn send_notification(
        &self,
        context: &ProtocolContext,
        method: &'static str,
        body: Bytes,
    ) -> Result<StatusCode, TransportError> {
        let message = HttpRequest {
            method: Method::POST,
            url: &self.endpoint.url,
            headers: &context.headers(method, None),
            body,
            token_is_fresh: false,
        };
        let (response, _) = self.endpoint.send(message).await?;
        Ok(response.status())
    }

    /// Sends a notification in the background.
    pub fn spawn_notification(
        self: &Arc<Self>,
        context: ProtocolContext,
        method: &'static str,
        body: Bytes,
    ) {
        let transport = self.clone();
        tokio::spawn(async move {
            let send = transport.send_notification(&context, method, body);
            tokio::time::timeout(BACKGROUND_TIMEOUT, send).await.is_ok()
        });
    }

    /// Ends the session at the server (MCP 2025-11-25, transports, session management). A server that cannot end sessions,
    /// or that does not answer in time, keeps it.
    pub async fn end_session(&self, context: &ProtocolContext) {
        let message = HttpRequest {
            method: Method::DELETE,
            url: &self.endpoint.url,
            headers: &context.stream_headers(None),
            body: Bytes::new(),
            token_is_fresh: false,
        };
        let sent = self.endpoint.send(message);
        let _ = tokio::time::timeout(BACKGROUND_TIMEOUT, sent).await;
    }

    /// Opens the server's own stream, or resumes a stream after an event.
    pub async fn open_stream(
        &self,
        context: &ProtocolContext,
        last_event: Option<&str>,
    ) -> Result<(SseReader, RedactionGuards), TransportError> {
        let message = HttpRequest {
            method: Method::GET,
            url: &self.endpoint.url,
            headers: &context.stream_headers(last_event),
            body: Bytes::new(),
            token_is_fresh: false,
        };
        let (response, redaction) = self.endpoint.send(message).await?;
        let stream = self.stream_of(response)?;
        Ok((stream, redaction))
    }

    /// Returns the events of a response.
    ///
    /// # Errors
    /// Fails if the response is no stream that the client can read.
    pub fn stream_of(&self, response: StreamedResponse) -> Result<SseReader, TransportError> {
        let status = response.status();
        if !status.is_success() {
            return Err(TransportError::protocol(format!("HTTP {status}"), status));
        }
        // A server that answers with something else has no such stream. HTTP 405 says the same.
        let no_stream = |reason| TransportError::Protocol {
            reason,
            begun: false,
            status: Some(StatusCode::METHOD_NOT_ALLOWED),
        };
        if let Some(encoding) = unreadable_encoding(&response) {
            return Err(no_stream(format!(
                "HTTP {status} and the encoding {}, which the client cannot read",
                self.sink.excerpt(encoding.as_bytes(), 100)
            )));
        }
        if ContentKind::from_response(&response) != ContentKind::EventStream {
            return Err(no_stream(format!("HTTP {status} and no event stream")));
        }
        Ok(SseReader::new(response, self.message_limit()))
    }
}

#[cfg(test)]
mod tests;
