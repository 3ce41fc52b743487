//! `tools/call`: the way of a call to its worker is that of `POST /mcp/tool/call`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use serde_json::value::RawValue;

use super::all_servers::prefixed;
use super::answer::Outcome;
use super::endpoint::Exchange;
use super::envelope::{Meta, Params, is_id};
use super::error::{RpcError, call_failure};
use super::headers;
use super::hidden::hidden_properties;
use super::input::{ClientInput, OpenedInput, StateScope, with_signed_state};
use super::request::raw;
use super::sign_in::{AccessStep, SignIn};
use super::url_error;
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::{check_args, is_traceparent};
use crate::core::catalog::server::Server;
use crate::core::command::{Area, Command as _};
use crate::core::failure::Failure;
use crate::core::json_object::text_of;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::client::McpClient;
use crate::core::mcp::forwarded_meta::forwarded_meta;
use crate::core::mcp::input_required::InputRequired;
use crate::core::mcp::log_level::WantedLog;
use crate::core::mcp::result::{ClientResult, client_result};
use crate::core::mcp::version::Era;
use crate::core::model::remote::ProtocolMode;
use crate::core::model::tool_call::{CallTool, RetryTool};
use crate::core::names::{BadName, ToolName};
use crate::http::tools::call::{ToolOutcome, call_limit, detach_slice, execute_call, with_links};
use crate::ports::interim::{InterimKinds, InterimReceiver, InterimSender, interim_channel_for};

/// The longest time that the client of a call may take for all answers to its server. The worker limits it.
const ANSWER_TIME: Duration = Duration::from_secs(10 * 60);

/// A call that runs while its future is polled. Dropping it cancels the call.
pub(super) struct RunningCall {
    pub outcome: BoxFuture<'static, Outcome>,
    /// The messages of the server before the outcome, if the client takes any.
    pub messages: Option<CallMessages>,
    /// The outcome, while messages that came before it are not sent yet.
    pub finished: Option<Outcome>,
}

impl RunningCall {
    pub(super) fn new(
        outcome: BoxFuture<'static, Outcome>,
        messages: Option<CallMessages>,
    ) -> Self {
        Self {
            outcome,
            messages,
            finished: None,
        }
    }
}

/// The progress notifications of one call, and the requests of its server to the client.
pub(super) struct CallMessages {
    pub receiver: InterimReceiver,
    /// The raw progress token of the client, if it wants progress.
    pub token: Option<String>,
}

/// The client that makes a call.
#[derive(Clone, Copy)]
pub(super) struct CallingClient {
    pub era: Era,
    /// The capabilities with which a server can ask the client.
    pub capabilities: ClientCapabilities,
    /// The log lines that the client takes.
    pub log: Option<WantedLog>,
}

impl CallingClient {
    /// Opens the channel for the messages of a call that the client takes. Returns the client as the worker sees it.
    ///
    /// # Errors
    /// -32602 if the progress token has the wrong type.
    pub(super) fn open_channel(
        self,
        exchange: &Exchange,
        meta: &Meta<'_>,
    ) -> Result<CallChannel, RpcError> {
        let token = meta.progress_token;
        if !token.is_none_or(is_id) {
            return Err(RpcError::wrong_params(
                "_meta.progressToken must be a string or an integer",
            ));
        }
        let takes_messages = exchange.accepted.events;
        let token = token
            .filter(|_| takes_messages)
            .map(|token| token.get().to_owned());
        let capabilities = match self.era {
            // Such a client gets requests as results, which need no stream.
            Era::Modern => self.capabilities,
            Era::Legacy if takes_messages => self.capabilities,
            Era::Legacy => ClientCapabilities::default(),
        };
        let client = McpClient {
            era: self.era,
            capabilities,
            progress: token.is_some(),
        };
        let log = self.log.filter(|_| takes_messages);
        let is_needed = token.is_some() || log.is_some() || client.answering().is_some();
        let (interim, messages) = is_needed
            .then(|| {
                // Without a progress token, the worker asks the server for no progress.
                let kinds = InterimKinds {
                    progress: true,
                    log,
                };
                let (sender, receiver) = interim_channel_for(kinds);
                (sender, CallMessages { receiver, token })
            })
            .unzip();
        Ok(CallChannel {
            client,
            interim,
            messages,
        })
    }
}

/// The channel for the messages of a call.
pub(super) struct CallChannel {
    pub client: McpClient,
    pub interim: Option<InterimSender>,
    pub messages: Option<CallMessages>,
}

impl CallChannel {
    /// Returns the client for the worker, if the worker needs it: to ask the client, to ask the server for progress, or to
    /// let a server of 2026-07-28 ask in its result.
    pub(super) fn client_of(&self, server: &Server) -> Option<McpClient> {
        let asks_in_result = self.client.era == Era::Modern && may_be_modern(server);
        let is_needed = asks_in_result || self.interim.is_some();
        is_needed.then_some(self.client)
    }

    /// Returns the time limit of a request to a worker. The worker does not count the time that the client takes for its
    /// answers.
    pub(super) fn limit(&self, server: &Server) -> Duration {
        let answers = self.client.answering().map(|_| ANSWER_TIME);
        call_limit(server, None) + answers.unwrap_or_default()
    }
}

/// The tool that a call names.
pub(super) struct CalledTool {
    pub server: Arc<Server>,
    pub tool: ToolName,
}

/// Finds the tool of a call. `server` is the server of the endpoint; without it, the name of the tool names the server.
///
/// # Errors
/// -32602 if no tool has the name, or if the name is no text.
pub(super) fn find_tool(
    exchange: &Exchange,
    server: Option<Arc<Server>>,
    params: &Params<'_>,
) -> Result<CalledTool, RpcError> {
    let name = params
        .name
        .and_then(text_of)
        .ok_or_else(|| RpcError::wrong_params("name must be the name of a tool"))?;
    let (server, tool) = match server {
        // The server answers a name that it does not have.
        Some(server) => (server, name.parse()),
        None => find_exposed_tool(exchange, &name).ok_or_else(|| {
            RpcError::wrong_params("No tool has this name; tools/list shows all names")
        })?,
    };
    let tool = tool.map_err(|error| RpcError::wrong_params(format!("name {error}")))?;
    Ok(CalledTool { server, tool })
}

/// Finds the server and the tool that a name of the endpoint of all servers means.
fn find_exposed_tool(
    exchange: &Exchange,
    name: &str,
) -> Option<(Arc<Server>, Result<ToolName, BadName>)> {
    let catalog = exchange.state.catalog();
    let directory = exchange.state.mcp().directory.get(&catalog);
    let found = directory.find(name, |server| exchange.may_use(&catalog, server))?;
    let server = catalog.server_by_id(found.server)?;
    Some((server.clone(), found.tool.parse()))
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
    mut client: CallingClient,
    body: &Bytes,
    params: &Params<'_>,
    called: CalledTool,
) -> Result<RunningCall, RpcError> {
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
    client.log = client.log.filter(|_| called.server.config.logs_for_calls());
    let channel = client.open_channel(exchange, meta)?;
    let era = client.era;
    let server = called.server;
    let shape = ResultShape {
        exchange: exchange.clone(),
        server: server.clone(),
        era,
        name: params.name.and_then(text_of).unwrap_or_default().into(),
        arguments: arguments.clone(),
    };
    let input = ClientInput::read(params, era)?.open(exchange, &server, || shape.scope())?;
    let (command, body) = match &input {
        OpenedInput::Server(input) => (RetryTool::NAME, retry_body(&arguments, input)?),
        _ => (CallTool::NAME, arguments),
    };
    let request = CommandRequest {
        area: Area::Tools,
        server: server.exclusive_id(),
        command,
        time: channel.limit(&server),
        body,
        call: Some(CallTool {
            user: exchange.user.clone(),
            server: server.name.clone(),
            tool: called.tool,
            timeout_ms: None,
        }),
        traceparent: traceparent(meta).or_else(|| exchange.traceparent.clone()),
        meta: forwarded_meta(&meta.more).map(Into::into),
        client: channel.client_of(&server),
        interim: channel.interim,
    };
    let outcome = Box::pin(execute(
        exchange.clone(),
        shape,
        channel.client,
        request,
        input,
    ));
    Ok(RunningCall::new(outcome, channel.messages))
}

/// Executes a call, and makes it again after the user has given access.
async fn execute(
    exchange: Arc<Exchange>,
    shape: ResultShape,
    client: McpClient,
    request: CommandRequest,
    input: OpenedInput,
) -> Outcome {
    let server = shape.server.clone();
    let mut sign_in = SignIn::new(&exchange, &server, Some(client), request.interim.as_ref());
    sign_in.await_page(input).await;
    loop {
        let (state, caller) = (&exchange.state, &exchange.caller);
        let shaped = |result: &Bytes| shape.apply(result);
        let executed = execute_call(state, caller, &server, &request, shaped).await;
        let failure = match executed {
            Ok(result) => return Outcome::Result(result.json),
            Err(failure) => failure,
        };
        let host = exchange.host.clone();
        let failure = with_links(state, host, &server, &exchange.user, failure);
        let failure = url_error::for_client(failure, Some(client));
        let step = Box::pin(sign_in.step(&failure, &shape.scope())).await;
        match step {
            AccessStep::Retry => {}
            AccessStep::Ask(result) => return Outcome::Result(result),
            AccessStep::Fail => return call_failure(&failure, shape.era).into(),
        }
    }
}

/// Returns the body of a call that is repeated with the client's input.
fn retry_body(arguments: &Bytes, input: &ClientInput) -> Result<Bytes, RpcError> {
    let arguments = String::from_utf8_lossy(arguments).into_owned();
    let retry = RetryTool {
        arguments: raw(arguments)?,
        input_responses: input.responses.clone(),
        request_state: input.state.clone(),
    };
    let body = serde_json::to_vec(&retry);
    let body = body.map_err(|_| RpcError::wrong_params("arguments must be JSON"))?;
    Ok(body.into())
}

/// The form in which a client gets the result of a call.
struct ResultShape {
    exchange: Arc<Exchange>,
    server: Arc<Server>,
    era: Era,
    /// The tool, as the client names it.
    name: String,
    arguments: Bytes,
}

impl ResultShape {
    fn scope(&self) -> StateScope<'_> {
        StateScope {
            method: "tools/call",
            name: Cow::Borrowed(&self.name),
            arguments: std::str::from_utf8(&self.arguments).unwrap_or_default(),
        }
    }

    fn apply(&self, result: &Bytes) -> Result<ClientResult, Failure> {
        let upstream = era_of_result(&self.exchange, &self.server);
        let is_modern = may_be_modern(&self.server) && self.era == Era::Modern;
        if is_modern && InputRequired::parse(result)?.is_some() {
            let scope = self.scope();
            return Ok(ClientResult {
                json: with_signed_state(&self.exchange, &self.server, &scope, result)?,
                is_error: false,
            });
        }
        let mut result = client_result(result, upstream, self.era)?;
        if self.exchange.endpoint.is_all() && declares_resources(&self.server) {
            result.json = prefixed(&self.server, result.json);
        }
        Ok(result)
    }
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

/// Whether a result of a server may ask for input. The first call of a server may find out how the server speaks.
pub(super) fn may_be_modern(server: &Server) -> bool {
    matches!(server.protocol, None | Some(ProtocolMode::Stateless))
}

/// Returns the era of a result that has arrived. The call may have found out how its server speaks.
pub(super) fn era_of_result(exchange: &Exchange, server: &Server) -> Era {
    if server.protocol.is_some() {
        return upstream_era(server);
    }
    let catalog = exchange.state.catalog();
    let newest = catalog.server_by_id(server.id);
    upstream_era(newest.map_or(server, Arc::as_ref))
}

/// Returns the era of a server's results, as far as it is known.
pub(super) fn upstream_era(server: &Server) -> Era {
    match server.protocol {
        Some(ProtocolMode::Stateless) => Era::Modern,
        _ => Era::Legacy,
    }
}
