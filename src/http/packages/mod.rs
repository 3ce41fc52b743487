//! `/packages`: MCP servers from npm and PyPI, installed, upgraded and looked after.

pub mod fields;
pub mod upgrade_all;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use utoipa::{IntoParams, ToSchema};

use self::fields::{InstallBody, UpgradeBody};
use super::extract::idempotency::{IdempotencyHeader, key};
use super::extract::json;
use super::extract::path::ServerNamePath;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::servers::Mode;
use super::state::{ApiState, new_command_id};
use super::{jobs, servers};
use crate::core::catalog::server::Server;
use crate::core::command::{CheckPackages, Command, PackageCheck, UpgradePackage};
use crate::core::decide::package::find_installed;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::model::idempotency::JobIdempotencyKey;
use crate::core::model::job::JobArguments;
use crate::core::model::package::{is_newer, python_name};
use crate::core::names::{PackageName, ServerName, UserName};
use crate::jobs::client::NewJob;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;
use crate::views::package::PackageView;
use crate::views::server::ServerView;

/// How long registries may take to be asked for all packages.
const CHECK: Duration = Duration::from_secs(120);

#[derive(Serialize, ToSchema)]
pub struct OnePackage {
    package: PackageView,
}

/// Packages of one name: several servers may use the same.
#[derive(Serialize, ToSchema)]
pub struct NamedPackages {
    /// The first of them.
    package: PackageView,
    packages: Vec<PackageView>,
}

#[derive(Serialize, ToSchema)]
pub struct AllPackages {
    packages: Vec<PackageView>,
}

/// A package and its server, as an installation or an upgrade has left them.
#[derive(Serialize, ToSchema)]
pub struct PackageAndServer {
    package: PackageView,
    server: ServerView,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CheckQuery {
    /// Ask the registries first which versions are the newest.
    #[serde(default)]
    check_updates: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UpdatesQuery {
    /// Only that server's package.
    #[param(value_type = Option<String>)]
    name: Option<ServerName>,
}

/// A package, and whether there is something newer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    #[schema(value_type = String)]
    server_name: ServerName,
    current_version: String,
    /// Absent where the registry did not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_version: Option<String>,
    update_available: bool,
    /// Why the registry did not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct Updates {
    updates: Vec<Update>,
}

type Queried<T> = Result<Query<T>, QueryRejection>;

/// Install a package and register the server that it is. Answers when the server runs; nothing is left where that
/// fails.
#[utoipa::path(post, operation_id = "install_package", path = "/packages/install", tag = "packages", params(Mode), request_body = InstallBody,
    responses((status = 200, description = "The server has started and told its tools", body = Success<PackageAndServer>), (status = 202, description = "With Prefer: respond-async; Location says where the answer will be", body = jobs::Accepted), (status = 400, description = "The request is wrong, or there is no such version", body = ErrorBody),
        (status = 404, description = "The registry has no such package", body = ErrorBody), (status = 409, description = "A server of that name exists already", body = ErrorBody), (status = 502, description = "It could not be installed, or its server does not start; `details` are the last lines of npm, pip or the server", body = ErrorBody)))]
pub async fn install(
    State(facade): State<Arc<ApiState>>,
    mode: Queried<Mode>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(Mode { dry_run }) = mode.map_err(|error| Failure::invalid(error.body_text()))?;
    let (later, keyed) = (
        jobs::prefers_async(request.headers()),
        IdempotencyHeader::of(&request)?,
    );
    let bytes = json::read_json(request, facade.limits.payload).await?;
    let body: InstallBody = json::parse_json(&bytes)?;
    let (user, name) = (body.username.clone(), body.server_name.clone());
    let key = keyed
        .map(|keyed| keyed.job_key(&facade, &user, &bytes))
        .transpose()?;
    let command = body.command(&facade)?;
    if dry_run {
        crate::core::decide::server::register_server(
            &facade.projection.catalog(),
            &command.register,
        )?;
        return success(EmptyBody {});
    }
    // What would fail in any case is not begun; under a key it may be its own success that is in the way.
    if key.is_none() && facade.projection.catalog().server(name.as_str()).is_some() {
        let taken = format!("Server with name {name} already exists");
        return Err(Failure::new(Code::ServerAlreadyExists, taken).into());
    }
    submit(&facade, later, job(user, name, key, &command)?).await
}

/// Give a package another version: the newest, where none is named. Calls under way finish on the old one.
#[utoipa::path(put, operation_id = "upgrade_package", path = "/packages/{name}/upgrade", tag = "packages", params(("name" = String, Path, description = "The server's name")), request_body = Option<UpgradeBody>,
    responses((status = 200, description = "The server runs that version", body = Success<PackageAndServer>), (status = 202, description = "With Prefer: respond-async; Location says where the answer will be", body = jobs::Accepted), (status = 400, description = "The request is wrong, or there is no such version", body = ErrorBody),
        (status = 404, description = "The server has no package", body = ErrorBody), (status = 502, description = "It could not be installed, or does not start; the old version goes on running", body = ErrorBody)))]
pub async fn upgrade(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let (later, keyed) = (
        jobs::prefers_async(request.headers()),
        IdempotencyHeader::of(&request)?,
    );
    let bytes = json::read_optional_json(request, facade.limits.payload).await?;
    let UpgradeBody { username, version } = if bytes.is_empty() {
        UpgradeBody::default()
    } else {
        json::parse_json(&bytes)?
    };
    find_installed(&facade.projection.catalog(), name.as_str())?;
    let key = keyed
        .map(|keyed| keyed.job_key(&facade, &username, &bytes))
        .transpose()?;
    let command = UpgradePackage {
        id: new_command_id(),
        name: name.clone(),
        version,
    };
    submit(&facade, later, job(username, name, key, &command)?).await
}

/// All packages.
#[utoipa::path(get, operation_id = "list_packages", path = "/packages", tag = "packages", params(CheckQuery), responses((status = 200, description = "Done", body = Success<AllPackages>)))]
pub async fn list(
    State(facade): State<Arc<ApiState>>,
    query: Queried<CheckQuery>,
) -> Result<Response, ApiError> {
    success(AllPackages {
        packages: views(&facade, query, |_| true).await?,
    })
}

/// The packages of a name at npm or PyPI, URL-encoded.
#[utoipa::path(get, operation_id = "get_packages_by_name", path = "/packages/by-name/{name}", tag = "packages", params(("name" = String, Path, description = "The package's name"), CheckQuery),
    responses((status = 200, description = "Done", body = Success<NamedPackages>), (status = 404, description = "No server has such a package", body = ErrorBody)))]
pub async fn by_name(
    State(facade): State<Arc<ApiState>>,
    Path(name): Path<String>,
    query: Queried<CheckQuery>,
) -> Result<Response, ApiError> {
    let unknown = || {
        Failure::new(
            Code::PackageNotFound,
            "No package of that name is installed",
        )
    };
    let name: PackageName = name.parse().map_err(|_| unknown())?;
    let normal = python_name(&name).ok();
    let same = |server: &Server| {
        let installed = server
            .package
            .as_ref()
            .map(|installed| &installed.package.name);
        installed == Some(&name) || (normal.is_some() && installed == normal.as_ref())
    };
    let packages = views(&facade, query, same).await?;
    let package = packages.first().cloned().ok_or_else(unknown)?;
    success(NamedPackages { package, packages })
}

/// The package of a server.
#[utoipa::path(get, operation_id = "get_package", path = "/packages/by-id/{name}", tag = "packages", params(("name" = String, Path, description = "The server's name"), CheckQuery),
    responses((status = 200, description = "Done", body = Success<OnePackage>), (status = 404, description = "The server has no package", body = ErrorBody)))]
pub async fn by_id(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    query: Queried<CheckQuery>,
) -> Result<Response, ApiError> {
    find_installed(&facade.projection.catalog(), name.as_str())?;
    let package = views(&facade, query, |server| server.name == name)
        .await?
        .pop();
    success(OnePackage {
        package: package.ok_or_else(|| Failure::server_not_found(&name))?,
    })
}

/// Ask the registries which packages have something newer.
#[utoipa::path(get, operation_id = "check_packages", path = "/packages/updates", tag = "packages", params(UpdatesQuery),
    responses((status = 200, description = "Done", body = Success<Updates>), (status = 404, description = "The server has no package", body = ErrorBody)))]
pub async fn updates(
    State(facade): State<Arc<ApiState>>,
    query: Queried<UpdatesQuery>,
) -> Result<Response, ApiError> {
    let Query(UpdatesQuery { name }) =
        query.map_err(|error| Failure::invalid(error.body_text()))?;
    if let Some(name) = &name {
        find_installed(&facade.projection.catalog(), name.as_str())?;
    }
    let mut servers = packaged(&facade);
    servers.retain(|server| name.as_ref().is_none_or(|name| server.name == *name));
    let checked = check(&facade, &servers).await?;
    let updates = servers.iter().filter_map(|server| {
        let package = &server.package.as_ref()?.package;
        let checked = checked.iter().find(|checked| checked.server == server.id)?;
        let (latest, error) = match &checked.latest {
            Ok(latest) => (Some(latest.clone()), None),
            Err(failure) => (None, Some(failure.message.clone())),
        };
        Some(Update {
            server_name: server.name.clone(),
            current_version: package.version.clone(),
            update_available: latest
                .as_deref()
                .is_some_and(|latest| is_newer(&package.source, latest, &package.version)),
            latest_version: latest,
            error,
        })
    });
    success(Updates {
        updates: updates.collect(),
    })
}

/// Enable a package's server; one that is enabled is restarted.
#[utoipa::path(put, operation_id = "enable_package", path = "/packages/{name}/enable", tag = "packages", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "Done", body = Success<PackageAndServer>), (status = 404, description = "The server has no package", body = ErrorBody)))]
pub async fn enable(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    find_installed(&facade.projection.catalog(), name.as_str())?;
    let key = key(&facade, IdempotencyHeader::of(&request)?.as_ref(), &[])?;
    let server = servers::enabled(&facade, &name, key).await?;
    with_server(&facade, &name, server)
}

/// Stop a package's server and keep both.
#[utoipa::path(put, operation_id = "disable_package", path = "/packages/{name}/disable", tag = "packages", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "Done", body = Success<PackageAndServer>), (status = 404, description = "The server has no package", body = ErrorBody)))]
pub async fn disable(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    find_installed(&facade.projection.catalog(), name.as_str())?;
    let key = key(&facade, IdempotencyHeader::of(&request)?.as_ref(), &[])?;
    let server = servers::disabled(&facade, &name, key).await?;
    with_server(&facade, &name, server)
}

/// Remove a package and its server with all its secrets. Its files go where no other server uses them.
#[utoipa::path(delete, operation_id = "delete_package", path = "/packages/{name}", tag = "packages", params(("name" = String, Path, description = "The server's name")),
    responses((status = 200, description = "Done", body = Success<EmptyBody>), (status = 404, description = "The server has no package", body = ErrorBody)))]
pub async fn delete(
    State(facade): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
    request: Request,
) -> Result<Response, ApiError> {
    let keyed = IdempotencyHeader::of(&request)?.is_some();
    // Under a key it may be its own success that is in the way.
    if !keyed {
        find_installed(&facade.projection.catalog(), name.as_str())?;
    }
    servers::delete(State(facade), ServerNamePath(name), request).await
}

fn with_server(
    facade: &ApiState,
    name: &ServerName,
    server: ServerView,
) -> Result<Response, ApiError> {
    let catalog = facade.projection.catalog();
    let package = PackageView::new(find_installed(&catalog, name.as_str())?, &facade.folders);
    success(PackageAndServer {
        package: package.ok_or_else(Failure::internal)?,
        server,
    })
}

async fn submit(facade: &ApiState, later: bool, new: NewJob) -> Result<Response, ApiError> {
    if later {
        jobs::submit_and_accept(facade, new).await
    } else {
        jobs::submit_and_wait(facade, new).await
    }
}

pub fn job<C: Command>(
    user: UserName,
    server: ServerName,
    key: Option<JobIdempotencyKey>,
    command: &C,
) -> Result<NewJob, Failure> {
    let work = JobArguments {
        call: None,
        raw: false,
        reply: None,
        body: to_raw_value(command).map_err(internal_error)?,
    };
    Ok(NewJob {
        user,
        command: C::NAME,
        server: Some(server),
        work,
        key,
        actor: Actor::Api,
    })
}

/// The servers that have a package, by name.
pub fn packaged(facade: &ApiState) -> Vec<Arc<Server>> {
    let catalog = facade.projection.catalog();
    catalog
        .servers()
        .into_iter()
        .filter(|server| server.package.is_some())
        .cloned()
        .collect()
}

async fn check(facade: &ApiState, servers: &[Arc<Server>]) -> Result<Vec<PackageCheck>, Failure> {
    if servers.is_empty() {
        return Ok(vec![]);
    }
    facade
        .send_command(
            &CheckPackages {
                servers: servers.iter().map(|server| server.id).collect(),
            },
            CHECK,
        )
        .await
}

/// The packages of those servers; where asked for, with what the registries say now.
async fn views(
    facade: &ApiState,
    query: Queried<CheckQuery>,
    wanted: impl Fn(&Server) -> bool,
) -> Result<Vec<PackageView>, Failure> {
    let Query(CheckQuery { check_updates }) =
        query.map_err(|error| Failure::invalid(error.body_text()))?;
    if check_updates {
        let servers: Vec<_> = packaged(facade)
            .into_iter()
            .filter(|server| wanted(server))
            .collect();
        check(facade, &servers).await?;
    }
    let servers = packaged(facade);
    let views = servers
        .iter()
        .filter(|server| wanted(server))
        .filter_map(|server| PackageView::new(server, &facade.folders));
    Ok(views.collect())
}
