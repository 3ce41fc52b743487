//! HTTP requests to the endpoints: body, headers, caller, and the form of the answer.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::ALLOW;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::value::RawValue;

use super::answer::{error_response, message_response};
use super::dispatch::{
    Reply, dispatch, dispatch_in_array, era_of, id_of, method_label, require_session,
};
use super::endpoint::Exchange;
use super::envelope::{Message, Meta, parse_message};
use super::error::RpcError;
use super::headers;
use super::introduction::introduce_servers;
use super::legacy::{self, OpenSession};
use super::stream::answer_call;
use crate::core::failure::Failure;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::version::ProtocolVersion;
use crate::http::extract::json::read_json;
use crate::http::respond::json::{ApiError, json};

/// The most messages of an array.
const MAX_MESSAGES: usize = 16;

/// Answers a POST.
pub(super) async fn post(exchange: &Arc<Exchange>, request: Request) -> Response {
    if exchange.accepted.is_empty() {
        return not_acceptable();
    }
    let limit = exchange.state.payload_limit();
    let (Parts { headers, .. }, body) = request.into_parts();
    let body = match read_json(&headers, body, limit).await {
        Ok(body) => body,
        Err(failure) => return ApiError(failure).into_response(),
    };
    if body.trim_ascii_start().starts_with(b"[") {
        // The box keeps the future of one message small.
        return Box::pin(post_array(exchange, &headers, &body)).await;
    }
    // The block drops the message before the wait for a worker, so that the future stays small.
    let (id, reply) = {
        let message = match parse_message(&body) {
            Ok(message) => message,
            Err(error) => return error_response(error, None),
        };
        introduce_servers(exchange, &headers, &message).await;
        let reply = dispatch_counted(exchange, &headers, &body, &message);
        (id_of(&message), reply)
    };
    match reply {
        Ok(reply) => respond(exchange, reply, id.unwrap_or_default()).await,
        Err(error) => error_response(error, id),
    }
}

/// Executes a message, and counts it in the metrics.
fn dispatch_counted(
    exchange: &Arc<Exchange>,
    headers: &HeaderMap,
    body: &Bytes,
    message: &Message<'_>,
) -> Result<Reply, RpcError> {
    let era = era_of(headers, message);
    let method = method_label(message);
    let reply = dispatch(exchange, era, headers, body, message);
    let outcome = match &reply {
        Ok(Reply::NotAcceptable | Reply::Failed(_)) | Err(_) => "error",
        Ok(_) => "ok",
    };
    let metrics = exchange.state.metrics();
    metrics.count_mcp_request(exchange.endpoint.label(), era.as_str(), method, outcome);
    reply
}

async fn respond(exchange: &Arc<Exchange>, reply: Reply, id: &str) -> Response {
    match reply {
        Reply::Accepted => StatusCode::ACCEPTED.into_response(),
        Reply::Answering(delivery) => {
            delivery.await;
            StatusCode::ACCEPTED.into_response()
        }
        Reply::Done(outcome) => message_response(
            exchange.accepted,
            outcome.status(),
            outcome.message(Some(id)),
        ),
        Reply::Initialized(outcome, session) => {
            exchange.state.metrics().mcp_sessions_issued.inc();
            let message = outcome.message(Some(id));
            let mut response = message_response(exchange.accepted, StatusCode::OK, message);
            if let Ok(session) = HeaderValue::try_from(session) {
                response.headers_mut().insert(&headers::SESSION_ID, session);
            }
            response
        }
        Reply::Call(call) => answer_call(exchange, call, id).await,
        Reply::Stream(response) => response,
        Reply::NotAcceptable => not_acceptable(),
        Reply::Failed(failure) => ApiError(failure).into_response(),
    }
}

/// Answers an array of messages, which only 2025-03-26 allows.
async fn post_array(exchange: &Arc<Exchange>, headers: &HeaderMap, body: &Bytes) -> Response {
    let (session, messages) = match parse_array(exchange, headers, body) {
        Ok(parsed) => parsed,
        Err(error) => return error_response(error, None),
    };
    let answers = messages
        .iter()
        .map(|message| answer_in_array(exchange, session, body, message));
    let answers: Vec<Bytes> = join_all(answers).await.into_iter().flatten().collect();
    if answers.is_empty() {
        return StatusCode::ACCEPTED.into_response();
    }
    let array = [b"[", answers.join(&b","[..]).as_slice(), b"]"].concat();
    message_response(exchange.accepted, StatusCode::OK, array.into())
}

fn parse_array<'a>(
    exchange: &Exchange,
    headers: &HeaderMap,
    body: &'a Bytes,
) -> Result<(OpenSession, Vec<&'a RawValue>), RpcError> {
    let only = "Only a session of 2025-03-26 may send an array, with 1 to 16 messages";
    let messages: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|_| RpcError::parse_error())?;
    // The one answer to an array carries no request to the client.
    let session = OpenSession {
        capabilities: ClientCapabilities::default(),
        ..require_session(exchange, headers)?
    };
    let is_allowed = session.version == ProtocolVersion::V2025_03_26;
    if !is_allowed || messages.is_empty() || messages.len() > MAX_MESSAGES {
        return Err(RpcError::invalid_request(only));
    }
    Ok((session, messages))
}

/// Returns the JSON-RPC response to one message of an array, or `None` for a message without a response.
async fn answer_in_array(
    exchange: &Arc<Exchange>,
    session: OpenSession,
    body: &Bytes,
    message: &RawValue,
) -> Option<Bytes> {
    let error_text = |error: RpcError, id: Option<&str>| {
        let error = error.with_id(id);
        let id = error.id.clone();
        super::answer::Outcome::Error(error).message(id.as_deref())
    };
    let message = match parse_message(message.get().as_bytes()) {
        Ok(message) => message,
        Err(error) => return Some(error_text(error, None)),
    };
    let id = id_of(&message);
    match dispatch_in_array(exchange, session, body, &message) {
        Ok(Reply::Done(outcome)) => Some(outcome.message(id)),
        Ok(Reply::Call(call)) => Some(call.outcome.await.message(id)),
        Ok(Reply::Answering(delivery)) => {
            delivery.await;
            None
        }
        Ok(_) => None,
        Err(error) => Some(error_text(error, id)),
    }
}

/// Answers a GET: opens the stream of a session.
pub(super) fn open(exchange: &Arc<Exchange>, headers: &HeaderMap) -> Response {
    let session = match session_of(exchange, headers) {
        Ok(session) => session,
        Err(refusal) => return *refusal,
    };
    if !exchange.accepted.events {
        return not_acceptable();
    }
    legacy::open_stream(exchange.clone(), session)
        .unwrap_or_else(|failure| ApiError(failure).into_response())
}

/// Answers a DELETE: ends a session.
pub(super) fn end(exchange: &Exchange, headers: &HeaderMap) -> Response {
    match session_of(exchange, headers) {
        Ok(session) => {
            legacy::end_session(exchange, session);
            StatusCode::OK.into_response()
        }
        Err(refusal) => *refusal,
    }
}

/// Returns the session of a GET or a DELETE.
///
/// # Errors
/// The response to a request without a session, or with a wrong one.
fn session_of(exchange: &Exchange, headers: &HeaderMap) -> Result<OpenSession, Box<Response>> {
    let is_modern = super::modern::is_modern(headers, &Meta::default());
    if is_modern || !headers.contains_key(&headers::SESSION_ID) {
        return Err(Box::new(no_session()));
    }
    let session = exchange
        .find_server()
        .and_then(|_| legacy::find_session(exchange, headers));
    session.map_err(|error| Box::new(error_response(error, None)))
}

fn not_acceptable() -> Response {
    let failure = Failure::invalid(
        "The header Accept must name application/json and text/event-stream; a stream needs text/event-stream",
    );
    let mut response = ApiError(failure).into_response();
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

/// Returns the answer to a GET or a DELETE without a session.
fn no_session() -> Response {
    let error = RpcError::invalid_request("Without Mcp-Session-Id, this endpoint takes POST only");
    let mut response = json(
        StatusCode::METHOD_NOT_ALLOWED,
        super::answer::Outcome::Error(error).message(None),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("POST"));
    response
}
