//! The era 2024-11-05 to 2025-11-25: `initialize` begins a session, and each later request names it.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::answer::Outcome;
use super::call::{CallingClient, RunningCall, begin_call, find_tool};
use super::dispatch::Reply;
use super::endpoint::Exchange;
use super::envelope::Params;
use super::error::RpcError;
use super::headers;
use super::list::tools_list;
use super::listen::{self, StreamContent};
use super::notices::{NoticeWriter, WantedLists};
use super::request::{begin_request, find_method};
use super::running::{call_key, session_key};
use super::session::Session;
use super::session_requests;
use super::watched::StreamResources;
use crate::core::failure::Failure;
use crate::core::ids::Digest;
use crate::core::json_object::{Members, ObjectWriter, text_of};
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::version::{Era, ProtocolVersion};
use crate::ports::bus::Hint;
use crate::time::clock::now_seconds;

/// The session of a request.
#[derive(Clone, Copy)]
pub(super) struct OpenSession {
    pub version: ProtocolVersion,
    pub key: Digest,
    /// The capabilities with which a server can ask the client.
    pub capabilities: ClientCapabilities,
}

/// Finds the session that a request names.
///
/// # Errors
/// -32602 with status 404 if the id is not valid for this user and this endpoint, or if the session has ended.
pub(super) fn find_session(
    exchange: &Exchange,
    headers: &HeaderMap,
) -> Result<OpenSession, RpcError> {
    let ended = || {
        RpcError::not_found("The session is unknown or has ended; begin a new one with initialize")
    };
    let id = headers
        .get(&headers::SESSION_ID)
        .and_then(|id| id.to_str().ok())
        .ok_or_else(ended)?;
    let route = exchange.endpoint.route();
    let state = &exchange.state;
    let session = Session::parse(
        id.trim(),
        state.sealer(),
        &exchange.user,
        &route,
        now_seconds(),
    )
    .ok_or_else(ended)?;
    let key = session_key(&session, &exchange.user, &route);
    if state.mcp().ended_sessions.contains(key) {
        return Err(ended());
    }
    check_version(headers)?;
    Ok(OpenSession {
        version: session.version,
        key,
        capabilities: session.capabilities.of_questions(),
    })
}

/// Checks the version header. A known legacy version that differs from the session's version is ignored.
///
/// # Errors
/// -32022 with status 400.
fn check_version(headers: &HeaderMap) -> Result<(), RpcError> {
    let Some(version) = headers.get(&headers::PROTOCOL_VERSION) else {
        return Ok(());
    };
    let version = version.to_str().unwrap_or_default().trim();
    match ProtocolVersion::parse(version) {
        Some(known) if known.era() == Era::Legacy => Ok(()),
        _ => Err(RpcError::unsupported_version(version)),
    }
}

/// Answers `initialize` from the catalog, and returns the session id.
///
/// # Errors
/// -32602 if the version is missing. `internal` if no session id can be made.
pub(super) fn initialize(
    exchange: &Exchange,
    params: &Params<'_>,
) -> Result<Result<(Outcome, String), Failure>, RpcError> {
    exchange.find_server()?;
    let requested = params
        .protocol_version
        .and_then(text_of)
        .ok_or_else(|| RpcError::wrong_params("protocolVersion must be a string"))?;
    let version = ProtocolVersion::negotiate(&requested);
    let client = client_name(params);
    tracing::info!(
        user = %exchange.user,
        endpoint = exchange.endpoint.route(),
        version = version.as_str(),
        client,
        "MCP session began"
    );
    let capabilities = params
        .capabilities
        .map_or_else(ClientCapabilities::default, |declared| {
            ClientCapabilities::read(declared, version)
        });
    let session = Session::begin(version, capabilities, now_seconds()).and_then(|session| {
        session.id(
            exchange.state.sealer(),
            &exchange.user,
            &exchange.endpoint.route(),
        )
    });
    let mut writer = ObjectWriter::with_capacity(512);
    writer.text("protocolVersion", version.as_str());
    writer.raw("capabilities", &exchange.capabilities());
    writer.raw("serverInfo", &exchange.server_info());
    if let Some(instructions) = exchange.instructions() {
        writer.text("instructions", &instructions);
    }
    let outcome = Outcome::Result(writer.finish().into());
    Ok(session.map(|id| (outcome, id)))
}

/// Returns the name and the version of the client for the log, cut to a short text.
fn client_name(params: &Params<'_>) -> Option<String> {
    let info = Members::parse(params.client_info?.get())?;
    let part = |name: &str| info.get(name).and_then(text_of).unwrap_or_default();
    let shown = format!("{} {}", part("name"), part("version"));
    Some(
        shown
            .chars()
            .filter(|character| !character.is_control())
            .take(100)
            .collect(),
    )
}

/// Executes a request of a session.
///
/// # Errors
/// The JSON-RPC error of the method.
pub(super) fn handle(
    exchange: &Arc<Exchange>,
    session: OpenSession,
    body: &Bytes,
    id: &RawValue,
    method: &str,
    params: &Params<'_>,
) -> Result<Reply, RpcError> {
    let server = exchange.find_server()?;
    let client = CallingClient {
        era: Era::Legacy,
        capabilities: session.capabilities,
        log: Some(exchange.state.mcp().sessions.wanted_log(session.key)),
    };
    match method {
        "ping" => Ok(Reply::Done(Outcome::Result(Bytes::from_static(b"{}")))),
        "tools/list" => tools_list(exchange, Era::Legacy, params.cursor)
            .map(|list| Reply::Done(Outcome::Result(list))),
        "tools/call" => {
            let called = find_tool(exchange, server, params)?;
            let call = begin_call(exchange, client, body, params, called)?;
            Ok(Reply::Call(cancellable(exchange, session, id, call)))
        }
        _ => {
            if let Some(reply) = session_requests::handle(exchange, session, method, params) {
                return reply;
            }
            let method = find_method(exchange, method, Era::Legacy)?;
            let call = begin_request(exchange, client, params, method)?;
            Ok(Reply::Call(cancellable(exchange, session, id, call)))
        }
    }
}

/// Lets `notifications/cancelled` of the session end a call.
fn cancellable(
    exchange: &Exchange,
    session: OpenSession,
    id: &RawValue,
    call: RunningCall,
) -> RunningCall {
    let running = &exchange.state.mcp().running;
    let guard = running.add(call_key(session.key, id.get()));
    let outcome = Box::pin(async move {
        let cancelled = guard.cancelled.clone();
        let outcome = cancelled.run_until_cancelled(call.outcome).await;
        drop(guard);
        outcome.unwrap_or_else(|| Outcome::Error(RpcError::cancelled()))
    });
    RunningCall { outcome, ..call }
}

/// Acts on a notification of a session. Unknown notifications have no effect.
pub(super) fn notify(exchange: &Exchange, session: OpenSession, method: &str, params: &Params<'_>) {
    if method != "notifications/cancelled" {
        return;
    }
    if let Some(id) = params.request_id {
        exchange.cancel_call(call_key(session.key, id.get()));
    }
}

/// Ends a session at all facades.
pub(super) fn end_session(exchange: &Exchange, session: OpenSession) {
    exchange.state.mcp().end_session(session.key);
    exchange.state.publish(Hint::McpSessionEnded(session.key));
}

/// Opens the stream of a session.
///
/// # Errors
/// `unavailable` if too many streams are open.
pub(super) fn open_stream(
    exchange: Arc<Exchange>,
    session: OpenSession,
) -> Result<Response, Failure> {
    let permit = exchange
        .state
        .mcp()
        .streams
        .open(&exchange.user, Some(session.key))?;
    let mcp = exchange.state.mcp();
    let watched = mcp.sessions.of_session(session.key).watched();
    let resources = StreamResources::of_session(&exchange, watched)?;
    let content = StreamContent {
        // A first comment tells the client that the stream is open.
        opening: Some(Bytes::from_static(b":\n\n")),
        lists: WantedLists::ALL,
        resources,
        writer: NoticeWriter { subscription: None },
        closing: None,
    };
    Ok(listen::open(exchange, Era::Legacy, content, permit))
}
