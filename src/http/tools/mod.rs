//! `GET /mcp/tools` and `POST /mcp/tool/call`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use axum::extract::{Request, State};
use axum::http::header::{ETAG, HOST, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tracing::Instrument;
use utoipa::ToSchema;

use super::extract::idempotency::IdempotencyHeader;
use super::extract::json;
use super::google::browser_flow::add_login_url;
use super::jobs;
use super::oauth::browser_flow::add_authorization_url;
use super::respond::json::{ApiError, json};
use super::state::ApiState;
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::{check_args, is_traceparent};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{Area, Command};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::core::model::job::JobArguments;
use crate::core::model::timeout::check_timeout;
use crate::core::model::tool_call::CallTool;
use crate::core::names::{ServerName, ToolName, UserName};
use crate::core::tool_result;
use crate::jobs::client::NewJob;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

/// Time for the worker to say itself that it timed out.
const GRACE: Duration = Duration::from_secs(5);
/// The longest a call may be kept alive by progress.
const WITH_PROGRESS: Duration = Duration::from_secs(3600);

/// The answer of `GET /mcp/tools`, built when a tool list changes and not when it is asked for.
#[derive(Default)]
pub struct ToolListCache(ArcSwapOption<Built>);

struct Built {
    at: Position,
    body: Bytes,
    etag: HeaderValue,
}

impl ToolListCache {
    fn get(&self, catalog: &Catalog) -> Result<Arc<Built>, Failure> {
        if let Some(built) = self.0.load_full()
            && built.at == catalog.tools_changed
        {
            return Ok(built);
        }
        let built = Arc::new(Built::new(catalog)?);
        self.0.store(Some(built.clone()));
        Ok(built)
    }
}

impl Built {
    fn new(catalog: &Catalog) -> Result<Self, Failure> {
        let servers = catalog
            .servers()
            .into_iter()
            .filter(|server| server.enabled);
        let tools: Vec<_> = servers
            .map(|server| BTreeMap::from([(&server.name, &server.tools.tools)]))
            .collect();
        let tools = serde_json::to_string(&tools).map_err(internal_error)?;
        let body = Bytes::from(format!(r#"{{"success":true,"tools":{tools}}}"#));
        let digest = hex::encode(&Sha256::digest(&body)[..16]);
        let etag = HeaderValue::try_from(format!("\"{digest}\"")).map_err(internal_error)?;
        Ok(Self {
            at: catalog.tools_changed,
            body,
            etag,
        })
    }
}

/// The tools of every enabled server, as last known.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct ToolList {
    #[schema(default = true)]
    success: bool,
    /// One object a server: its name, and the array of its tools as it describes them.
    #[schema(value_type = Vec<BTreeMap<String, Vec<Object>>>)]
    tools: Vec<BTreeMap<String, Vec<String>>>,
}

/// The tools of every enabled server.
#[utoipa::path(get, operation_id = "list_tools", path = "/mcp/tools", tag = "tools",
    responses((status = 200, description = "The tools; their ETag is in the header of that name", body = ToolList), (status = 304, description = "Nothing has changed since the ETag in If-None-Match")))]
pub async fn list(
    State(facade): State<Arc<ApiState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let built = facade.tools.get(&facade.projection.catalog())?;
    let known = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|known| names(known, &built.etag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        json(StatusCode::OK, built.body.clone())
    };
    response.headers_mut().insert(ETAG, built.etag.clone());
    Ok(response)
}

/// Whether one of the tags is this one; proxies make tags weak (RFC 9110, section 13.1.2).
fn names(tags: &HeaderValue, etag: &HeaderValue) -> bool {
    let tags = tags.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag))
        .any(|tag| tag == "*" || etag == tag)
}

/// A tool call.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"username": "ana", "serverName": "everything", "methodName": "echo", "args": {"message": "hi"}}))]
pub struct CallBody<'a> {
    /// Whose secrets are used; `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    username: UserName,
    #[schema(value_type = String, example = "everything")]
    server_name: ServerName,
    /// The tool's name.
    #[schema(value_type = String, example = "echo")]
    method_name: ToolName,
    /// The tool's arguments. Stored secrets are added and win.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    args: &'a RawValue,
    /// Milliseconds; the server's `toolTimeout` where absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    timeout_ms: Option<u64>,
    /// Give the untouched MCP CallToolResult as `data`.
    #[serde(default)]
    raw: bool,
}

/// A tool's answer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub struct CallAnswer {
    #[schema(default = true)]
    success: bool,
    data: CallOutcome,
}

#[derive(ToSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub enum CallOutcome {
    Shaped(CallData),
    /// With `raw`: the untouched CallToolResult.
    #[schema(value_type = Object)]
    Raw(String),
}

/// What a tool said.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code)]
pub struct CallData {
    /// A string for one text, image or audio block; else an object or the array of MCP content blocks.
    #[schema(value_type = Value)]
    content: String,
    content_type: String,
    /// The tool itself says that it failed.
    is_error: bool,
    #[schema(value_type = Option<Object>)]
    structured_content: Option<String>,
    #[schema(value_type = Option<Object>)]
    meta: Option<String>,
}

/// Call a tool with a user's secrets. With `Prefer: respond-async` the answer comes later, as a job's.
#[utoipa::path(post, operation_id = "call_tool", path = "/mcp/tool/call", tag = "tools", request_body = CallBody,
    responses((status = 200, description = "What the tool said, also where it says that it failed", body = CallAnswer), (status = 202, description = "With Prefer: respond-async; Location says where the answer will be", body = jobs::Accepted), (status = 401, description = "ADMIN_TOKEN is missing; or `reauthRequired`: the user has to give access at `authorizationUrl`", body = ErrorBody), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody),
        (status = 409, description = "The server is disabled", body = ErrorBody), (status = 502, description = "The MCP server refused, failed or ended; see `details` and `mcpError`", body = ErrorBody), (status = 503, description = "Not possible right now, and nothing was begun; see `Retry-After`", body = ErrorBody),
        (status = 504, description = "No answer came in time; the call was cancelled", body = ErrorBody)))]
pub async fn call(
    State(facade): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let traceparent = request.headers().get("traceparent").and_then(traceparent);
    let (later, keyed) = (
        jobs::prefers_async(request.headers()),
        IdempotencyHeader::of(&request)?,
    );
    let host = request.headers().get(HOST).cloned();
    let body = json::read_json(request, facade.limits.payload).await?;
    let parsed: CallBody = json::parse_json(&body)?;
    check_args(parsed.args)?;
    check_timeout("timeoutMs", parsed.timeout_ms)?;
    let CallBody {
        username: user,
        server_name,
        method_name: tool,
        raw,
        timeout_ms,
        args,
    } = parsed;
    if later || keyed.is_some() {
        let key = keyed
            .map(|keyed| keyed.job_key(&facade, &user, &body))
            .transpose()?;
        let server = facade
            .projection
            .catalog()
            .server(server_name.as_str())
            .map(|server| server.name.clone());
        let server = server.ok_or_else(|| Failure::server_not_found(&server_name))?;
        let call = CallTool {
            user: user.clone(),
            server: server_name,
            tool,
            timeout_ms,
        };
        let work = JobArguments {
            call: Some(call),
            raw,
            reply: None,
            body: args.to_owned(),
        };
        let (command, server) = (CallTool::NAME, Some(server));
        let new = NewJob {
            user,
            command,
            server,
            work,
            key,
            actor: Actor::Api,
        };
        return if later {
            jobs::submit_and_accept(&facade, new).await
        } else {
            jobs::submit_and_wait(&facade, new).await
        };
    }
    let args = detach_slice(&body, args);
    drop(body);
    let server = facade
        .projection
        .catalog()
        .server(server_name.as_str())
        .cloned();
    let server = server.ok_or_else(|| Failure::server_not_found(&server_name))?;

    let began = Instant::now();
    let span = tracing::info_span!("tool_call", %user, server = %server.name, %tool);
    let of_user = user.clone();
    let called = CallTool {
        user,
        server: server_name,
        tool,
        timeout_ms,
    };
    let time = time_for(&server, timeout_ms);
    let tool = called.tool.clone();
    let (area, held, command) = (Area::Tools, server.exclusive_id(), CallTool::NAME);
    let question = CommandRequest {
        area,
        server: held,
        command,
        call: Some(called),
        body: args,
        traceparent,
        time,
    };
    let answered = facade
        .commands
        .send(question)
        .instrument(span.clone())
        .await;
    let answered =
        answered.and_then(|answered| tool_result::shape_tool_result(&answered.body, raw));
    let answered = answered.map_err(|failure| {
        let failure = add_login_url(&facade, host.as_ref(), &server, &of_user, failure);
        add_authorization_url(&facade, host.as_ref(), &server, &of_user, failure)
    });

    let meter = facade
        .metrics
        .meter(server.name.as_str(), tool.as_str(), || {
            has_tool(&server, tool.as_str())
        });
    let seconds = began.elapsed().as_secs_f64();
    meter.seconds.observe(seconds);
    let outcome = match &answered {
        Ok(answer) if answer.is_error => {
            meter.tool_error.inc();
            "tool_error"
        }
        Ok(_) => {
            meter.ok.inc();
            "ok"
        }
        Err(failure) => {
            meter.failed(failure.code.as_str());
            failure.code.as_str()
        }
    };
    span.in_scope(|| tracing::info!(outcome, duration_ms = seconds * 1e3, "tool call"));
    Ok(json(StatusCode::OK, answered?.body))
}

/// A part of a body on its own. Small ones are copied, so that the connection's read buffer is free
/// again; large ones are not.
fn detach_slice(body: &Bytes, part: &RawValue) -> Bytes {
    let part = part.get().as_bytes();
    if part.len() <= 4096 {
        Bytes::copy_from_slice(part)
    } else {
        body.slice_ref(part)
    }
}

fn time_for(server: &Server, timeout_ms: Option<u64>) -> Duration {
    let limit = Duration::from_millis(timeout_ms.unwrap_or(server.config.tool_timeout_ms()));
    if server.config.reset_timeout_on_progress {
        limit.max(WITH_PROGRESS) + GRACE
    } else {
        limit + GRACE
    }
}

fn has_tool(server: &Server, tool: &str) -> bool {
    server
        .tools
        .tools
        .iter()
        .any(|known| known.name().as_deref() == Some(tool))
}

fn traceparent(value: &HeaderValue) -> Option<Arc<str>> {
    value
        .to_str()
        .ok()
        .filter(|text| is_traceparent(text))
        .map(Into::into)
}
