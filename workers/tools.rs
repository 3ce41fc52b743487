//! One tool call: permits, the user's secrets, the connection of the server, the call, and the redacted reply.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::context::Context;
use super::credentials::arguments::{ArgumentOpener, OpenedArgument, secret_arguments};
use super::google;
use super::handler::HandlerError;
use super::input_rounds::{call_in_rounds, input_members};
use super::interim::{LogRelay, ProgressRelay};
use super::mcp::frame::TOOL_CALL;
use super::mcp::{CallError, RequestParams, RpcError};
use super::open_requests::{CallClient, CallClientGuard, CallClientParts};
use super::permits::KeyPermit;
use super::redact::Redactor;
use super::runtime::handle::{ServerHandle, server_disabled};
use super::upstream_call::{EndedCall, UpstreamCall, UsedConnection};
use crate::core::arguments::merge::{ArgumentForm, SecretArgument};
use crate::core::arguments::{check_args_text, is_traceparent};
use crate::core::catalog::server::Server;
use crate::core::command::Command as _;
use crate::core::decide::credential::connection_values;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::json_object::Members;
use crate::core::mcp::client::McpClient;
use crate::core::mcp::forwarded_meta::forwarded_meta;
use crate::core::model::caller::{is_reserved, reserved_user};
use crate::core::model::google::{needs_tokens, secret_parts};
use crate::core::model::server_request::{AnswerDelivery, AnswerRequest};
use crate::core::model::tool_call::RetryTool;
use crate::core::model::upstream_request::RequestMethod;
use crate::core::names::{ToolName, UserName};
use crate::ports::bus::{Ask, InterimSender};
use crate::telemetry::error::internal_error;
use crate::time::clock::{monotonic, wall_ms_of};

/// JSON-RPC 2.0: the parameters do not fit the method.
const INVALID_PARAMS: i64 = -32602;
/// The largest `data` of a server's error that a caller gets, in bytes.
const MAX_ERROR_DATA: usize = 256 * 1024;

/// Calls a tool for an ask. The body of the ask is the arguments, or a repeated call. Returns the untouched CallToolResult.
///
/// # Errors
/// `Busy` without a permit, and the failure of the call.
pub(super) async fn call(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    let start = monotonic();
    let (args, input) = match ask.command {
        RetryTool::NAME => read_retry(&ask.body)?,
        _ => (ask.body, String::new()),
    };
    if !context.manager.alone {
        // Any client of the bus may have sent the arguments, and the server gets them as they are.
        check_args_text(&args)?;
    }
    let traceparent = ask.traceparent.as_deref();
    let meta = checked_meta(ask.meta.as_deref());
    let command = ask
        .call
        .ok_or_else(|| Failure::invalid("A tool call needs its server and its tool"))?;
    if is_reserved(&command.user) {
        return Err(reserved_user().into());
    }
    let server = context
        .projection
        .catalog()
        .server(command.server.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(&command.server))?;
    let args = std::str::from_utf8(&args).map_err(|_| Failure::invalid("args must be UTF-8"))?;
    let request = CallRequest {
        server: &server,
        user: &command.user,
        operation: Operation::Tool {
            tool: &command.tool,
            args,
        },
        timeout_ms: command.timeout_ms,
        traceparent: traceparent.filter(|text| is_traceparent(text)),
        meta: meta.as_deref(),
        client: ask.client,
        input: &input,
        interim: ask.interim.as_ref(),
        start,
    };
    run(context, &request).await
}

/// Returns the arguments of a repeated call, and the members of its input.
fn read_retry(body: &Bytes) -> Result<(Bytes, String), Failure> {
    let retry: RetryTool = serde_json::from_slice(body)
        .map_err(|error| Failure::invalid(format!("The body is no repeated call: {error}")))?;
    let input = input_members(
        retry.input_responses.as_deref(),
        retry.request_state.as_deref(),
    )?;
    let arguments = String::from(Box::<str>::from(retry.arguments));
    Ok((arguments.into(), input))
}

/// Returns the members of a client's `_meta` that a server receives. Any client of the bus may have sent others too.
pub(super) fn checked_meta(meta: Option<&str>) -> Option<String> {
    forwarded_meta(&Members::parse(meta?)?)
}

/// A request that a worker sends to a server for a user.
#[derive(Clone, Copy)]
pub(super) enum Operation<'a> {
    Tool {
        tool: &'a ToolName,
        /// A checked JSON object.
        args: &'a str,
    },
    Prompt {
        name: &'a str,
        /// A checked JSON object.
        args: &'a str,
    },
    Other {
        method: RequestMethod,
        /// The members of a checked JSON object.
        members: &'a str,
        /// The value of the header `Mcp-Name`.
        name: Option<&'a str>,
    },
}

impl<'a> Operation<'a> {
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Tool { .. } => TOOL_CALL,
            Self::Prompt { .. } => RequestMethod::GetPrompt.as_str(),
            Self::Other { method, .. } => method.as_str(),
        }
    }

    pub(super) fn name(self) -> Option<&'a str> {
        match self {
            Self::Tool { tool, .. } => Some(tool.as_str()),
            Self::Prompt { name, .. } => Some(name),
            Self::Other { name, .. } => name,
        }
    }

    /// Returns the parameters. Tools and prompts get the secrets as arguments.
    pub(super) fn params(self, secrets: &'a [SecretArgument<'a>]) -> RequestParams<'a> {
        let (name, args) = match self {
            Self::Tool { tool, args } => (tool.as_str(), args),
            Self::Prompt { name, args } => (name, args),
            Self::Other { members, .. } => return RequestParams::Members(members),
        };
        RequestParams::Named {
            name,
            args,
            secrets,
        }
    }
}

/// One request of a user, most often a tool call.
pub(super) struct CallRequest<'a> {
    pub server: &'a Arc<Server>,
    pub user: &'a UserName,
    pub operation: Operation<'a>,
    /// The time limit in milliseconds. `None`: that of the server.
    pub timeout_ms: Option<u64>,
    pub traceparent: Option<&'a str>,
    /// The members of an MCP client's `_meta` that the server receives, as a JSON object.
    pub meta: Option<&'a str>,
    /// The MCP client that waits for the result.
    pub client: Option<McpClient>,
    /// The input that the server has asked for: members of `params`, as checked JSON.
    pub input: &'a str,
    /// Receives the progress of the call.
    pub interim: Option<&'a InterimSender>,
    /// The time limit of the call counts from here.
    pub start: Instant,
}

impl CallRequest<'_> {
    pub(super) fn limit(&self) -> Duration {
        let configured = self.server.config.tool_timeout_ms();
        Duration::from_millis(self.timeout_ms.unwrap_or(configured))
    }

    pub(super) fn timeout(&self, problem: &str) -> Failure {
        let limit = self.limit().as_millis();
        let sentence = format!("Server {} {problem} within {limit} ms", self.server.name);
        Failure::new(Code::Timeout, sentence)
    }
}

/// Calls a tool within its time limit. Returns the untouched CallToolResult.
///
/// # Errors
/// `Busy` without a permit, and the failure of the call, without secrets.
pub(super) async fn run(
    context: &Arc<Context>,
    request: &CallRequest<'_>,
) -> Result<Bytes, HandlerError> {
    let server = request.server;
    if !server.enabled {
        return Err(server_disabled(&server.name).into());
    }
    let handle = context.manager.handle(server);
    let _permits = acquire_permits(context, &handle, request.user)?;
    let opened = open_arguments(context, request).await?;
    let _redaction = CallRedaction::hold(&handle.redactor, &opened)?;
    let arguments = secret_arguments(&opened)?;
    let redactor = request
        .interim
        .map(|_| Arc::new(user_redactor(&handle, request, &opened)));
    let messages = request.interim.zip(redactor.as_ref());
    let wants_progress = request.client.is_none_or(|client| client.progress);
    let progress = messages
        .filter(|_| wants_progress)
        .and_then(|(interim, redactor)| ProgressRelay::listener(redactor, interim));
    let log = messages.and_then(|(interim, redactor)| LogRelay::listener(redactor, interim));
    let client = messages
        .zip(request.client.and_then(McpClient::answering))
        .map(|((interim, redactor), capabilities)| {
            CallClient::begin(CallClientParts {
                open: context.open_requests.clone(),
                worker: context.manager.worker,
                user: request.user.clone(),
                capabilities,
                interim: interim.clone(),
                redactor: redactor.clone(),
                metrics: context.metrics.clone(),
            })
        });
    let call = UpstreamCall {
        context,
        handle: &handle,
        request,
        secrets: &arguments,
        progress,
        log,
        client: client.as_ref().map(CallClientGuard::client),
    };
    let user_redactor_now = || user_redactor(&handle, request, &opened);
    match call_in_rounds(&call, user_redactor_now).await? {
        Ok(result) => Ok(result),
        Err(ended) => {
            let redactor = user_redactor(&handle, request, &opened);
            Err(redact(context, &handle, request, ended, &redactor).into())
        }
    }
}

/// Gives the answer of an MCP client to the call that waits for it.
pub(super) async fn answer_request(
    context: Arc<Context>,
    answer: AnswerRequest,
) -> Result<AnswerDelivery, Failure> {
    Ok(context.open_requests.deliver(answer))
}

/// The permits that a call holds besides the one of the worker.
struct CallPermits<'a> {
    _user: KeyPermit<UserName>,
    _server: SemaphorePermit<'a>,
}

fn acquire_permits<'a>(
    context: &Context,
    handle: &'a ServerHandle,
    user: &UserName,
) -> Result<CallPermits<'a>, HandlerError> {
    let user = context.permits.user(user).ok_or(HandlerError::Busy)?;
    let server = handle
        .permits
        .try_acquire()
        .map_err(|_| HandlerError::Busy)?;
    if !context.permits.is_within_share(&handle.permits) {
        return Err(HandlerError::Busy);
    }
    Ok(CallPermits {
        _user: user,
        _server: server,
    })
}

async fn open_arguments(
    context: &Context,
    request: &CallRequest<'_>,
) -> Result<Vec<OpenedArgument>, Failure> {
    let server = request.server;
    let user = request.user;
    let opener = ArgumentOpener {
        store: &context.manager.sealed_store,
        projection: &context.projection,
        metrics: &context.metrics,
    };
    let mut arguments = opener.open(server, user).await?;
    if let Operation::Tool { tool, .. } = request.operation
        && needs_tokens(&server.config, tool.as_str())
    {
        google::add_google_arguments(context, server, user, &mut arguments).await?;
    }
    Ok(arguments)
}

/// Returns the redactor for the texts that the user of a request sees.
fn user_redactor(
    handle: &ServerHandle,
    request: &CallRequest<'_>,
    opened: &[OpenedArgument],
) -> Redactor {
    let of_connection = connection_values(request.server, Some(request.user)).unwrap_or_default();
    let arguments = opened.iter().map(|argument| argument.id);
    let own: Vec<ValueId> = arguments.chain(of_connection).collect();
    handle.redactor.for_user(&own)
}

/// Converts the error of a call into a failure without secrets.
fn redact(
    context: &Context,
    handle: &ServerHandle,
    request: &CallRequest<'_>,
    ended: EndedCall,
    redactor: &Redactor,
) -> Failure {
    let server = request.server;
    let upstream = |sentence: String| Failure::new(Code::UpstreamError, sentence);
    let with_start = |failure: Failure, begun: bool| {
        if begun { failure.maybe_run() } else { failure }
    };
    match ended.error {
        CallError::Rpc(error) => rpc_failure(server, &error, redactor),
        CallError::TimedOut => request.timeout("did not answer").maybe_run(),
        CallError::NoTurn => request.timeout("ran other calls, one at a time,"),
        CallError::Closed { begun } => {
            let start_ms = wall_ms_of(request.start);
            let sentence = format!("Server {} ended before it answered", server.name);
            let failure = match &ended.used {
                UsedConnection::OfUser(call) => {
                    upstream(sentence).with_details(call.output_since(start_ms))
                }
                // Earlier lines may belong to the calls of other users. Later lines may too, if calls ran at the same
                // time.
                UsedConnection::Shared(_) => {
                    let details = handle.log_buffer.output_since(start_ms);
                    upstream(sentence).with_details_for_admins(details)
                }
            };
            with_start(failure, begun)
        }
        CallError::Wrong { reason, begun } => {
            let reason = redactor.mask(&reason);
            with_start(upstream(format!("Server {}: {reason}", server.name)), begun)
        }
        CallError::Denied(denied) => *denied,
        CallError::TooLarge => {
            let limit = context.manager.limits.result;
            let sentence = format!(
                "The result of server {} is larger than RESULT_LIMIT ({limit} bytes)",
                server.name
            );
            Failure::new(Code::ResultTooLarge, sentence).maybe_run()
        }
    }
}

/// Returns the failure for a JSON-RPC error. Wrong arguments are an error of the caller, all else of the server.
fn rpc_failure(server: &Server, error: &[u8], redactor: &Redactor) -> Failure {
    let Ok(rpc) = serde_json::from_slice::<RpcError>(error) else {
        let sentence = format!(
            "Server {} answered with an error that is no JSON-RPC error",
            server.name
        );
        return Failure::new(Code::UpstreamError, sentence).maybe_run();
    };
    let code = if rpc.code == INVALID_PARAMS {
        Code::InvalidRequest
    } else {
        Code::UpstreamError
    };
    let message = redactor.mask(&rpc.message);
    let sentence = format!("Server {} refused the call: {message}", server.name);
    let data = rpc.data.and_then(|data| masked_data(&data, redactor));
    let masked = RpcError {
        code: rpc.code,
        message,
        data,
    };
    Failure {
        mcp_error: serde_json::value::to_raw_value(&masked).ok(),
        ..Failure::new(code, sentence)
    }
}

/// Returns the data of an error without secrets. The worker masks each text of it, so large data would occupy a thread for long.
fn masked_data(data: &RawValue, redactor: &Redactor) -> Option<Box<RawValue>> {
    if data.get().len() <= MAX_ERROR_DATA {
        return RawValue::from_string(redactor.mask_json(data.get())).ok();
    }
    let sentence =
        format!("The worker left out this data, because it is larger than {MAX_ERROR_DATA} bytes");
    serde_json::value::to_raw_value(&sentence).ok()
}

/// Masks the secrets of a call while the call runs.
pub(super) struct CallRedaction<'a> {
    redactor: &'a Redactor,
    ids: Vec<ValueId>,
}

impl<'a> CallRedaction<'a> {
    /// Masks the secrets of a call.
    ///
    /// # Errors
    /// An internal error if a secret is not UTF-8.
    pub(super) fn hold(redactor: &'a Redactor, opened: &[OpenedArgument]) -> Result<Self, Failure> {
        let mut redaction = Self {
            redactor,
            ids: Vec::with_capacity(opened.len()),
        };
        for secret in opened {
            let value = secret.value.value().map_err(internal_error)?;
            match secret.form {
                ArgumentForm::Text => redactor.hold(secret.id, value),
                ArgumentForm::Json => redactor.hold_parts(secret.id, || secret_parts(value)),
            }
            redaction.ids.push(secret.id);
        }
        Ok(redaction)
    }

    /// Masks the secret parts of one value.
    pub(super) fn parts(
        redactor: &'a Redactor,
        id: ValueId,
        parts: impl FnOnce() -> Vec<Zeroizing<String>>,
    ) -> Self {
        redactor.hold_parts(id, parts);
        Self {
            redactor,
            ids: vec![id],
        }
    }
}

impl Drop for CallRedaction<'_> {
    fn drop(&mut self) {
        for id in &self.ids {
            self.redactor.release(*id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_data_of_an_error_is_left_out() {
        let redactor = Redactor::default();
        for (length, is_kept) in [(100, true), (MAX_ERROR_DATA, false)] {
            let json = format!("[\"{}\"]", "x".repeat(length));
            let data = RawValue::from_string(json.clone()).expect("JSON");
            let masked = masked_data(&data, &redactor).expect("data");
            assert_eq!(masked.get() == json, is_kept, "{length}");
            assert!(is_kept || masked.get().contains("left out"));
        }
    }
}
