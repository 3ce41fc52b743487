//! The era 2026-07-28: every request stands alone, and its headers repeat parts of its body.

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::answer::Outcome;
use super::call::{CallingClient, begin_call, check_argument_headers, find_tool};
use super::dispatch::Reply;
use super::endpoint::Exchange;
use super::envelope::{Meta, Params};
use super::error::RpcError;
use super::headers;
use super::list::tools_list;
use super::request::{begin_request, check_name_header, find_method};
use super::subscribe::subscribe;
use crate::core::catalog::server::Server;
use crate::core::json_object::{ObjectWriter, text_of};
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::log_level::{LogLevel, WantedLog};
use crate::core::mcp::version::{Era, ProtocolVersion};

/// How long a client may keep a list, in milliseconds.
pub(super) const TTL_MS: &str = "60000";
const VERSION_FIELD: &str = "io.modelcontextprotocol/protocolVersion";

/// Returns whether a request belongs to this era: its version header or its `_meta` says so.
pub(super) fn is_modern(headers: &HeaderMap, meta: &Meta<'_>) -> bool {
    let modern = ProtocolVersion::V2026_07_28.as_str();
    meta.protocol_version.is_some()
        || headers
            .get_all(&headers::PROTOCOL_VERSION)
            .iter()
            .any(|value| value.as_bytes().trim_ascii() == modern.as_bytes())
}

/// Executes a request.
///
/// # Errors
/// The first rule that the request breaks, in the order of the specification.
pub(super) fn handle(
    exchange: &Arc<Exchange>,
    headers: &HeaderMap,
    body: &Bytes,
    id: &RawValue,
    method: &str,
    params: &Params<'_>,
) -> Result<Reply, RpcError> {
    check_request(headers, method, params)?;
    let server = exchange.find_server()?;
    match method {
        "server/discover" => Ok(Reply::Done(Outcome::Result(discover(exchange)))),
        "tools/list" => tools_list(exchange, Era::Modern, params.cursor)
            .map(|list| Reply::Done(Outcome::Result(list))),
        "tools/call" => {
            let called = find_named_tool(exchange, server, headers, params)?;
            check_argument_headers(exchange, headers, &called, params.arguments)?;
            begin_call(exchange, calling_client(params)?, body, params, called).map(Reply::Call)
        }
        "subscriptions/listen" => subscribe(exchange, id, params),
        _ => {
            let method = find_method(exchange, method, Era::Modern)?;
            check_name_header(headers, method, params)?;
            begin_request(exchange, calling_client(params)?, params, method).map(Reply::Call)
        }
    }
}

/// Returns the client of a request, which declares its capabilities and its log level each time.
fn calling_client(params: &Params<'_>) -> Result<CallingClient, RpcError> {
    let declared = params.meta.client_capabilities.map(|declared| {
        ClientCapabilities::read(declared, ProtocolVersion::V2026_07_28).of_questions()
    });
    Ok(CallingClient {
        era: Era::Modern,
        capabilities: declared.unwrap_or_default(),
        log: log_level(&params.meta)?.map(WantedLog::From),
    })
}

fn check_request(headers: &HeaderMap, method: &str, params: &Params<'_>) -> Result<(), RpcError> {
    let version = check_meta(&params.meta)?;
    headers::check_text(headers, &headers::PROTOCOL_VERSION, &version)?;
    if version != ProtocolVersion::V2026_07_28.as_str() {
        return Err(RpcError::unsupported_version(&version));
    }
    headers::check_text(headers, &headers::METHOD, method)
}

/// Checks the required members of `_meta`, and returns the version.
fn check_meta<'a>(meta: &Meta<'a>) -> Result<Cow<'a, str>, RpcError> {
    if meta.is_wrong {
        return Err(RpcError::invalid_params(
            "params._meta must be an object whose members stand once",
        ));
    }
    let version = meta.protocol_version.and_then(text_of).ok_or_else(|| {
        RpcError::invalid_params(format!("params._meta must have {VERSION_FIELD}, a string"))
    })?;
    let is_object =
        |value: Option<&RawValue>| value.is_some_and(|value| value.get().starts_with('{'));
    if !is_object(meta.client_capabilities) {
        return Err(RpcError::invalid_params(
            "params._meta must have io.modelcontextprotocol/clientCapabilities, an object",
        ));
    }
    if meta.client_info.is_some() && !is_object(meta.client_info) {
        return Err(RpcError::invalid_params(
            "params._meta: io.modelcontextprotocol/clientInfo must be an object",
        ));
    }
    log_level(meta)?;
    Ok(version)
}

/// Returns the level from which on the client takes log lines. Without a level it takes none.
///
/// # Errors
/// -32602 with status 400 if the level is unknown.
fn log_level(meta: &Meta<'_>) -> Result<Option<LogLevel>, RpcError> {
    let Some(level) = meta.log_level else {
        return Ok(None);
    };
    let known = text_of(level).and_then(|level| LogLevel::parse(&level));
    known.map(Some).ok_or_else(|| {
        RpcError::invalid_params(
            "params._meta: io.modelcontextprotocol/logLevel must be a level of RFC 5424, such as info or warning",
        )
    })
}

fn find_named_tool(
    exchange: &Exchange,
    server: Option<Arc<Server>>,
    headers: &HeaderMap,
    params: &Params<'_>,
) -> Result<super::call::CalledTool, RpcError> {
    let name = params.name.and_then(text_of).unwrap_or_default();
    headers::check_text(headers, &headers::NAME, &name)?;
    find_tool(exchange, server, params)
}

/// Returns the result of `server/discover`.
fn discover(exchange: &Exchange) -> Bytes {
    let versions: Vec<_> = ProtocolVersion::ALL
        .into_iter()
        .map(|version| format!("\"{}\"", version.as_str()))
        .collect();
    let mut writer = ObjectWriter::with_capacity(512);
    writer.text("resultType", "complete");
    writer.raw("supportedVersions", &format!("[{}]", versions.join(",")));
    writer.raw("capabilities", &exchange.capabilities());
    if let Some(instructions) = exchange.instructions() {
        writer.text("instructions", &instructions);
    }
    add_cache_hints(&mut writer, &exchange.server_info());
    writer.finish().into()
}

/// Appends the members that this era requires of complete results of lists.
pub(super) fn add_cache_hints(writer: &mut ObjectWriter, server_info: &str) {
    writer.raw("ttlMs", TTL_MS);
    // The answer may depend on the user.
    writer.text("cacheScope", "private");
    writer.raw(
        "_meta",
        &format!(r#"{{"io.modelcontextprotocol/serverInfo":{server_info}}}"#),
    );
}
