//! One tool call: the user's secrets, the server's connection, the call, the answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::context::Context;
use super::mcp::{CallError, Connection, RpcError, ToolCall};
use super::redact::Redactor;
use super::runtime::handle::ServerHandle;
use super::secrets::OpenedSecret;
use super::{HandlerError, google, secrets};
use crate::core::arguments::merge::{ArgumentForm, SecretArgument};
use crate::core::arguments::{check_args_text, is_traceparent};
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::google::{needs_tokens, secret_parts};
use crate::core::model::tool_call::CallTool;
use crate::core::names::UserName;
use crate::ports::bus::Ask;
use crate::telemetry::error::internal_error;

/// JSON-RPC 2.0: the parameters are not what the method takes.
const INVALID_PARAMS: i64 = -32602;

/// The ask's body is the arguments. The answer is the raw CallToolResult.
pub async fn call(context: &Arc<Context>, ask: Ask) -> Result<Bytes, HandlerError> {
    let began = Instant::now();
    if !context.manager.alone {
        // It may come from anybody on the bus, and goes to a server as it is.
        check_args_text(&ask.body)?;
    }
    let traceparent = ask
        .traceparent
        .as_deref()
        .filter(|text| is_traceparent(text));
    let command = ask
        .call
        .ok_or_else(|| Failure::invalid("A tool call without its server and tool"))?;
    let server = context
        .projection
        .catalog()
        .server(command.server.as_str())
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found(&command.server))?;
    let args =
        std::str::from_utf8(&ask.body).map_err(|_| Failure::invalid("args must be UTF-8"))?;
    run(context, &server, &command, args, traceparent, began).await
}

/// Calls a tool of a server that is known, in its time. `args` is a JSON object, already checked.
pub async fn run(
    context: &Arc<Context>,
    server: &Arc<Server>,
    command: &CallTool,
    args: &str,
    traceparent: Option<&str>,
    began: Instant,
) -> Result<Bytes, HandlerError> {
    if !server.enabled {
        let disabled = format!(
            "Server {0} is disabled; enable it with PUT /mcp/servers/{0}/enable",
            server.name
        );
        return Err(Failure::new(Code::ServerDisabled, disabled).into());
    }
    let _of_user = context
        .permits
        .user(&command.user)
        .ok_or(HandlerError::Busy)?;
    let handle = context.manager.handle(server);
    let _of_server = handle
        .permits
        .try_acquire()
        .map_err(|_| HandlerError::Busy)?;

    let limit = Duration::from_millis(
        command
            .timeout_ms
            .unwrap_or(server.config.tool_timeout_ms()),
    );
    let in_time = |what: &str| late(server, limit, what);
    let mut secrets = secrets::open(context, server, &command.user).await?;
    if needs_tokens(&server.config, command.tool.as_str()) {
        google::add_google_secrets(context, server, &command.user, &mut secrets).await?;
    }
    let _masked = CallRedaction::hold(&handle.redactor, &secrets)?;
    let arguments = secret_arguments(&secrets)?;
    let (connection, outcome) = loop {
        let left = || limit.saturating_sub(began.elapsed());
        let connected =
            tokio::time::timeout(left(), connection(context, &handle, server, &command.user)).await;
        let connection = connected.map_err(|_| in_time("was not connected"))??;
        let call = ToolCall {
            tool: command.tool.as_str(),
            args,
            secrets: &arguments,
            traceparent,
            timeout: left(),
            reset_on_progress: server.config.reset_timeout_on_progress,
        };
        match connection.call(call).await {
            // Nothing was begun: its supervisor sees it too, and the call waits for what comes of that.
            Err(CallError::Closed { begun: false }) => {}
            outcome => break (connection, outcome),
        }
    };
    if let Err(CallError::Closed { .. }) = outcome {
        connection.drain_stderr().await;
    }
    outcome.map_err(|error| {
        let tail = || handle.log_buffer.stderr_since(connection.started_at());
        HandlerError::Failed(match error {
            CallError::Rpc(error) => refused(server, &error, &handle.redactor),
            CallError::TimedOut => in_time("did not answer").maybe_run(),
            CallError::Closed { begun } => {
                let ended = format!("Server {} ended before it answered", server.name);
                let failure = Failure::new(Code::UpstreamError, ended).with_details(tail());
                if begun { failure.maybe_run() } else { failure }
            }
            CallError::Wrong { reason, begun } => {
                // The sentence is the connection's, but for what the server said in it.
                let reason = handle.redactor.mask(&reason);
                let failure = Failure::new(
                    Code::UpstreamError,
                    format!("Server {}: {reason}", server.name),
                );
                if begun { failure.maybe_run() } else { failure }
            }
            CallError::Denied(denied) => *denied,
            CallError::TooLarge => {
                let limit = context.manager.limits.result;
                let large = format!(
                    "The result of server {} is larger than RESULT_LIMIT ({limit} bytes)",
                    server.name
                );
                Failure::new(Code::ResultTooLarge, large).maybe_run()
            }
        })
    })
}

/// Returns the secrets as arguments of a call.
fn secret_arguments(secrets: &[OpenedSecret]) -> Result<Vec<SecretArgument<'_>>, Failure> {
    let mut arguments = Vec::with_capacity(secrets.len());
    for secret in secrets {
        arguments.push(SecretArgument {
            name: secret.name.as_str(),
            value: secret.value.expose().map_err(internal_error)?,
            form: secret.form,
        });
    }
    Ok(arguments)
}

/// A user with access of his own has a connection of his own.
async fn connection(
    context: &Context,
    handle: &ServerHandle,
    server: &Server,
    user: &UserName,
) -> Result<Arc<Connection>, Failure> {
    match server.grant(Some(user)) {
        None => handle.connection().await,
        Some(grant) => {
            handle.ensure_owned().await?;
            handle
                .users
                .connection(&context.manager, handle, server, user, grant)
                .await
        }
    }
}

fn late(server: &Server, limit: Duration, what: &str) -> Failure {
    let late = format!(
        "Server {} {what} within {} ms",
        server.name,
        limit.as_millis()
    );
    Failure::new(Code::Timeout, late)
}

/// The server's own refusal, its secrets masked. Wrong arguments are the caller's affair, all else is the
/// server's.
fn refused(server: &Server, error: &[u8], redactor: &Redactor) -> Failure {
    let Ok(rpc) = serde_json::from_slice::<RpcError>(error) else {
        let nonsense = format!(
            "Server {} answered with something that is no JSON-RPC error",
            server.name
        );
        return Failure::new(Code::UpstreamError, nonsense).maybe_run();
    };
    let code = if rpc.code == INVALID_PARAMS {
        Code::InvalidRequest
    } else {
        Code::UpstreamError
    };
    // What was escaped is masked after it was read: every encoder has its own spelling.
    let message = redactor.mask(&rpc.message);
    let sentence = format!("Server {} refused the call: {message}", server.name);
    let data = rpc
        .data
        .and_then(|data| RawValue::from_string(redactor.mask_json(data.get())).ok());
    let shown = RpcError {
        code: rpc.code,
        message,
        data,
    };
    Failure {
        mcp_error: serde_json::value::to_raw_value(&shown).ok(),
        ..Failure::new(code, sentence)
    }
}

/// Keeps the masker watching for a call's secrets while the call runs.
pub struct CallRedaction<'a> {
    redactor: &'a Redactor,
    ids: Vec<ValueId>,
}

impl<'a> CallRedaction<'a> {
    pub fn hold(redactor: &'a Redactor, secrets: &[OpenedSecret]) -> Result<Self, Failure> {
        let mut redaction = Self {
            redactor,
            ids: Vec::with_capacity(secrets.len()),
        };
        for secret in secrets {
            let value = secret.value.expose().map_err(internal_error)?;
            match secret.form {
                ArgumentForm::Text => redactor.hold(secret.id, value),
                ArgumentForm::Json => redactor.hold_parts(secret.id, || secret_parts(value)),
            }
            redaction.ids.push(secret.id);
        }
        Ok(redaction)
    }
}

impl<'a> CallRedaction<'a> {
    /// Watches for parts of one value.
    pub fn parts(
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
        self.ids.iter().for_each(|id| self.redactor.release(*id));
    }
}
