//! `/packages`: MCP servers that the program installs from npm and PyPI.

pub(super) mod fields;
pub(super) mod install;
pub(super) mod upgrade_all;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::AdminCaller;
use super::extract::idempotency::IdempotencyHeader;
use super::extract::path::{PathText, ServerNamePath};
use super::extract::query::QueryParams;
use super::respond::json::{ApiError, Success, success};
use super::servers;
use super::state::{ApiState, change_origin};
use crate::core::catalog::server::Server;
use crate::core::command::{CheckPackages, PackageCheck};
use crate::core::decide::package::find_installed;
use crate::core::failure::{Code, Failure};
use crate::core::model::package::{is_newer, python_name};
use crate::core::names::{PackageName, ServerName};
use crate::views::failure::ErrorBody;
use crate::views::package::PackageView;
use crate::views::server::ServerView;

/// The longest time for asking the registries for the newest versions of all packages.
const CHECK_LIMIT: Duration = Duration::from_secs(120);

#[derive(Serialize, ToSchema)]
pub(super) struct OnePackage {
    package: PackageView,
}

/// The packages with one name. Several servers can use the same package.
#[derive(Serialize, ToSchema)]
pub(super) struct NamedPackages {
    /// The first of these packages.
    package: PackageView,
    packages: Vec<PackageView>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct PackageList {
    packages: Vec<PackageView>,
}

/// A package and its server after an installation, an upgrade or a change.
#[derive(Serialize, ToSchema)]
pub(super) struct PackageAndServer {
    package: PackageView,
    server: ServerView,
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CheckQuery {
    /// If true, the program first asks the registries for the newest versions.
    #[serde(default)]
    check_updates: bool,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UpdatesQuery {
    /// Only the package of this server.
    #[param(value_type = Option<String>)]
    name: Option<ServerName>,
}

/// The installed and the newest version of a package.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Update {
    #[schema(value_type = String)]
    server_name: ServerName,
    current_version: String,
    /// Absent if the registry did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    latest_version: Option<String>,
    update_available: bool,
    /// The reason why the registry did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct UpdateList {
    updates: Vec<Update>,
}

/// List all packages.
#[utoipa::path(
    get, operation_id = "list_packages", path = "/packages", tag = "packages",
    params(CheckQuery),
    responses((status = 200, description = "The packages", body = Success<PackageList>))
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
    QueryParams(query): QueryParams<CheckQuery>,
) -> Result<Response, ApiError> {
    let packages = package_views(&state, &query, |_| true).await?;
    success(PackageList { packages })
}

/// List the packages with one name at npm or PyPI. The name in the path is URL-encoded.
#[utoipa::path(
    get, operation_id = "get_packages_by_name", path = "/packages/by-name/{name}",
    tag = "packages",
    params(("name" = String, Path, description = "The name of the package"), CheckQuery),
    responses(
        (status = 200, description = "The packages", body = Success<NamedPackages>),
        (status = 404, description = "No server has this package", body = ErrorBody),
    )
)]
pub(super) async fn by_name(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
    PathText(name): PathText,
    QueryParams(query): QueryParams<CheckQuery>,
) -> Result<Response, ApiError> {
    let name: PackageName = name.parse().map_err(|_| package_not_found())?;
    let normalized = python_name(&name).ok();
    let has_name = |server: &Server| {
        server.package.as_ref().is_some_and(|installed| {
            let installed = &installed.package.name;
            *installed == name || normalized.as_ref() == Some(installed)
        })
    };
    let packages = package_views(&state, &query, has_name).await?;
    let package = packages.first().cloned().ok_or_else(package_not_found)?;
    success(NamedPackages { package, packages })
}

fn package_not_found() -> Failure {
    Failure::new(
        Code::PackageNotFound,
        "No package of that name is installed",
    )
}

/// Read the package of a server.
#[utoipa::path(
    get, operation_id = "get_package", path = "/packages/by-id/{name}", tag = "packages",
    params(ServerNamePath, CheckQuery),
    responses(
        (status = 200, description = "The package", body = Success<OnePackage>),
        (status = 404, description = "The server does not exist or has no package",
            body = ErrorBody),
    )
)]
pub(super) async fn by_id(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
    ServerNamePath(name): ServerNamePath,
    QueryParams(query): QueryParams<CheckQuery>,
) -> Result<Response, ApiError> {
    find_installed(&state.catalog(), name.as_str())?;
    let package = package_views(&state, &query, |server| server.name == name)
        .await?
        .pop()
        .ok_or_else(|| Failure::server_not_found(&name))?;
    success(OnePackage { package })
}

/// Ask the registries for newer versions.
#[utoipa::path(
    get, operation_id = "check_packages", path = "/packages/updates", tag = "packages",
    params(UpdatesQuery),
    responses(
        (status = 200, description = "The versions", body = Success<UpdateList>),
        (status = 404, description = "The server does not exist or has no package",
            body = ErrorBody),
    )
)]
pub(super) async fn updates(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
    QueryParams(query): QueryParams<UpdatesQuery>,
) -> Result<Response, ApiError> {
    let mut servers = servers_with_package(&state);
    if let Some(name) = &query.name {
        find_installed(&state.catalog(), name.as_str())?;
        servers.retain(|server| server.name == *name);
    }
    let checks = check_packages(&state, &servers).await?;
    let updates = servers
        .iter()
        .filter_map(|server| {
            let check = checks.iter().find(|check| check.server == server.id)?;
            update_of(server, check)
        })
        .collect();
    success(UpdateList { updates })
}

fn update_of(server: &Server, check: &PackageCheck) -> Option<Update> {
    let package = &server.package.as_ref()?.package;
    let latest = check.latest.as_ref().ok();
    let update_available =
        latest.is_some_and(|latest| is_newer(&package.source, latest, &package.version));
    Some(Update {
        server_name: server.name.clone(),
        current_version: package.version.clone(),
        latest_version: latest.cloned(),
        update_available,
        error: check
            .latest
            .as_ref()
            .err()
            .map(|failure| failure.message.clone()),
    })
}

/// Enable the server of a package. The program restarts a server that is enabled already.
#[utoipa::path(
    put, operation_id = "enable_package", path = "/packages/{name}/enable", tag = "packages",
    params(ServerNamePath, IdempotencyHeader),
    responses(
        (status = 200, description = "The package and its server",
            body = Success<PackageAndServer>),
        (status = 404, description = "The server does not exist or has no package",
            body = ErrorBody),
    )
)]
pub(super) async fn enable(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    find_installed(&state.catalog(), name.as_str())?;
    let origin = change_origin(&caller, key.shared_key(&state, &[])?);
    let server = servers::enable_server(&state, &name, origin).await?;
    respond_with_package(&state, &name, server)
}

/// Disable the server of a package. The program stops the server and keeps the package.
#[utoipa::path(
    put, operation_id = "disable_package", path = "/packages/{name}/disable", tag = "packages",
    params(ServerNamePath, IdempotencyHeader),
    responses(
        (status = 200, description = "The package and its server",
            body = Success<PackageAndServer>),
        (status = 404, description = "The server does not exist or has no package",
            body = ErrorBody),
    )
)]
pub(super) async fn disable(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    find_installed(&state.catalog(), name.as_str())?;
    let origin = change_origin(&caller, key.shared_key(&state, &[])?);
    let server = servers::disable_server(&state, &name, origin).await?;
    respond_with_package(&state, &name, server)
}

/// Delete a package and its server with all secrets and tokens.
///
/// The program deletes the files of the package unless another server uses them.
#[utoipa::path(
    delete, operation_id = "delete_package", path = "/packages/{name}", tag = "packages",
    params(ServerNamePath, IdempotencyHeader),
    responses(
        (status = 200, description = "The package is deleted", body = Success<servers::DeletedServerBody>),
        (status = 404, description = "The server does not exist or has no package",
            body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    // A request with a key may be the repeat of a request that has deleted the package.
    if !key.is_present() {
        find_installed(&state.catalog(), name.as_str())?;
    }
    // The digest belongs to this route, so a key of another route cannot match.
    let origin = change_origin(&caller, key.shared_key(&state, &[])?);
    servers::delete_server(&state, name, origin).await
}

fn respond_with_package(
    state: &ApiState,
    name: &ServerName,
    server: ServerView,
) -> Result<Response, ApiError> {
    let catalog = state.catalog();
    let installed = find_installed(&catalog, name.as_str())?;
    let package =
        PackageView::new(installed, state.package_dirs()).ok_or_else(Failure::internal)?;
    success(PackageAndServer { package, server })
}

/// Returns the servers that have a package, by name.
pub(super) fn servers_with_package(state: &ApiState) -> Vec<Arc<Server>> {
    state
        .catalog()
        .servers()
        .into_iter()
        .filter(|server| server.package.is_some())
        .cloned()
        .collect()
}

async fn check_packages(
    state: &ApiState,
    servers: &[Arc<Server>],
) -> Result<Vec<PackageCheck>, Failure> {
    if servers.is_empty() {
        return Ok(vec![]);
    }
    let command = CheckPackages {
        servers: servers.iter().map(|server| server.id).collect(),
    };
    state.send_command(&command, CHECK_LIMIT).await
}

/// Returns the packages of these servers. If the query wants it, a worker asks the registries
/// first.
async fn package_views(
    state: &ApiState,
    query: &CheckQuery,
    is_wanted: impl Fn(&Server) -> bool,
) -> Result<Vec<PackageView>, Failure> {
    let wanted_servers = || {
        let mut servers = servers_with_package(state);
        servers.retain(|server| is_wanted(server));
        servers
    };
    if query.check_updates {
        check_packages(state, &wanted_servers()).await?;
    }
    let views = wanted_servers()
        .iter()
        .filter_map(|server| PackageView::new(server, state.package_dirs()))
        .collect();
    Ok(views)
}
