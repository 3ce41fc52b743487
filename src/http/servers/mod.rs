//! `/mcp/servers`: what is registered, and how it looks right now.

pub mod fields;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use self::fields::{RegisterBody, UpdateBody};
use super::extract::idempotency::{IdempotencyHeader, key};
use super::extract::json;
use super::extract::path::ServerNamePath;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::{ApiState, new_command_id};
use crate::core::catalog::server::Server;
use crate::core::command::{
    DeleteServer, DisableServer, EnableServer, ReadServerLogs, RegisterServer, UpdateServer,
};
use crate::core::failure::Failure;
use crate::core::ids::{Position, ServerId, WorkerId};
use crate::core::model::idempotency::IdempotencyKey;
use crate::core::model::server::ServerStatus;
use crate::core::model::timeout::DEFAULT_TIMEOUT_MS;
use crate::core::names::ServerName;
use crate::eventlog::history::PointInTime;
use crate::ports::bus::Target;
use crate::views::failure::ErrorBody;
use crate::views::server::{LiveDetails, ServerView};

/// What stopping a server may take, and a little more.
const STOPS: Duration = Duration::from_secs(20);
/// What a worker may take that has to build a package first.
const BUILDS: Duration = Duration::from_secs(600);
/// How long a worker is waited for when it is asked for logs.
const LOGS: Duration = Duration::from_millis(500);

#[derive(Serialize, ToSchema)]
pub struct OneServer {
    server: ServerView,
}

#[derive(Serialize, ToSchema)]
pub struct AllServers {
    servers: Vec<ServerView>,
    /// Of the past that is shown, the position of the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    position: Option<Position>,
}

/// Which moment.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Moment {
    /// The servers as they were then: a position such as `12`, or a time such as `2026-01-31T12:00:00Z`.
    at: Option<String>,
}

/// All servers with their status, tools and logs; or, with `at`, as they were registered then.
#[utoipa::path(get, operation_id = "list_servers", path = "/mcp/servers", tag = "servers", params(Moment),
    responses((status = 200, description = "Done", body = Success<AllServers>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody)))]
pub async fn list(
    State(facade): State<Arc<ApiState>>,
    moment: Result<Query<Moment>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(Moment { at }) = moment.map_err(|error| Failure::invalid(error.body_text()))?;
    if let Some(at) = at {
        let position = PointInTime::parse(&at)?
            .position(&facade.projection)
            .await?;
        let catalog = facade.past.catalog(&facade.projection, position).await?;
        let servers = catalog
            .servers()
            .into_iter()
            .map(|server| ServerView::from_catalog(server, &facade.folders))
            .collect();
        return success(AllServers {
            servers,
            position: Some(position),
        });
    }
    let servers: Vec<_> = facade
        .projection
        .catalog()
        .servers()
        .into_iter()
        .cloned()
        .collect();
    success(AllServers {
        servers: views(&facade, &servers).await,
        position: None,
    })
}

/// One server.
#[utoipa::path(get, operation_id = "get_server", path = "/mcp/servers/{name}", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn get(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
) -> Result<Response, ApiError> {
    one(&facade, &name).await
}

/// In which way.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Mode {
    /// Check the request and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Register a server. Answers after the first attempt to connect, with the true status.
#[utoipa::path(post, operation_id = "register_server", path = "/mcp/servers", tag = "servers", params(Mode), request_body = RegisterBody,
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 409, description = "A server of that name exists already", body = ErrorBody)))]
pub async fn register(
    State(facade): State<Arc<ApiState>>,
    mode: Result<Query<Mode>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(Mode { dry_run }) = mode.map_err(|error| Failure::invalid(error.body_text()))?;
    let keyed = IdempotencyHeader::of(&request)?;
    let body = json::read_json(request, facade.limits.payload).await?;
    let key = key(&facade, keyed.as_ref(), &body)?;
    let body: RegisterBody = json::parse_json(&body)?;
    let (server, name, enabled) = (
        ServerId(Uuid::now_v7()),
        body.name.clone(),
        body.enabled.unwrap_or(true),
    );
    let (config, session, sealed) = body.config(&facade.sealer, server)?;
    let time = starts(config.startup_timeout_ms());
    let (id, named) = (new_command_id(), name.clone());
    let command = RegisterServer {
        id,
        key,
        server,
        name: named,
        config,
        enabled,
        session,
        sealed,
    };
    if dry_run {
        crate::core::decide::server::register_server(&facade.projection.catalog(), &command)?;
        return success(EmptyBody {});
    }
    let live = facade.send_command(&command, time).await?;
    shown(&facade, &name, live).await
}

/// Change a server. Fields that are given replace the whole value; what changed restarts the server.
#[utoipa::path(put, operation_id = "update_server", path = "/mcp/servers/{name}", tag = "servers", params(("name" = String, Path)), request_body = UpdateBody,
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn update(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let keyed = IdempotencyHeader::of(&request)?;
    let body = json::read_json(request, facade.limits.payload).await?;
    let key = key(&facade, keyed.as_ref(), &body)?;
    let body: UpdateBody = json::parse_json(&body)?;
    let server = facade.projection.catalog().server(name.as_str()).cloned();
    let server = server.ok_or_else(|| Failure::server_not_found(&name))?;
    let (change, sealed) = body.change(&facade.sealer, &server)?;
    let change = match &server.package {
        // What an answer has shown is put back.
        Some(installed) => change.with_placeholder(
            &facade
                .folders
                .link(&installed.package.source, &server.name)
                .to_string_lossy(),
        ),
        None => change,
    };
    let asked = change.startup_timeout.apply_to(None);
    let time = asked.map_or_else(|| time_to_start(&facade, &name), starts);
    let (id, named) = (new_command_id(), name.clone());
    let command = UpdateServer {
        id,
        key,
        name: named,
        change,
        server: Some(server.id),
        sealed,
    };
    let live = facade.send_to_owner(&name, &command, time).await?;
    shown(&facade, &name, live).await
}

/// Remove a server, its processes and all its secrets.
#[utoipa::path(delete, operation_id = "delete_server", path = "/mcp/servers/{name}", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<EmptyBody>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn delete(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let key = key(&facade, IdempotencyHeader::of(&request)?.as_ref(), &[])?;
    facade
        .send_to_owner(
            &name,
            &DeleteServer {
                id: new_command_id(),
                key,
                name: name.clone(),
            },
            STOPS,
        )
        .await?;
    success(EmptyBody {})
}

/// Enable a server; one that is enabled is restarted.
#[utoipa::path(put, operation_id = "enable_server", path = "/mcp/servers/{name}/enable", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn enable(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let key = key(&facade, IdempotencyHeader::of(&request)?.as_ref(), &[])?;
    success(OneServer {
        server: enabled(&facade, &name, key).await?,
    })
}

pub async fn enabled(
    facade: &ApiState,
    name: &ServerName,
    key: Option<IdempotencyKey>,
) -> Result<ServerView, ApiError> {
    let time = time_to_start(facade, name);
    let live = facade
        .send_to_owner(
            name,
            &EnableServer {
                id: new_command_id(),
                key,
                name: name.clone(),
            },
            time,
        )
        .await?;
    changed(facade, name, live).await
}

/// Stop a server and keep it.
#[utoipa::path(put, operation_id = "disable_server", path = "/mcp/servers/{name}/disable", tag = "servers", params(("name" = String, Path)),
    responses((status = 200, description = "Done", body = Success<OneServer>), (status = 404, description = "There is no such server", body = ErrorBody)))]
pub async fn disable(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let key = key(&facade, IdempotencyHeader::of(&request)?.as_ref(), &[])?;
    success(OneServer {
        server: disabled(&facade, &name, key).await?,
    })
}

pub async fn disabled(
    facade: &ApiState,
    name: &ServerName,
    key: Option<IdempotencyKey>,
) -> Result<ServerView, ApiError> {
    let live = facade
        .send_to_owner(
            name,
            &DisableServer {
                id: new_command_id(),
                key,
                name: name.clone(),
            },
            STOPS,
        )
        .await?;
    changed(facade, name, live).await
}

/// Stopping what runs, starting what is to run, and a little more.
fn starts(startup_timeout_ms: u64) -> Duration {
    STOPS + Duration::from_millis(startup_timeout_ms)
}

pub fn time_to_start(facade: &ApiState, name: &ServerName) -> Duration {
    let catalog = facade.projection.catalog();
    let Some(server) = catalog.server(name.as_str()) else {
        return starts(DEFAULT_TIMEOUT_MS);
    };
    let builds = if server.package.is_some() {
        BUILDS
    } else {
        Duration::ZERO
    };
    starts(server.config.startup_timeout_ms()) + builds
}

async fn one(facade: &ApiState, name: &ServerName) -> Result<Response, ApiError> {
    let server = facade
        .projection
        .catalog()
        .server(name.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(name))?;
    let server = views(facade, &[server])
        .await
        .pop()
        .ok_or_else(|| Failure::server_not_found(name))?;
    success(OneServer { server })
}

/// The server after a change, as the worker that made it has seen it.
pub async fn shown(
    facade: &ApiState,
    name: &ServerName,
    live: ServerStatus,
) -> Result<Response, ApiError> {
    success(OneServer {
        server: changed(facade, name, live).await?,
    })
}

async fn changed(
    facade: &ApiState,
    name: &ServerName,
    live: ServerStatus,
) -> Result<ServerView, ApiError> {
    let server = facade
        .projection
        .catalog()
        .server(name.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(name))?;
    let mut view = views(facade, &[server])
        .await
        .pop()
        .ok_or_else(|| Failure::server_not_found(name))?;
    view.set_status(live);
    Ok(view)
}

/// Servers with their status, and the logs of those workers that answer in time.
async fn views(facade: &ApiState, servers: &[Arc<Server>]) -> Vec<ServerView> {
    let ids: Vec<ServerId> = servers.iter().map(|server| server.id).collect();
    let looks = facade.registry.server_statuses(&ids);
    let mut by_worker: HashMap<WorkerId, Vec<ServerId>> = HashMap::new();
    for (id, (_, workers)) in ids.iter().zip(&looks) {
        workers
            .iter()
            .for_each(|worker| by_worker.entry(*worker).or_default().push(*id));
    }
    let asked = by_worker.into_iter().map(async |(worker, servers)| {
        facade
            .commands
            .send_to(Target::Worker(worker), &ReadServerLogs { servers }, LOGS)
            .await
            .unwrap_or_default()
    });
    let told = futures::future::join_all(asked).await.into_iter().flatten();
    let mut by_server: HashMap<ServerId, LiveDetails> = HashMap::new();
    for told in told {
        let of_server = by_server.entry(told.server).or_default();
        of_server.logs.extend(told.logs);
        of_server.logs.sort_by_key(|line| line.at);
        of_server.session_id = of_server.session_id.take().or(told.session_id);
        of_server.tools = of_server.tools.take().or(told.tools);
    }
    let views = servers.iter().zip(looks).map(|(server, (live, _))| {
        ServerView::new(
            server,
            live,
            by_server.remove(&server.id).unwrap_or_default(),
            &facade.folders,
        )
    });
    views.collect()
}
