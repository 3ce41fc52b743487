//! `/mcp/servers`: what is registered, and how it looks right now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::response::Response;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::body;
use super::facade::{Facade, command_id};
use super::reply::{ErrorBody, Nothing, Refused, Success, success};
use crate::core::catalog::Server;
use crate::core::command::{DeleteServer, DisableServer, EnableServer, ReadLogs, RegisterServer, UpdateServer};
use crate::core::failure::Failure;
use crate::core::names::{SecretName, ServerId, ServerName, WorkerId};
use crate::core::server::{
    DEFAULT_TIMEOUT_MS, Live, LogLine, Replicas, ServerChange, ServerConfig, Status, Transport, given,
};
use crate::core::tool::Tool;
use crate::ports::Place;

/// What stopping a server may take, and a little more.
const STOPS: Duration = Duration::from_secs(20);
/// How long a worker is waited for when it is asked for logs.
const LOGS: Duration = Duration::from_millis(500);

/// A server: its configuration and how it looks right now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    #[schema(value_type = String)]
    name: ServerName,
    #[schema(value_type = String, example = "stdio")]
    transport_type: &'static str,
    command: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    /// When not empty, only the secrets with these names are injected.
    #[schema(value_type = Vec<String>)]
    secret_names: Vec<SecretName>,
    /// Milliseconds.
    startup_timeout: u64,
    /// Milliseconds.
    tool_timeout: u64,
    reset_timeout_on_progress: bool,
    replicas: Replicas,
    enabled: bool,
    status: Status,
    /// Why it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The last lines of its standard error when that happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<String>,
    /// The tools as the server describes them.
    #[schema(value_type = Vec<Object>)]
    tools_list: Arc<Vec<Tool>>,
    logs: Vec<LogLine>,
}

impl ServerView {
    fn new(server: &Server, live: Live, logs: Vec<LogLine>) -> Self {
        let config = &server.config;
        let Transport::Stdio { command, args, env } = config.transport.clone();
        Self {
            name: server.name.clone(),
            transport_type: "stdio",
            command,
            args,
            env,
            secret_names: config.secret_names.clone(),
            startup_timeout: config.startup_timeout_ms(),
            tool_timeout: config.tool_timeout_ms(),
            reset_timeout_on_progress: config.reset_timeout_on_progress,
            replicas: config.replicas,
            enabled: server.enabled,
            status: live.status,
            error: live.error,
            details: live.details,
            tools_list: server.tools.tools.clone(),
            logs,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct OneServer {
    server: ServerView,
}

#[derive(Serialize, ToSchema)]
pub struct AllServers {
    servers: Vec<ServerView>,
}

/// All servers with their status, tools and logs.
#[utoipa::path(get, operation_id = "list_servers", path = "/mcp/servers", tag = "servers", responses((status = 200, description = "Done", body = Success<AllServers>)))]
pub async fn list(State(facade): State<Arc<Facade>>) -> Result<Response, Refused> {
    let servers: Vec<_> = facade.follow.catalog().servers().into_iter().cloned().collect();
    success(AllServers { servers: views(&facade, &servers).await })
}

/// One server.
#[utoipa::path(get, operation_id = "get_server", path = "/mcp/servers/{name}", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn get(State(facade): State<Arc<Facade>>, Named(name): Named) -> Result<Response, Refused> {
    one(&facade, &name).await
}

/// A server to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"name": "everything", "command": "npx", "args": ["-y", "@modelcontextprotocol/server-everything"]}))]
pub struct RegisterBody {
    #[schema(value_type = String, example = "everything")]
    name: ServerName,
    /// `stdio`, also where absent.
    #[serde(default)]
    #[schema(example = "stdio")]
    transport_type: Option<String>,
    /// The program to start.
    #[schema(example = "npx")]
    command: Option<String>,
    #[serde(default)]
    #[schema(example = json!(["-y", "@modelcontextprotocol/server-everything"]))]
    args: Option<Vec<String>>,
    /// Variables of the server's environment; of the host's it sees few. Shown as they are: put no secrets here.
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    /// When not empty, only the secrets with these names are injected.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    secret_names: Option<Vec<SecretName>>,
    /// Milliseconds for connecting and the first list of tools; 60,000 where absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    startup_timeout: Option<u64>,
    /// Milliseconds for a tool call; 60,000 where absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 86_400_000)]
    tool_timeout: Option<u64>,
    #[serde(default)]
    reset_timeout_on_progress: Option<bool>,
    #[serde(default)]
    replicas: Option<Replicas>,
    /// True where absent.
    #[serde(default)]
    enabled: Option<bool>,
    #[schema(ignore)]
    url: Option<IgnoredAny>,
    #[schema(ignore)]
    headers: Option<IgnoredAny>,
    #[schema(ignore)]
    session_id: Option<IgnoredAny>,
    #[schema(ignore)]
    reconnection_options: Option<IgnoredAny>,
}

/// The fields of a transport that a stdio server does not have.
fn refuse_remote(given: [(&str, Option<IgnoredAny>); 4]) -> Result<(), Failure> {
    let given: Vec<_> = given.into_iter().filter_map(|(name, field)| field.map(|_| name)).collect();
    if given.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(format!("A stdio server has no {}; leave that out", given.join(", "))))
}

fn check_transport(kind: Option<&str>) -> Result<(), Failure> {
    match kind {
        None | Some("stdio") => Ok(()),
        Some("streamable_http") => {
            Err(Failure::invalid("transportType streamable_http is not supported by this version; use stdio"))
        }
        Some(_) => Err(Failure::invalid("transportType must be stdio")),
    }
}

/// Register a server. Answers after the first attempt to connect, with the true status.
#[utoipa::path(post, operation_id = "register_server", path = "/mcp/servers", tag = "servers", request_body = RegisterBody,
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 409, description = "A server of that name exists already", body = ErrorBody)))]
pub async fn register(State(facade): State<Arc<Facade>>, request: Request) -> Result<Response, Refused> {
    let body = body::read(request, facade.limits.payload).await?;
    let body: RegisterBody = body::parse(&body)?;
    check_transport(body.transport_type.as_deref())?;
    refuse_remote([
        ("url", body.url),
        ("headers", body.headers),
        ("sessionId", body.session_id),
        ("reconnectionOptions", body.reconnection_options),
    ])?;
    let command = body.command.ok_or_else(|| Failure::invalid("command is missing: the program to start"))?;
    let config = ServerConfig {
        transport: Transport::Stdio { command, args: body.args.unwrap_or_default(), env: body.env.unwrap_or_default() },
        secret_names: body.secret_names.unwrap_or_default(),
        startup_timeout: body.startup_timeout,
        tool_timeout: body.tool_timeout,
        reset_timeout_on_progress: body.reset_timeout_on_progress.unwrap_or_default(),
        replicas: body.replicas.unwrap_or_default(),
    };
    config.check()?;
    let time = starts(config.startup_timeout_ms());
    let (id, server, name, enabled) = (command_id(), ServerId(Uuid::now_v7()), body.name, body.enabled.unwrap_or(true));
    let live = facade.ask(&RegisterServer { id, server, name: name.clone(), config, enabled }, time).await?;
    shown(&facade, &name, live).await
}

/// What may be changed. The read-only fields of our own answers are taken and ignored, so that a
/// server can be read, edited and put back.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"args": ["-y", "@modelcontextprotocol/server-everything"], "toolTimeout": 30000}))]
pub struct UpdateBody {
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    name: Option<ServerName>,
    #[serde(default)]
    transport_type: Option<String>,
    #[serde(default)]
    command: Option<String>,
    #[serde(default)]
    args: Option<Vec<String>>,
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    secret_names: Option<Vec<SecretName>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    startup_timeout: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 1, maximum = 86_400_000)]
    tool_timeout: Option<Option<u64>>,
    #[serde(default)]
    reset_timeout_on_progress: Option<bool>,
    #[serde(default)]
    replicas: Option<Replicas>,
    #[serde(default)]
    enabled: Option<bool>,
    #[schema(ignore)]
    url: Option<IgnoredAny>,
    #[schema(ignore)]
    headers: Option<IgnoredAny>,
    #[schema(ignore)]
    session_id: Option<IgnoredAny>,
    #[schema(ignore)]
    reconnection_options: Option<IgnoredAny>,
    #[serde(rename = "status")]
    #[schema(ignore)]
    _status: Option<IgnoredAny>,
    #[serde(rename = "error")]
    #[schema(ignore)]
    _error: Option<IgnoredAny>,
    #[serde(rename = "details")]
    #[schema(ignore)]
    _details: Option<IgnoredAny>,
    #[serde(rename = "toolsList")]
    #[schema(ignore)]
    _tools_list: Option<IgnoredAny>,
    #[serde(rename = "logs")]
    #[schema(ignore)]
    _logs: Option<IgnoredAny>,
}

/// Change a server. Fields that are given replace the whole value; what changed restarts the server.
#[utoipa::path(put, operation_id = "update_server", path = "/mcp/servers/{name}", tag = "servers", params(("name" = String, Path)), request_body = UpdateBody,
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn update(
    State(facade): State<Arc<Facade>>,
    Named(name): Named,
    request: Request,
) -> Result<Response, Refused> {
    let body = body::read(request, facade.limits.payload).await?;
    let body: UpdateBody = body::parse(&body)?;
    check_transport(body.transport_type.as_deref())?;
    refuse_remote([
        ("url", body.url),
        ("headers", body.headers),
        ("sessionId", body.session_id),
        ("reconnectionOptions", body.reconnection_options),
    ])?;
    if body.name.is_some_and(|given| given != name) {
        return Err(Failure::invalid("name cannot be changed; register the server anew under the other name").into());
    }
    let change = ServerChange {
        command: body.command,
        args: body.args,
        env: body.env,
        secret_names: body.secret_names,
        startup_timeout: body.startup_timeout,
        tool_timeout: body.tool_timeout,
        reset_timeout_on_progress: body.reset_timeout_on_progress,
        replicas: body.replicas,
        enabled: body.enabled,
    };
    let asked = change.startup_timeout.flatten();
    let time = asked.map_or_else(|| time_to_start(&facade, &name), starts);
    let live = facade.ask_holder(&name, &UpdateServer { id: command_id(), name: name.clone(), change }, time).await?;
    shown(&facade, &name, live).await
}

/// Remove a server, its processes and all its secrets.
#[utoipa::path(delete, operation_id = "delete_server", path = "/mcp/servers/{name}", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<Nothing>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn delete(State(facade): State<Arc<Facade>>, Named(name): Named) -> Result<Response, Refused> {
    facade.ask_holder(&name, &DeleteServer { id: command_id(), name: name.clone() }, STOPS).await?;
    success(Nothing {})
}

/// Enable a server; one that is enabled is restarted.
#[utoipa::path(put, operation_id = "enable_server", path = "/mcp/servers/{name}/enable", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn enable(State(facade): State<Arc<Facade>>, Named(name): Named) -> Result<Response, Refused> {
    let time = time_to_start(&facade, &name);
    let live = facade.ask_holder(&name, &EnableServer { id: command_id(), name: name.clone() }, time).await?;
    shown(&facade, &name, live).await
}

/// Stop a server and keep it.
#[utoipa::path(put, operation_id = "disable_server", path = "/mcp/servers/{name}/disable", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn disable(State(facade): State<Arc<Facade>>, Named(name): Named) -> Result<Response, Refused> {
    let live = facade.ask_holder(&name, &DisableServer { id: command_id(), name: name.clone() }, STOPS).await?;
    shown(&facade, &name, live).await
}

/// The server's name in a path. One that can be no server's belongs to no server.
pub struct Named(ServerName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let name = Path::<String>::from_request_parts(parts, state).await.ok();
        let name = name.and_then(|Path(name)| name.parse().ok()).map(Self);
        Ok(name.ok_or_else(|| Failure::server_not_found("of that name"))?)
    }
}

/// Stopping what runs, starting what is to run, and a little more.
fn starts(startup_timeout_ms: u64) -> Duration {
    STOPS + Duration::from_millis(startup_timeout_ms)
}

fn time_to_start(facade: &Facade, name: &ServerName) -> Duration {
    let catalog = facade.follow.catalog();
    starts(catalog.server(name.as_str()).map_or(DEFAULT_TIMEOUT_MS, |server| server.config.startup_timeout_ms()))
}

async fn one(facade: &Facade, name: &ServerName) -> Result<Response, Refused> {
    let server =
        facade.follow.catalog().server(name.as_str()).cloned().ok_or_else(|| Failure::server_not_found(name))?;
    let server = views(facade, &[server]).await.pop().ok_or_else(|| Failure::server_not_found(name))?;
    success(OneServer { server })
}

/// The server after a change, as the worker that made it has seen it.
async fn shown(facade: &Facade, name: &ServerName, live: Live) -> Result<Response, Refused> {
    let server =
        facade.follow.catalog().server(name.as_str()).cloned().ok_or_else(|| Failure::server_not_found(name))?;
    let mut view = views(facade, &[server]).await.pop().ok_or_else(|| Failure::server_not_found(name))?;
    (view.status, view.error, view.details) = (live.status, live.error, live.details);
    success(OneServer { server: view })
}

/// Servers with their status, and the logs of those workers that answer in time.
async fn views(facade: &Facade, servers: &[Arc<Server>]) -> Vec<ServerView> {
    let ids: Vec<ServerId> = servers.iter().map(|server| server.id).collect();
    let looks = facade.board.look(&ids);
    let mut by_worker: HashMap<WorkerId, Vec<ServerId>> = HashMap::new();
    for (id, (_, workers)) in ids.iter().zip(&looks) {
        workers.iter().for_each(|worker| by_worker.entry(*worker).or_default().push(*id));
    }
    let asked = by_worker.into_iter().map(async |(worker, servers)| {
        facade.asker.at(Place::Worker(worker), &ReadLogs { servers }, LOGS).await.unwrap_or_default()
    });
    let told = futures::future::join_all(asked).await.into_iter().flatten();
    let mut logs: HashMap<ServerId, Vec<LogLine>> = HashMap::new();
    for told in told {
        let of_server = logs.entry(told.server).or_default();
        of_server.extend(told.logs);
        of_server.sort_by_key(|line| line.at);
    }
    let views = servers
        .iter()
        .zip(looks)
        .map(|(server, (live, _))| ServerView::new(server, live, logs.remove(&server.id).unwrap_or_default()));
    views.collect()
}
