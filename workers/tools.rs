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
use super::interim::ProgressRelay;
use super::mcp::frame::TOOL_CALL;
use super::mcp::{CallError, Connection, ProgressListener, RequestParams, RpcError, UserRequest};
use super::permits::KeyPermit;
use super::redact::Redactor;
use super::runtime::handle::{ServerHandle, server_disabled};
use super::runtime::user_connections::{UserCall, UserConnections};
use crate::core::arguments::merge::{ArgumentForm, SecretArgument};
use crate::core::arguments::{check_args_text, is_traceparent};
use crate::core::catalog::server::Server;
use crate::core::decide::credential::connection_values;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::json_object::Members;
use crate::core::mcp::forwarded_meta::forwarded_meta;
use crate::core::model::caller::{is_reserved, reserved_user};
use crate::core::model::google::{needs_tokens, secret_parts};
use crate::core::model::upstream_request::RequestMethod;
use crate::core::names::{ToolName, UserName};
use crate::ports::bus::{Ask, InterimSender};
use crate::telemetry::error::internal_error;
use crate::time::clock::{monotonic, now_ms};

/// JSON-RPC 2.0: the parameters do not fit the method.
const INVALID_PARAMS: i64 = -32602;

/// Calls a tool for an ask. The body of the ask is the arguments. Returns the untouched CallToolResult.
///
/// # Errors
/// `Busy` without a permit, and the failure of the call.
pub(super) async fn call(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    let start = monotonic();
    if !context.manager.alone {
        // Any client of the bus may have sent the arguments, and the server gets them as they are.
        check_args_text(&ask.body)?;
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
    let args =
        std::str::from_utf8(&ask.body).map_err(|_| Failure::invalid("args must be UTF-8"))?;
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
        interim: ask.interim.as_ref(),
        start,
    };
    run(context, &request).await
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
    fn method(self) -> &'static str {
        match self {
            Self::Tool { .. } => TOOL_CALL,
            Self::Prompt { .. } => RequestMethod::GetPrompt.as_str(),
            Self::Other { method, .. } => method.as_str(),
        }
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Self::Tool { tool, .. } => Some(tool.as_str()),
            Self::Prompt { name, .. } => Some(name),
            Self::Other { name, .. } => name,
        }
    }

    /// Returns the parameters. Tools and prompts get the secrets as arguments.
    fn params(self, secrets: &'a [SecretArgument<'a>]) -> RequestParams<'a> {
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
    /// Receives the progress of the call.
    pub interim: Option<&'a InterimSender>,
    /// The time limit of the call counts from here.
    pub start: Instant,
}

impl CallRequest<'_> {
    fn limit(&self) -> Duration {
        let configured = self.server.config.tool_timeout_ms();
        Duration::from_millis(self.timeout_ms.unwrap_or(configured))
    }

    fn time_left(&self) -> Duration {
        self.limit().saturating_sub(self.start.elapsed())
    }

    fn timeout(&self, problem: &str) -> Failure {
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
    let progress = request.interim.map(|interim| {
        let redactor = Arc::new(user_redactor(&handle, request, &opened));
        ProgressRelay::listener(redactor, interim.clone())
    });
    match call_with_retry(context, &handle, request, &arguments, progress).await? {
        Ok(result) => Ok(result),
        Err(ended) => {
            let redactor = user_redactor(&handle, request, &opened);
            Err(redact(context, &handle, request, ended, &redactor).into())
        }
    }
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

/// Calls the server. If the connection closes before the call has started, the call waits for the next connection.
async fn call_with_retry(
    context: &Context,
    handle: &Arc<ServerHandle>,
    request: &CallRequest<'_>,
    secrets: &[SecretArgument<'_>],
    progress: Option<Arc<dyn ProgressListener>>,
) -> Result<Result<Bytes, EndedCall>, Failure> {
    let server = request.server;
    loop {
        let connecting = connection(context, handle, server, request.user);
        let used = tokio::time::timeout(request.time_left(), connecting)
            .await
            .map_err(|_| request.timeout("was not connected"))??;
        let call = UserRequest {
            method: request.operation.method(),
            params: request.operation.params(secrets),
            name: request.operation.name(),
            traceparent: request.traceparent,
            meta: request.meta,
            timeout: request.time_left(),
            reset_on_progress: server.config.reset_timeout_on_progress,
            progress: progress.clone(),
        };
        let connection = used.connection();
        match connection.call(call).await {
            Err(CallError::Closed { begun: false }) => {}
            Err(error @ CallError::Closed { begun: true }) => {
                // The last lines of the server belong into `details`.
                connection.drain_stderr().await;
                return Ok(Err(EndedCall { error, used }));
            }
            outcome => return Ok(outcome.map_err(|error| EndedCall { error, used })),
        }
    }
}

/// A call without a result, and the connection that it used.
struct EndedCall {
    error: CallError,
    used: UsedConnection,
}

/// The connection of one call.
enum UsedConnection {
    Shared(Arc<Connection>),
    /// No other user has it.
    OfUser(UserCall),
}

impl UsedConnection {
    fn connection(&self) -> &Connection {
        match self {
            Self::Shared(connection) => connection,
            Self::OfUser(call) => &call.connection,
        }
    }
}

/// Returns the connection for a user: some users have a connection of their own.
async fn connection(
    context: &Context,
    handle: &Arc<ServerHandle>,
    server: &Server,
    user: &UserName,
) -> Result<UsedConnection, Failure> {
    if !UserConnections::serve(server, user) {
        return handle.connection().await.map(UsedConnection::Shared);
    }
    handle.ensure_owned().await?;
    let connection = handle.users.connection(&context.manager, handle, user);
    connection.await.map(UsedConnection::OfUser)
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
        CallError::Closed { begun } => {
            let start_ms = now_ms().saturating_sub(request.start.elapsed().as_millis() as u64);
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
    let data = rpc
        .data
        .and_then(|data| RawValue::from_string(redactor.mask_json(data.get())).ok());
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
