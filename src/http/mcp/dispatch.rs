//! Finds the era of a message and executes it.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::value::RawValue;

use super::answer::Outcome;
use super::call::RunningCall;
use super::endpoint::Exchange;
use super::envelope::{Message, Meta, Params};
use super::error::RpcError;
use super::legacy::OpenSession;
use super::{headers, legacy, modern, server_request};
use crate::core::failure::Failure;
use crate::core::mcp::version::{Era, ProtocolVersion};

/// The reply to one message.
pub(super) enum Reply {
    /// A notification or a response needs no answer.
    Accepted,
    Done(Outcome),
    /// A session has begun. The text is its id.
    Initialized(Outcome, String),
    /// The answer of the client is on its way to the call that waits for it.
    Answering(BoxFuture<'static, ()>),
    Call(RunningCall),
    /// An event stream without an end.
    Stream(Response),
    /// The client does not take the only form of the answer.
    NotAcceptable,
    /// A failure with REST's body.
    Failed(Failure),
}

/// Executes one message of an era that stands alone in its body.
///
/// # Errors
/// The JSON-RPC error of the message.
pub(super) fn dispatch(
    exchange: &Arc<Exchange>,
    era: Era,
    headers: &HeaderMap,
    body: &Bytes,
    message: &Message<'_>,
) -> Result<Reply, RpcError> {
    match message {
        Message::Request { id, method, params } => {
            if era == Era::Modern {
                return modern::handle(exchange, headers, body, id, method, params);
            }
            if method == "initialize" {
                return initialize(exchange, params);
            }
            let session = require_session(exchange, headers)?;
            legacy::handle(exchange, session, body, id, method, params)
        }
        Message::Notification { method, params } => {
            if era == Era::Legacy {
                let session = require_session(exchange, headers)?;
                legacy::notify(exchange, session, method, params);
            }
            Ok(Reply::Accepted)
        }
        Message::Response { .. } if era == Era::Modern => Err(RpcError::invalid_request(
            "A client of 2026-07-28 must not post responses",
        )),
        Message::Response { id, result, error } => {
            require_session(exchange, headers)?;
            server_request::read_answer(exchange, id, *result, *error)
        }
    }
}

/// Executes one message of an array, which a client of 2025-03-26 may send.
///
/// # Errors
/// The JSON-RPC error of the message.
pub(super) fn dispatch_in_array(
    exchange: &Arc<Exchange>,
    session: OpenSession,
    body: &Bytes,
    message: &Message<'_>,
) -> Result<Reply, RpcError> {
    match message {
        Message::Request { method, .. } if method == "initialize" => Err(
            RpcError::invalid_request("initialize must stand alone in its body"),
        ),
        Message::Request { id, method, params } => {
            legacy::handle(exchange, session, body, id, method, params)
        }
        Message::Notification { method, params } => {
            legacy::notify(exchange, session, method, params);
            Ok(Reply::Accepted)
        }
        Message::Response { id, result, error } => {
            server_request::read_answer(exchange, id, *result, *error)
        }
    }
}

fn initialize(exchange: &Exchange, params: &Params<'_>) -> Result<Reply, RpcError> {
    Ok(match legacy::initialize(exchange, params)? {
        Ok((outcome, id)) => Reply::Initialized(outcome, id),
        Err(failure) => Reply::Failed(failure),
    })
}

/// Returns the session of a legacy request.
///
/// # Errors
/// -32022 for an unknown version, -32600 without a session, -32602 with status 404 for a wrong session.
pub(super) fn require_session(
    exchange: &Exchange,
    headers: &HeaderMap,
) -> Result<OpenSession, RpcError> {
    if headers.contains_key(&headers::SESSION_ID) {
        return legacy::find_session(exchange, headers);
    }
    let version = headers
        .get(&headers::PROTOCOL_VERSION)
        .and_then(|version| version.to_str().ok())
        .map(str::trim);
    if let Some(version) = version
        && ProtocolVersion::parse(version).is_none()
    {
        return Err(RpcError::unsupported_version(version));
    }
    Err(RpcError::invalid_request(
        "Begin with initialize and send its Mcp-Session-Id, or send 2026-07-28 in MCP-Protocol-Version and in \
         params._meta",
    ))
}

/// Returns the era of a message.
pub(super) fn era_of(headers: &HeaderMap, message: &Message<'_>) -> Era {
    let is_modern = match message {
        Message::Request { params, .. } | Message::Notification { params, .. } => {
            modern::is_modern(headers, &params.meta)
        }
        Message::Response { .. } => modern::is_modern(headers, &Meta::default()),
    };
    if is_modern { Era::Modern } else { Era::Legacy }
}

/// Returns the method of a message for the metrics.
pub(super) fn method_label(message: &Message<'_>) -> &'static str {
    match message {
        Message::Request { method, .. } | Message::Notification { method, .. } => {
            known_method(method)
        }
        Message::Response { .. } => "response",
    }
}

/// Returns a method from a closed list, so that clients cannot fill the metrics with invented names.
fn known_method(method: &str) -> &'static str {
    const METHODS: [&str; 17] = [
        "completion/complete",
        "initialize",
        "logging/setLevel",
        "notifications/initialized",
        "notifications/cancelled",
        "ping",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/subscribe",
        "resources/templates/list",
        "resources/unsubscribe",
        "server/discover",
        "tools/list",
        "tools/call",
        "subscriptions/listen",
    ];
    METHODS
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("other")
}

/// Returns the raw id of a request.
pub(super) fn id_of<'a>(message: &Message<'a>) -> Option<&'a str> {
    match message {
        Message::Request { id, .. } => Some(RawValue::get(id)),
        _ => None,
    }
}
