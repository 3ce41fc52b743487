//! `/mcp/servers`: the registered servers and their live status.

pub(super) mod credentials;
pub(super) mod fields;
mod live;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::fields::{RegisterBody, UpdateBody};
use self::live::visible_servers;
pub(super) use self::live::{changed_server, respond_with_server};
use super::auth::{AdminCaller, ToolsCaller};
use super::extract::idempotency::IdempotencyHeader;
use super::extract::json::JsonBody;
use super::extract::path::{ExistingServer, ServerNamePath};
use super::extract::query::QueryParams;
use super::extract::server_page::ServerPage;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::{ApiState, change_origin};
use crate::core::command::{
    ChangeOrigin, DeleteServer, DeletedServer, DisableServer, EnableServer, RegisterServer,
    UpdateServer,
};
use crate::core::decide::access::{Action, may, missing_scope};
use crate::core::decide::server::register_server;
use crate::core::failure::Failure;
use crate::core::ids::{Position, ServerId};
use crate::core::model::caller::{Caller, Scope};
use crate::core::model::timeout::DEFAULT_TIMEOUT_MS;
use crate::core::names::ServerName;
use crate::eventlog::history::PointInTime;
use crate::views::failure::ErrorBody;
use crate::views::server::{ServerView, VisibleServer};

/// The longest time for stopping a server, with a margin.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// The longest time for building a package on a worker that does not have it.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

#[derive(Serialize, ToSchema)]
pub(super) struct OneServer {
    server: ServerView,
}

/// The answer to a registration. With `dryRun` it has no further fields.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(super) struct RegisterAnswer {
    #[schema(default = true)]
    success: bool,
    server: Option<ServerView>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct OneVisibleServer {
    server: VisibleServer,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ServerList {
    servers: Vec<VisibleServer>,
    /// With `at`: the position of the event log that the answer shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    position: Option<Position>,
    /// The `after` of the next page. Absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<ServerName>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Show the servers of the past: a position such as `12`, or a time such as
    /// `2026-01-31T12:00:00Z`.
    at: Option<String>,
    /// The number of servers in the answer: 1 to 1000; all if absent.
    limit: Option<usize>,
    /// Only servers whose names come after this one: the `next` of an earlier answer.
    #[param(value_type = Option<String>)]
    after: Option<ServerName>,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRunQuery {
    /// If true, the program checks the request and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// List all servers with their status, tools and logs.
///
/// A caller without the scope `admin` gets the servers that it may use, with name, transport type, status and tools.
///
/// The servers are in the order of their names. With `limit` the answer has a part of them, and `next` for the next part.
///
/// With `at` the answer shows the servers as they were registered then, without a live status.
#[utoipa::path(
    get, operation_id = "list_servers", path = "/mcp/servers", tag = "servers",
    params(ListQuery),
    responses(
        (status = 200, description = "The servers", body = Success<ServerList>),
        (status = 410, description = "With `at`: the log was shortened and begins later; `oldest` is the first position", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Response, ApiError> {
    let page = ServerPage::new(query.limit, query.after)?;
    if let Some(at) = query.at {
        return success(past_servers(&state, &caller, &at, &page).await?);
    }
    let (servers, next) = {
        let catalog = state.catalog();
        let servers = catalog.servers().into_iter();
        let usable =
            servers.filter(|server| may(&caller, Action::UseTools, Some(server.id)).is_ok());
        let (servers, next) = page.select(usable);
        (servers.into_iter().cloned().collect::<Vec<_>>(), next)
    };
    success(ServerList {
        servers: visible_servers(&state, &caller, &servers).await,
        position: None,
        next,
    })
}

async fn past_servers(
    state: &ApiState,
    caller: &Caller,
    at: &str,
    page: &ServerPage,
) -> Result<ServerList, Failure> {
    let projection = state.projection();
    if !caller.is_admin() {
        return Err(missing_scope(Scope::Admin));
    }
    let position = PointInTime::parse(at)?.position(projection).await?;
    let catalog = state.history().catalog(projection, position).await?;
    let (servers, next) = page.select(catalog.servers().into_iter());
    let servers = servers
        .into_iter()
        .map(|server| ServerView::from_catalog(server, state.package_dirs()))
        .map(VisibleServer::from)
        .collect();
    Ok(ServerList {
        servers,
        position: Some(position),
        next,
    })
}

/// Read one server. A caller without the scope `admin` gets its name, transport type, status and tools.
#[utoipa::path(
    get, operation_id = "get_server", path = "/mcp/servers/{name}", tag = "servers",
    params(ServerNamePath),
    responses(
        (status = 200, description = "The server", body = Success<OneVisibleServer>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    ServerNamePath(name): ServerNamePath,
) -> Result<Response, ApiError> {
    let server = state.find_server_for(&caller, Action::UseTools, &name)?;
    let server = visible_servers(&state, &caller, &[server])
        .await
        .pop()
        .ok_or_else(|| Failure::server_not_found(&name))?;
    success(OneVisibleServer { server })
}

/// Register a server.
///
/// The program answers after the first attempt to connect, with the resulting status.
#[utoipa::path(
    post, operation_id = "register_server", path = "/mcp/servers", tag = "servers",
    params(DryRunQuery, IdempotencyHeader), request_body = RegisterBody,
    responses(
        (status = 200, description = "The registered server", body = RegisterAnswer),
        (status = 409, description = "A server has this name already, or another request used \
            the Idempotency-Key with another body", body = ErrorBody),
    )
)]
pub(super) async fn register(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    QueryParams(query): QueryParams<DryRunQuery>,
    key: IdempotencyHeader,
    JsonBody { value: body, bytes }: JsonBody<RegisterBody>,
) -> Result<Response, ApiError> {
    let id = ServerId(Uuid::now_v7());
    let name = body.name.clone();
    let enabled = body.enabled.unwrap_or(true);
    let sealed = body.into_config(state.sealer(), id)?;
    let limit = start_limit(sealed.config.startup_timeout_ms());
    let command = RegisterServer {
        origin: change_origin(&caller, key.shared_key(&state, &bytes)?),
        server: id,
        name: name.clone(),
        config: sealed.config,
        enabled,
        session: sealed.session,
        sealed: sealed.values,
    };
    if query.dry_run {
        register_server(&state.catalog(), &command)?;
        return success(EmptyBody {});
    }
    let status = state.send_command(&command, limit).await?;
    respond_with_server(&state, &name, status).await
}

/// Change a server.
///
/// A given field replaces the whole value. The program restarts the server if its process or its
/// connection changes.
#[utoipa::path(
    put, operation_id = "update_server", path = "/mcp/servers/{name}", tag = "servers",
    params(ServerNamePath, IdempotencyHeader), request_body = UpdateBody,
    responses(
        (status = 200, description = "The changed server", body = Success<OneServer>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn update(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ExistingServer(server): ExistingServer,
    key: IdempotencyHeader,
    JsonBody { value: body, bytes }: JsonBody<UpdateBody>,
) -> Result<Response, ApiError> {
    let name = &server.name;
    let (mut change, sealed) = body.into_change(state.sealer(), &server)?;
    if let Some(installed) = &server.package {
        // The answers show the folder of the package. The change must keep its placeholder.
        let folder = state.package_dirs().link(&installed.package.source, name);
        change = change.with_placeholder(&folder.to_string_lossy());
    }
    let limit = change
        .startup_timeout
        .apply_to(None)
        .map_or_else(|| server_start_limit(&state, name), start_limit);
    let command = UpdateServer {
        origin: change_origin(&caller, key.shared_key(&state, &bytes)?),
        name: name.clone(),
        change,
        server: Some(server.id),
        sealed,
    };
    let status = state.send_to_owner(name, &command, limit).await?;
    respond_with_server(&state, name, status).await
}

/// Delete a server with its processes, secrets and tokens.
#[utoipa::path(
    delete, operation_id = "delete_server", path = "/mcp/servers/{name}", tag = "servers",
    params(ServerNamePath, IdempotencyHeader),
    responses(
        (status = 200, description = "The server is deleted", body = Success<DeletedServerBody>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    let origin = change_origin(&caller, key.shared_key(&state, &[])?);
    delete_server(&state, name, origin).await
}

/// Sends the command that deletes a server.
pub(super) async fn delete_server(
    state: &ApiState,
    name: ServerName,
    origin: ChangeOrigin,
) -> Result<Response, ApiError> {
    let command = DeleteServer {
        origin,
        name: name.clone(),
    };
    let deleted = state.send_to_owner(&name, &command, STOP_LIMIT).await?;
    success(DeletedServerBody::from(deleted))
}

/// The answer to a deletion. If the worker has killed all processes, both fields are absent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DeletedServerBody {
    /// The processes of ended servers that the worker could not kill yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes_left: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl From<DeletedServer> for DeletedServerBody {
    fn from(deleted: DeletedServer) -> Self {
        let left = deleted.processes_left;
        if left == 0 {
            return Self {
                processes_left: None,
                warning: None,
            };
        }
        Self {
            processes_left: Some(left),
            warning: Some(format!(
                "The server is deleted, but {left} processes of ended servers fork faster than the worker kills them; the worker goes on to kill them, and a restart of its container ends them at once"
            )),
        }
    }
}

/// Enable a server. The program restarts a server that is enabled already.
#[utoipa::path(
    put, operation_id = "enable_server", path = "/mcp/servers/{name}/enable", tag = "servers",
    params(ServerNamePath, IdempotencyHeader),
    responses(
        (status = 200, description = "The enabled server", body = Success<OneServer>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn enable(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    let origin = change_origin(&caller, key.shared_key(&state, &[])?);
    let server = enable_server(&state, &name, origin).await?;
    success(OneServer { server })
}

/// Sends the command that enables a server and returns the server.
pub(super) async fn enable_server(
    state: &ApiState,
    name: &ServerName,
    origin: ChangeOrigin,
) -> Result<ServerView, Failure> {
    let command = EnableServer {
        origin,
        name: name.clone(),
    };
    let limit = server_start_limit(state, name);
    let status = state.send_to_owner(name, &command, limit).await?;
    changed_server(state, name, status).await
}

/// Disable a server. The program stops it and keeps its registration.
#[utoipa::path(
    put, operation_id = "disable_server", path = "/mcp/servers/{name}/disable", tag = "servers",
    params(ServerNamePath, IdempotencyHeader),
    responses(
        (status = 200, description = "The disabled server", body = Success<OneServer>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn disable(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    let origin = change_origin(&caller, key.shared_key(&state, &[])?);
    let server = disable_server(&state, &name, origin).await?;
    success(OneServer { server })
}

/// Sends the command that disables a server and returns the server.
pub(super) async fn disable_server(
    state: &ApiState,
    name: &ServerName,
    origin: ChangeOrigin,
) -> Result<ServerView, Failure> {
    let command = DisableServer {
        origin,
        name: name.clone(),
    };
    let status = state.send_to_owner(name, &command, STOP_LIMIT).await?;
    changed_server(state, name, status).await
}

/// Returns the longest time for a restart: the stop, the start, and a build of its package.
pub(super) fn server_start_limit(state: &ApiState, name: &ServerName) -> Duration {
    let catalog = state.catalog();
    let Some(server) = catalog.server(name.as_str()) else {
        return start_limit(DEFAULT_TIMEOUT_MS);
    };
    let limit = start_limit(server.config.startup_timeout_ms());
    if server.package.is_some() {
        limit + BUILD_LIMIT
    } else {
        limit
    }
}

fn start_limit(startup_timeout_ms: u64) -> Duration {
    STOP_LIMIT + Duration::from_millis(startup_timeout_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_deletion_names_the_processes_that_are_left() {
        let body = |processes_left| {
            let body = DeletedServerBody::from(DeletedServer { processes_left });
            serde_json::to_value(body).expect("JSON")
        };
        assert_eq!(body(0), serde_json::json!({}));
        let left = body(3);
        assert_eq!(left["processesLeft"], 3);
        let warning = left["warning"].as_str().expect("a sentence");
        assert!(warning.contains("3 processes"), "{warning}");
    }
}
