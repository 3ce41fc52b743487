//! Prompts, resources and completion at the endpoint of one server: each request goes to the server for its user.

use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::value::RawValue;

use super::answer::Outcome;
use super::call::{traceparent, upstream_era};
use super::endpoint::{Endpoint, Exchange};
use super::envelope::Params;
use super::error::{RpcError, request_failure};
use super::headers;
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::check_args;
use crate::core::catalog::server::Server;
use crate::core::command::Command as _;
use crate::core::decide::access::visible_failure;
use crate::core::json_object::{ObjectWriter, text_of};
use crate::core::mcp::forwarded_meta::forwarded_meta;
use crate::core::mcp::result::request_result;
use crate::core::mcp::version::Era;
use crate::core::model::upstream_request::{RequestMethod, SendRequest};
use crate::http::tools::call::{call_limit, with_links};
use crate::telemetry::error::internal_error;

/// A request that runs while its future is polled. Dropping it cancels the request.
pub(super) type RunningRequest = BoxFuture<'static, Outcome>;

/// Returns the method of a request that the server of the endpoint serves.
///
/// # Errors
/// -32601 if no server has the method, or if the server has not declared its capability.
pub(super) fn find_method(
    exchange: &Exchange,
    method: &str,
    era: Era,
) -> Result<(Arc<Server>, RequestMethod), RpcError> {
    let missing = || RpcError::method_not_found(era);
    let method = RequestMethod::parse(method).ok_or_else(missing)?;
    let Endpoint::Server(name) = &exchange.endpoint else {
        return Err(missing());
    };
    let catalog = exchange.state.catalog();
    let server = catalog.server(name.as_str()).ok_or_else(missing)?;
    if exchange.declares(method.capability()) {
        Ok((server.clone(), method))
    } else {
        Err(missing())
    }
}

/// Checks the header that repeats a parameter (MCP 2026-07-28, Standard Request Headers).
///
/// # Errors
/// -32020 if the header is missing or differs.
pub(super) fn check_name_header(
    headers: &HeaderMap,
    method: RequestMethod,
    params: &Params<'_>,
) -> Result<(), RpcError> {
    let named = match method.named_parameter() {
        Some("name") => params.name,
        Some(_) => params.uri,
        None => return Ok(()),
    };
    let name = named.and_then(text_of).unwrap_or_default();
    headers::check_text(headers, headers::NAME, &name)
}

/// Begins a request. It has not started before the future is polled.
///
/// # Errors
/// -32602 if the parameters break a rule.
pub(super) fn begin_request(
    exchange: &Arc<Exchange>,
    era: Era,
    params: &Params<'_>,
    server: Arc<Server>,
    method: RequestMethod,
) -> Result<RunningRequest, RpcError> {
    if params.input_responses.is_some() || params.request_state.is_some() {
        return Err(RpcError::wrong_params(
            "inputResponses and requestState cannot be used, because this endpoint asks for no input",
        ));
    }
    let command = SendRequest {
        user: exchange.user.clone(),
        server: server.name.clone(),
        method,
        params: sent_params(method, params)?,
    };
    let body = serde_json::to_vec(&command)
        .map_err(|error| request_failure(&internal_error(error), era))?;
    let request = CommandRequest {
        area: SendRequest::AREA,
        server: server.exclusive_id(),
        command: SendRequest::NAME,
        time: call_limit(&server, None),
        body: Bytes::from(body),
        call: None,
        interim: None,
        traceparent: traceparent(&params.meta).or_else(|| exchange.traceparent.clone()),
        meta: forwarded_meta(&params.meta.more).map(Into::into),
    };
    let exchange = exchange.clone();
    Ok(Box::pin(async move {
        let response = exchange.state.send_request(request).await;
        let result = response.and_then(|response| {
            let upstream = upstream_era(&server);
            request_result(&response.body, upstream, era, method.has_cache_hints())
        });
        match result {
            Ok(result) => Outcome::Result(result),
            Err(failure) => {
                let failure = visible_failure(&exchange.caller, failure);
                let host = exchange.host.clone();
                let failure = with_links(&exchange.state, host, &server, &exchange.user, failure);
                Outcome::Error(request_failure(&failure, era))
            }
        }
    }))
}

/// Returns the parameters of the method, without all others.
fn sent_params(method: RequestMethod, params: &Params<'_>) -> Result<Box<RawValue>, RpcError> {
    let members: &[(&str, Option<&RawValue>)] = match method {
        RequestMethod::GetPrompt => &[("name", params.name), ("arguments", params.arguments)],
        RequestMethod::ReadResource => &[("uri", params.uri)],
        RequestMethod::Complete => &[
            ("ref", params.reference),
            ("argument", params.argument),
            ("context", params.context),
        ],
        _ => &[("cursor", params.cursor)],
    };
    let mut writer = ObjectWriter::with_capacity(256);
    for (name, value) in members {
        if let Some(value) = value {
            writer.raw(name, value.get());
        }
    }
    let sent = RawValue::from_string(writer.finish())
        .map_err(|_| RpcError::wrong_params("params must be JSON"))?;
    if let Some(required) = method.named_parameter() {
        let is_present = members
            .iter()
            .any(|(name, value)| *name == required && value.and_then(text_of).is_some());
        if !is_present {
            return Err(RpcError::wrong_params(format!(
                "{required} must be a string"
            )));
        }
    }
    check_args(&sent)
        .map_err(|failure| RpcError::wrong_params(failure.message.replacen("args", "params", 1)))?;
    Ok(sent)
}
