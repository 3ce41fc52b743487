//! `POST /mcp/tool/call`: one call of a tool for one user.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use serde_json::value::RawValue;
use tracing::Instrument;

use super::body::{CallAnswer, CallBody};
use super::meter::{CallOutcome, ToolCallMeter};
use crate::cluster::command_client::CommandRequest;
use crate::core::catalog::server::Server;
use crate::core::command::{Area, Command};
use crate::core::decide::access::{Action, visible_failure};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::model::caller::Caller;
use crate::core::model::job::JobArguments;
use crate::core::model::tool_call::CallTool;
use crate::core::names::UserName;
use crate::core::tool_result::{ToolCallBody, shape_tool_result};
use crate::http::auth::ToolsCaller;
use crate::http::connections::link::add_connect_url;
use crate::http::extract::headers::{PreferAsync, RequestHost, TraceParent};
use crate::http::extract::idempotency::IdempotencyHeader;
use crate::http::extract::json::{JsonBytes, parse_json};
use crate::http::google::link::add_login_url;
use crate::http::jobs::JobAccepted;
use crate::http::jobs::submit::submit;
use crate::http::oauth::link::add_authorization_url;
use crate::http::respond::json::{ApiError, json};
use crate::http::state::ApiState;
use crate::jobs::client::NewJob;
use crate::views::failure::ErrorBody;

/// The extra time in which the worker reports its own timeout.
const WORKER_MARGIN: Duration = Duration::from_secs(5);
/// The longest call that progress messages extend.
const MAX_WITH_PROGRESS: Duration = Duration::from_secs(3600);
/// Arguments up to this number of bytes are copied out of the request body.
const COPY_LIMIT: usize = 4096;

/// Call a tool with a user's secrets.
///
/// With `Prefer: respond-async` the call becomes a job, and `GET /jobs/{id}` has the answer.
#[utoipa::path(
    post, operation_id = "call_tool", path = "/mcp/tool/call", tag = "tools",
    params(PreferAsync, IdempotencyHeader), request_body = CallBody,
    responses(
        (status = 200, description = "The result of the tool; `data.isError` marks a tool error",
            body = CallAnswer),
        (status = 202, description = "The job is accepted; see `Location`", body = JobAccepted),
        (status = 401, description = "The request has no token; or `reauthRequired`: the user must \
            give access at `authorizationUrl`; or `credential_required`: the user must set \
            `missing` at `connectUrl`", body = ErrorBody),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 409, description = "The server is disabled, or another request used the \
            Idempotency-Key with another body", body = ErrorBody),
        (status = 502, description = "The MCP server refused the call, failed or ended; see \
            `details` and `mcpError`", body = ErrorBody),
        (status = 504, description = "The worker cancelled the call at its timeout",
            body = ErrorBody),
    )
)]
pub(crate) async fn call(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    RequestHost(host): RequestHost,
    TraceParent(traceparent): TraceParent,
    prefer: PreferAsync,
    key: IdempotencyHeader,
    JsonBytes(bytes): JsonBytes,
) -> Result<Response, ApiError> {
    let mut body: CallBody = parse_json(&bytes)?;
    body.check()?;
    let user = caller.acts_for(body.username.take())?;
    let server = state.find_server_for(&caller, Action::UseTools, &body.server_name)?;
    if prefer.0 || key.is_present() {
        let call = JobCall {
            user,
            server: &server,
            body,
            bytes: &bytes,
        };
        // The box keeps the future of a call small, because it is moved several times.
        return Box::pin(call_as_job(&state, &caller, prefer, &key, call)).await;
    }
    let raw = body.raw;
    let request = CommandRequest {
        area: Area::Tools,
        server: server.exclusive_id(),
        command: CallTool::NAME,
        time: call_limit(&server, body.timeout_ms),
        body: detach_slice(&bytes, body.args),
        call: Some(body.into_command(user.clone())),
        client: None,
        interim: None,
        traceparent,
        meta: None,
    };
    // The wait below must not keep the read buffer of the connection.
    drop(bytes);
    let shape = |result: &Bytes| shape_tool_result(result, raw);
    let result = execute_call(&state, &caller, &server, &request, shape).await;
    let body = result.map_err(|failure| with_links(&state, host, &server, &user, failure))?;
    Ok(json(StatusCode::OK, body.body))
}

/// A call that becomes a job.
struct JobCall<'a> {
    user: UserName,
    server: &'a Server,
    body: CallBody<'a>,
    /// The whole body of the request, for the digest of an idempotency key.
    bytes: &'a Bytes,
}

/// A result of a tool in the form of one interface.
pub(crate) trait ToolOutcome: Sized {
    /// Returns whether the tool itself reports a failure.
    fn is_error(&self) -> bool;
}

impl ToolOutcome for ToolCallBody {
    fn is_error(&self) -> bool {
        self.is_error
    }
}

/// Sends a call to a worker, records it, and returns the result in the form of `shape`.
///
/// # Errors
/// The failure of the call, as the caller may see it.
pub(crate) async fn execute_call<T: ToolOutcome>(
    state: &ApiState,
    caller: &Caller,
    server: &Server,
    request: &CommandRequest,
    shape: impl FnOnce(&Bytes) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let Some(CallTool { user, tool, .. }) = &request.call else {
        return Err(Failure::internal());
    };
    let token = caller.token.map(tracing::field::display);
    let span = tracing::info_span!("tool_call", %user, token, server = %server.name, %tool);
    let metrics = state.metrics();
    let meter = ToolCallMeter::start(metrics, server, tool.clone(), caller.token, span.clone());
    let response = state.send_request(request).instrument(span).await;
    let result = response.and_then(|response| shape(&response.body));
    meter.finish(match &result {
        Ok(outcome) if outcome.is_error() => CallOutcome::ToolError,
        Ok(_) => CallOutcome::Ok,
        Err(failure) => CallOutcome::Failed(failure.code),
    });
    result.map_err(|failure| visible_failure(caller, failure))
}

/// Submits the call as a job.
async fn call_as_job(
    state: &ApiState,
    caller: &Caller,
    prefer: PreferAsync,
    key: &IdempotencyHeader,
    call: JobCall<'_>,
) -> Result<Response, ApiError> {
    let JobCall {
        user,
        server,
        body,
        bytes,
    } = call;
    let work = JobArguments {
        raw: body.raw,
        reply: None,
        server_id: (!caller.servers.is_all()).then_some(server.id),
        body: body.args.to_owned(),
        call: Some(body.into_command(user.clone())),
    };
    let job = NewJob {
        key: key.job_key(state, &user, bytes)?,
        user,
        command: CallTool::NAME,
        server: Some(server.name.clone()),
        work,
        actor: Actor::from(caller),
    };
    submit(state, caller, prefer, job).await
}

/// Adds the URL at which the user gives access or sets credentials, if the call failed without them.
pub(crate) fn with_links(
    state: &ApiState,
    host: Option<HeaderValue>,
    server: &Server,
    user: &UserName,
    failure: Failure,
) -> Failure {
    let failure = add_login_url(state, host.as_ref(), server, user, failure);
    let failure = add_authorization_url(state, host.as_ref(), server, user, failure);
    add_connect_url(state, host.as_ref(), server, failure)
}

/// Returns a part of a body that does not keep the whole body, unless the part is large.
pub(crate) fn detach_slice(body: &Bytes, part: &RawValue) -> Bytes {
    let part = part.get().as_bytes();
    if part.len() <= COPY_LIMIT {
        Bytes::copy_from_slice(part)
    } else {
        body.slice_ref(part)
    }
}

/// Returns the time that the facade waits for a call.
pub(crate) fn call_limit(server: &Server, timeout_ms: Option<u64>) -> Duration {
    let limit = Duration::from_millis(timeout_ms.unwrap_or(server.config.tool_timeout_ms()));
    if server.config.reset_timeout_on_progress {
        limit.max(MAX_WITH_PROGRESS) + WORKER_MARGIN
    } else {
        limit + WORKER_MARGIN
    }
}
