//! Prompts, resources and completion: each request goes to a server for its user.

use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::all_servers;
use super::answer::Outcome;
use super::call::{
    CallChannel, CallingClient, RunningCall, era_of_result, may_be_modern, traceparent,
};
use super::endpoint::Exchange;
use super::envelope::Params;
use super::error::{RpcError, request_failure};
use super::headers;
use super::input::{ClientInput, OpenedInput, StateScope, with_signed_state};
use super::sign_in::{AccessStep, SignIn};
use super::url_error;
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::check_args;
use crate::core::catalog::server::Server;
use crate::core::command::Command as _;
use crate::core::decide::access::visible_failure;
use crate::core::failure::Failure;
use crate::core::json_object::{Members, ObjectWriter, append_member, text_of};
use crate::core::mcp::forwarded_meta::forwarded_meta;
use crate::core::mcp::input_required::InputRequired;
use crate::core::mcp::result::request_result;
use crate::core::mcp::version::Era;
use crate::core::model::upstream_request::{RequestMethod, SendRequest};
use crate::http::tools::call::{call_limit, with_links};
use crate::telemetry::error::internal_error;

/// A request of a client, ready for a server.
pub(super) struct ClientRequest {
    pub exchange: Arc<Exchange>,
    pub era: Era,
    pub method: RequestMethod,
    /// The parameters of the method, without `_meta`.
    pub params: Box<RawValue>,
    /// The input that the server has asked for.
    input: ClientInput,
    /// The way of the server's messages to the client. Requests of this program itself have none.
    channel: Option<CallChannel>,
    traceparent: Option<Arc<str>>,
    meta: Option<Arc<str>>,
}

/// Returns a method that a server of the endpoint has declared.
///
/// # Errors
/// -32601 if no server has the method.
pub(super) fn find_method(
    exchange: &Exchange,
    method: &str,
    era: Era,
) -> Result<RequestMethod, RpcError> {
    RequestMethod::parse(method)
        .filter(|method| !exchange.servers_with(method.capability()).is_empty())
        .ok_or_else(|| RpcError::method_not_found(era))
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
    headers::check_text(headers, &headers::NAME, &name)
}

/// Begins a request. It has not started before the future is polled.
///
/// # Errors
/// -32602 if the parameters break a rule.
pub(super) fn begin_request(
    exchange: &Arc<Exchange>,
    mut client: CallingClient,
    params: &Params<'_>,
    method: RequestMethod,
) -> Result<RunningCall, RpcError> {
    let era = client.era;
    // Lists of several servers are put together, so their lines name no request of the client.
    client.log = client.log.filter(|_| method.named_parameter().is_some());
    let mut channel = client.open_channel(exchange, &params.meta)?;
    let messages = channel.messages.take();
    let request = ClientRequest {
        exchange: exchange.clone(),
        era,
        method,
        input: ClientInput::read(params, era)?,
        channel: Some(channel),
        params: sent_params(method, params)?,
        traceparent: traceparent(&params.meta).or_else(|| exchange.traceparent.clone()),
        meta: forwarded_meta(&params.meta.more).map(Into::into),
    };
    let outcome = Box::pin(async move {
        let result = if request.exchange.endpoint.is_all() {
            all_servers::handle(&request).await
        } else {
            send_to_only(&request).await
        };
        result.map_or_else(Outcome::Error, Outcome::Result)
    });
    Ok(RunningCall::new(outcome, messages))
}

async fn send_to_only(request: &ClientRequest) -> Result<Bytes, RpcError> {
    let servers = request.exchange.servers_with(request.method.capability());
    let server = servers
        .first()
        .ok_or_else(|| RpcError::method_not_found(request.era))?;
    request.send(server, request.params.clone()).await
}

impl ClientRequest {
    /// Returns a request of a client that has no parameters.
    pub(super) fn without_params(
        exchange: Arc<Exchange>,
        era: Era,
        method: RequestMethod,
    ) -> Result<Self, RpcError> {
        Ok(Self {
            traceparent: exchange.traceparent.clone(),
            exchange,
            era,
            method,
            params: raw("{}".to_owned())?,
            input: ClientInput::default(),
            channel: None,
            meta: None,
        })
    }

    /// Returns a request of the same client with another method.
    pub(super) fn with_method(&self, method: RequestMethod) -> Self {
        Self {
            exchange: self.exchange.clone(),
            era: self.era,
            method,
            params: self.params.clone(),
            input: ClientInput::default(),
            channel: None,
            traceparent: self.traceparent.clone(),
            meta: self.meta.clone(),
        }
    }

    fn scope(&self) -> StateScope<'_> {
        let members = Members::parse(self.params.get()).unwrap_or_default();
        let named = self.method.named_parameter();
        StateScope {
            method: self.method.as_str(),
            name: named
                .and_then(|name| members.get(name))
                .and_then(text_of)
                .unwrap_or_default(),
            arguments: members.get("arguments").map_or("{}", RawValue::get),
        }
    }

    /// Returns the result of a server in the form of the client's era.
    fn shape(&self, server: &Server, result: &Bytes) -> Result<Bytes, Failure> {
        let upstream = era_of_result(&self.exchange, server);
        let is_modern = may_be_modern(server) && self.era == Era::Modern;
        if is_modern
            && self.method.named_parameter().is_some()
            && InputRequired::parse(result)?.is_some()
        {
            return with_signed_state(&self.exchange, server, &self.scope(), result);
        }
        request_result(result, upstream, self.era, self.method.has_cache_hints())
    }

    /// Sends the request with these parameters to a server. Returns the result in the form of the client's era.
    ///
    /// # Errors
    /// The JSON-RPC error for the client.
    pub(super) async fn send(
        &self,
        server: &Arc<Server>,
        params: Box<RawValue>,
    ) -> Result<Bytes, RpcError> {
        let exchange = &self.exchange;
        let input = self.input.open(exchange, server, || self.scope())?;
        let params = match &input {
            OpenedInput::Server(input) => with_input(&params, input)?,
            _ => params,
        };
        let request = self.command_request(server, params)?;
        let interim = request.interim.clone();
        let channel = self.channel.as_ref();
        let client = channel
            .map(|channel| channel.client)
            .filter(|_| self.method.named_parameter().is_some());
        let mut sign_in = SignIn::new(exchange, server, client, interim.as_ref());
        sign_in.await_page(input).await;
        loop {
            let response = exchange.state.send_request(&request).await;
            let result = response.and_then(|response| self.shape(server, &response.body));
            let failure = match result {
                Ok(result) => return Ok(result),
                Err(failure) => visible_failure(&exchange.caller, failure),
            };
            let host = exchange.host.clone();
            let failure = with_links(&exchange.state, host, server, &exchange.user, failure);
            let failure = url_error::for_client(failure, client);
            match sign_in.step(&failure, &self.scope()).await {
                AccessStep::Retry => {}
                AccessStep::Ask(result) => return Ok(result),
                AccessStep::Fail => return Err(request_failure(&failure, self.era)),
            }
        }
    }

    fn command_request(
        &self,
        server: &Server,
        params: Box<RawValue>,
    ) -> Result<CommandRequest, RpcError> {
        let command = SendRequest {
            user: self.exchange.user.clone(),
            server: server.name.clone(),
            method: self.method,
            params,
        };
        let body = serde_json::to_vec(&command)
            .map_err(|error| request_failure(&internal_error(error), self.era))?;
        let channel = self.channel.as_ref();
        Ok(CommandRequest {
            area: SendRequest::AREA,
            server: server.exclusive_id(),
            command: SendRequest::NAME,
            time: channel.map_or_else(|| call_limit(server, None), |channel| channel.limit(server)),
            body: Bytes::from(body),
            call: None,
            client: channel.and_then(|channel| channel.client_of(server)),
            interim: channel.and_then(|channel| channel.interim.clone()),
            traceparent: self.traceparent.clone(),
            meta: self.meta.clone(),
        })
    }
}

/// Adds the input of a client to parameters.
fn with_input(params: &RawValue, input: &ClientInput) -> Result<Box<RawValue>, RpcError> {
    let text = params.get().trim_end();
    let mut text = text.strip_suffix('}').unwrap_or(text).to_owned();
    let members = [
        (r#""inputResponses""#, &input.responses),
        (r#""requestState""#, &input.state),
    ];
    for (name, value) in members {
        if let Some(value) = value {
            append_member(&mut text, name, value.get());
        }
    }
    text.push('}');
    raw(text)
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
    if let Some(required) = method.named_parameter() {
        let named = members.iter().find(|(name, _)| *name == required);
        let text = named.and_then(|(_, value)| value.and_then(text_of));
        if text.is_none() {
            return Err(RpcError::wrong_params(format!(
                "{required} must be a string"
            )));
        }
    }
    let is_object = |value: &RawValue| value.get().starts_with('{');
    if method == RequestMethod::GetPrompt && !params.arguments.is_none_or(is_object) {
        return Err(RpcError::wrong_params("arguments must be an object"));
    }
    let mut writer = ObjectWriter::with_capacity(256);
    for (name, value) in members {
        if let Some(value) = value {
            writer.raw(name, value.get());
        }
    }
    let sent = raw(writer.finish())?;
    check_args(&sent)
        .map_err(|failure| RpcError::wrong_params(failure.message.replacen("args", "params", 1)))?;
    Ok(sent)
}

/// Returns a text as raw JSON.
///
/// # Errors
/// -32602 if the text is no JSON.
pub(super) fn raw(text: String) -> Result<Box<RawValue>, RpcError> {
    RawValue::from_string(text).map_err(|_| RpcError::wrong_params("params must be JSON"))
}
