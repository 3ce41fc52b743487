//! `tools/call`: the way of a call to its worker is that of `POST /mcp/tool/call`.

use std::sync::Arc;

use axum::http::HeaderMap;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;

use super::all_servers::prefixed;
use super::answer::Outcome;
use super::endpoint::{Endpoint, Exchange};
use super::envelope::{Meta, Params, is_id};
use super::error::{RpcError, call_failure};
use super::headers;
use super::hidden::hidden_properties;
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::{check_args, is_traceparent};
use crate::core::catalog::server::Server;
use crate::core::command::{Area, Command as _};
use crate::core::json_object::text_of;
use crate::core::mcp::forwarded_meta::forwarded_meta;
use crate::core::mcp::result::{ClientResult, client_result};
use crate::core::mcp::version::Era;
use crate::core::model::remote::ProtocolMode;
use crate::core::model::tool_call::CallTool;
use crate::core::names::ToolName;
use crate::http::tools::call::{ToolOutcome, call_limit, detach_slice, execute_call, with_links};
use crate::ports::interim::{InterimReceiver, InterimSender, interim_channel};

/// A call that runs while its future is polled. Dropping it cancels the call.
pub(super) struct RunningCall {
    pub outcome: BoxFuture<'static, Outcome>,
    /// The progress of the tool, if the client asked for it.
    pub progress: Option<Progress>,
    /// The outcome, while progress that came before it is not sent yet.
    pub finished: Option<Outcome>,
}

impl RunningCall {
    pub(super) fn without_progress(outcome: BoxFuture<'static, Outcome>) -> Self {
        Self {
            outcome,
            progress: None,
            finished: None,
        }
    }
}

/// The progress notifications of one call.
pub(super) struct Progress {
    pub messages: InterimReceiver,
    /// The raw progress token of the client.
    pub token: String,
}

/// The tool that a call names.
pub(super) struct CalledTool {
    pub server: Arc<Server>,
    pub tool: ToolName,
}

/// Finds the tool of a call.
///
/// # Errors
/// -32602 if no tool has the name, or if the name is no text.
pub(super) fn find_tool(exchange: &Exchange, params: &Params<'_>) -> Result<CalledTool, RpcError> {
    let name = params
        .name
        .and_then(text_of)
        .ok_or_else(|| RpcError::wrong_params("name must be the name of a tool"))?;
    let catalog = exchange.state.catalog();
    let unknown = || RpcError::wrong_params("No tool has this name; tools/list shows all names");
    let (server, tool) = match &exchange.endpoint {
        // The server answers a name that it does not have.
        Endpoint::Server(server) => (catalog.server(server.as_str()), name.parse()),
        Endpoint::All => {
            let directory = exchange.state.mcp().directory.get(&catalog);
            let found = directory
                .find(&name, |server| exchange.may_use(&catalog, server))
                .ok_or_else(unknown)?;
            (catalog.server_by_id(found.server), found.tool.parse())
        }
    };
    Ok(CalledTool {
        server: server.cloned().ok_or_else(unknown)?,
        tool: tool.map_err(|error| RpcError::wrong_params(format!("name {error}")))?,
    })
}

/// Checks the headers that repeat arguments of the tool.
///
/// # Errors
/// -32020 if a header differs from its argument.
pub(super) fn check_argument_headers(
    exchange: &Exchange,
    headers: &HeaderMap,
    called: &CalledTool,
    arguments: Option<&RawValue>,
) -> Result<(), RpcError> {
    let server = &called.server;
    let directory = exchange
        .state
        .mcp()
        .directory
        .get(&exchange.state.catalog());
    if !directory.has_argument_headers(server.id, called.tool.as_str()) {
        return Ok(());
    }
    let tools = server.tools.tools.iter();
    let Some(tool) = tools
        .into_iter()
        .find(|tool| tool.name().as_deref() == Some(called.tool.as_str()))
    else {
        return Ok(());
    };
    let parse = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
    let tool_json = parse(tool.raw().get());
    let arguments = arguments.map_or(Value::Null, |arguments| parse(arguments.get()));
    let hidden = hidden_properties(server, &exchange.user, called.tool.as_str());
    headers::check_arguments(headers, &tool_json["inputSchema"], &hidden, &arguments)
}

/// Begins a call.
///
/// # Errors
/// -32602 if the parameters are wrong.
pub(super) fn begin_call(
    exchange: &Arc<Exchange>,
    era: Era,
    body: &Bytes,
    params: &Params<'_>,
    called: CalledTool,
) -> Result<RunningCall, RpcError> {
    if params.input_responses.is_some() || params.request_state.is_some() {
        return Err(RpcError::wrong_params(
            "inputResponses and requestState cannot be used, because this endpoint asks for no input",
        ));
    }
    let arguments = match params.arguments {
        None => Bytes::from_static(b"{}"),
        Some(arguments) => {
            check_args(arguments).map_err(|failure| {
                RpcError::wrong_params(failure.message.replacen("args", "arguments", 1))
            })?;
            detach_slice(body, arguments)
        }
    };
    let meta = &params.meta;
    let (interim, progress) = progress(exchange, meta)?.unzip();
    let server = called.server;
    let request = CommandRequest {
        area: Area::Tools,
        server: server.exclusive_id(),
        command: CallTool::NAME,
        time: call_limit(&server, None),
        body: arguments,
        call: Some(CallTool {
            user: exchange.user.clone(),
            server: server.name.clone(),
            tool: called.tool,
            timeout_ms: None,
        }),
        traceparent: traceparent(meta).or_else(|| exchange.traceparent.clone()),
        meta: forwarded_meta(&meta.more).map(Into::into),
        interim,
    };
    let exchange = exchange.clone();
    let outcome = Box::pin(async move {
        let state = &exchange.state;
        let caller = &exchange.caller;
        let shape = |result: &Bytes| {
            let mut result = client_result(result, upstream_era(&server), era)?;
            if exchange.endpoint.is_all() && declares_resources(&server) {
                result.json = prefixed(&server, result.json);
            }
            Ok(result)
        };
        match execute_call(state, caller, &server, request, shape).await {
            Ok(result) => Outcome::Result(result.json),
            Err(failure) => {
                let host = exchange.host.clone();
                let failure = with_links(&exchange.state, host, &server, &exchange.user, failure);
                call_failure(&failure, era).into()
            }
        }
    });
    Ok(RunningCall {
        outcome,
        progress,
        finished: None,
    })
}

/// Returns the channel for the progress of a call, if the client wants it and takes event streams.
fn progress(
    exchange: &Exchange,
    meta: &Meta<'_>,
) -> Result<Option<(InterimSender, Progress)>, RpcError> {
    let Some(token) = meta.progress_token else {
        return Ok(None);
    };
    if !is_id(token) {
        return Err(RpcError::wrong_params(
            "_meta.progressToken must be a string or an integer",
        ));
    }
    if !exchange.accepted.events {
        return Ok(None);
    }
    let (sender, messages) = interim_channel();
    let token = token.get().to_owned();
    Ok(Some((sender, Progress { messages, token })))
}

impl ToolOutcome for ClientResult {
    fn is_error(&self) -> bool {
        self.is_error
    }
}

/// Returns the trace context of `_meta`, if it is valid (SEP-414).
pub(super) fn traceparent(meta: &Meta<'_>) -> Option<Arc<str>> {
    let text = text_of(meta.traceparent?)?;
    is_traceparent(&text).then(|| text.as_ref().into())
}

fn declares_resources(server: &Server) -> bool {
    let description = server.description.as_ref();
    description.is_some_and(|description| description.declares("resources"))
}

/// Returns the era of a server's results. A child process speaks a legacy revision.
pub(super) fn upstream_era(server: &Server) -> Era {
    match server.protocol {
        Some(ProtocolMode::Stateless) => Era::Modern,
        _ => Era::Legacy,
    }
}
