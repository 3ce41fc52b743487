//! One message to a server and its reply, which is a JSON body or an event of a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::{Notify, Semaphore};

use super::body::{ContentKind, read_beginning, read_body, unreadable_encoding};
use super::endpoint::{HttpEndpoint, HttpRequest, RedactionGuards, SendError};
use super::protocol::{ProtocolContext, SESSION_ID};
use super::sse::SseReader;
use crate::core::failure::Failure;
use crate::core::model::remote::ReconnectionOptions;
use crate::workers::http_client::StreamedResponse;
use crate::workers::mcp::call::ConnectError;
use crate::workers::mcp::host::NotificationSink;
use crate::workers::mcp::jsonrpc::{ErrorReply, request_id, subslice};
use crate::workers::mcp::mux::RpcReply;

/// Bytes of a message around its result.
const ENVELOPE: usize = 64 * 1024;
/// Bytes of a response without success that are read.
const REFUSAL_LIMIT: usize = 64 * 1024;
/// Bytes of a body in an error message.
pub const EXCERPT: usize = 200;
/// The longest time for a message that has no caller.
pub const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of the server that are answered at once.
const MAX_SERVER_REQUESTS: usize = 16;

/// A request to the server.
pub struct OutgoingRequest<'a> {
    pub id: u64,
    pub body: Bytes,
    pub method: &'static str,
    /// The tool that the request calls.
    pub tool: Option<&'a str>,
    pub progress: Option<&'a Notify>,
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
    /// The server cannot be reached. It has not received the request.
    #[error("{0}")]
    Unreachable(String),
    /// The server does not know the session. It has not executed the request.
    #[error("it does not know its session any more")]
    SessionUnknown,
    /// The server answered with HTTP 401. It has not executed the request.
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
        let mut headers = context.headers(request.method, request.tool);
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
        match ContentKind::of(&response) {
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
        if ContentKind::of(&response) != ContentKind::EventStream {
            return Err(no_stream(format!("HTTP {status} and no event stream")));
        }
        Ok(SseReader::new(response, self.message_limit()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scripted_server::{ScriptedResponse, ScriptedServer, SeenRequest};
    use super::*;
    use crate::workers::mcp::host::tests::RecordingSink;

    fn request(id: u64) -> OutgoingRequest<'static> {
        OutgoingRequest {
            id,
            body: json!({ "jsonrpc": "2.0", "id": id, "method": "tools/list" })
                .to_string()
                .into(),
            method: "tools/list",
            tool: None,
            progress: None,
            param_headers: vec![],
            token_is_fresh: false,
        }
    }

    /// Sends one request to a server that answers so, and returns the reply or the error as a text.
    async fn exchange(
        script: impl Fn(&SeenRequest) -> ScriptedResponse + Send + Sync + 'static,
    ) -> Result<String, String> {
        let server = ScriptedServer::start(move |request| Some(script(request))).await;
        let transport = server.transport(Arc::<RecordingSink>::default());
        let context = ProtocolContext::new(None, None);
        let received = transport.send_request(&context, &request(7)).await;
        match received.map_err(|error| error.to_string())?.reply {
            RpcReply::Result(result) => Ok(String::from_utf8_lossy(&result).into_owned()),
            RpcReply::Error(error) => Ok(format!("error {}", String::from_utf8_lossy(&error))),
            RpcReply::TooLarge => Ok("too large".into()),
        }
    }

    #[tokio::test]
    async fn json_without_a_content_type_is_read() {
        let body = r#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        let reply = exchange(move |_| ScriptedResponse::new(200, body)).await;
        assert_eq!(reply.as_deref(), Ok("{}"));
    }

    #[tokio::test]
    async fn an_error_without_an_id_keeps_its_sentence() {
        let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"not so"}}"#;
        for status in [200, 400, 500] {
            let reply = exchange(move |_| ScriptedResponse::json(status, body)).await;
            assert!(
                reply.as_ref().is_ok_and(|reply| reply.contains("not so")),
                "{reply:?}"
            );
        }
        let stream = format!("data: {body}\n\n");
        let reply = exchange(move |_| ScriptedResponse::stream(&stream)).await;
        assert!(
            reply.as_ref().is_ok_and(|reply| reply.contains("not so")),
            "{reply:?}"
        );
    }

    #[tokio::test]
    async fn a_body_that_is_no_json_rpc_leaves_the_decision_to_the_status() {
        let body = r#"{"error":"Method not allowed"}"#;
        let error = exchange(move |_| ScriptedResponse::json(405, body))
            .await
            .expect_err("405");
        assert!(
            error.contains("HTTP 405") && error.contains("Method not allowed"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn an_encoding_that_cannot_be_read_is_named() {
        for content_type in ["application/json", "text/event-stream"] {
            let response = move |_: &SeenRequest| {
                ScriptedResponse::new(200, vec![0x1f, 0x8b])
                    .with("content-type", content_type)
                    .with("content-encoding", "zstd")
            };
            let error = exchange(response).await.expect_err("unreadable");
            assert!(error.contains("zstd"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_batch_body_and_a_batch_event_are_read() {
        let batch = r#"[{"method":"notifications/x"},{"jsonrpc":"2.0","id":7,"result":1}]"#;
        let reply = exchange(move |_| ScriptedResponse::json(200, batch)).await;
        assert_eq!(reply.as_deref(), Ok("1"));
        let stream = format!("data: {batch}\n\n");
        let reply = exchange(move |_| ScriptedResponse::stream(&stream)).await;
        assert_eq!(reply.as_deref(), Ok("1"));
    }

    #[tokio::test]
    async fn the_client_asks_for_no_encoding() {
        let server = ScriptedServer::start(|request| Some(request.result(json!({})))).await;
        let transport = server.transport(Arc::<RecordingSink>::default());
        let context = ProtocolContext::new(None, None);
        assert!(transport.send_request(&context, &request(7)).await.is_ok());
        assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
        assert_eq!(server.seen()[0].body["id"], json!(7));
    }

    #[tokio::test]
    async fn a_cut_stream_is_resumed_after_its_last_event() {
        let server = ScriptedServer::start(|request| {
            Some(match request.header("last-event-id") {
                Some("6") => ScriptedResponse::stream(
                    "id: 7\ndata: {\"jsonrpc\":\"2.0\",\"id\":7,\"result\":\"kept\"}\n\n",
                ),
                _ => ScriptedResponse::stream("id: 6\nretry: 20\ndata:\n\n"),
            })
        })
        .await;
        let transport = server.transport(Arc::<RecordingSink>::default());
        let context = ProtocolContext::new(None, None);
        let received = transport.send_request(&context, &request(7)).await;
        let reply = received
            .map_err(|error| error.to_string())
            .expect("a reply");
        assert_eq!(
            reply.reply,
            RpcReply::Result(Bytes::from_static(b"\"kept\""))
        );
    }
}
