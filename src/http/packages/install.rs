//! `POST /packages/install` and `PUT /packages/{name}/upgrade`: both are jobs.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::PackageAndServer;
use super::fields::{InstallBody, UpgradeBody};
use crate::core::command::{Command, UpgradePackage};
use crate::core::decide::package::find_installed;
use crate::core::decide::server::register_server;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::model::caller::Caller;
use crate::core::model::idempotency::JobIdempotencyKey;
use crate::core::model::job::JobArguments;
use crate::core::names::{ServerName, UserName};
use crate::http::auth::AdminCaller;
use crate::http::extract::headers::PreferAsync;
use crate::http::extract::idempotency::IdempotencyHeader;
use crate::http::extract::json::{JsonBody, OptionalJsonBody};
use crate::http::extract::path::ServerNamePath;
use crate::http::extract::query::QueryParams;
use crate::http::jobs::JobAccepted;
use crate::http::jobs::submit::submit;
use crate::http::respond::json::{ApiError, EmptyBody, Success, success};
use crate::http::servers::DryRunQuery;
use crate::http::state::{ApiState, change_origin};
use crate::jobs::client::NewJob;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;
use crate::views::package::PackageView;
use crate::views::server::ServerView;

/// The answer to an installation. With `dryRun` it has no further fields.
#[derive(ToSchema)]
#[allow(dead_code)]
pub(crate) struct InstallAnswer {
    #[schema(default = true)]
    success: bool,
    package: Option<PackageView>,
    server: Option<ServerView>,
}

/// Install a package and register its server.
///
/// The program answers when the server runs. An installation that fails leaves nothing behind. The
/// installation continues if the client disconnects.
#[utoipa::path(
    post, operation_id = "install_package", path = "/packages/install", tag = "packages",
    params(DryRunQuery, PreferAsync, IdempotencyHeader), request_body = InstallBody,
    responses(
        (status = 200, description = "The server has started and listed its tools",
            body = InstallAnswer),
        (status = 202, description = "The job is accepted; see `Location`", body = JobAccepted),
        (status = 404, description = "The registry has no package with this name",
            body = ErrorBody),
        (status = 409, description = "A server has this name already, or another request used \
            the Idempotency-Key with another body", body = ErrorBody),
        (status = 502, description = "The installation failed, or the server does not start; \
            `details` holds the last lines of npm, pip or the server", body = ErrorBody),
    )
)]
pub(crate) async fn install(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    QueryParams(query): QueryParams<DryRunQuery>,
    prefer: PreferAsync,
    key: IdempotencyHeader,
    JsonBody { value: body, bytes }: JsonBody<InstallBody>,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(body.username.clone())?;
    let name = body.server_name.clone();
    let key = key.job_key(&state, &user, &bytes)?;
    let command = body.into_command(&state, &caller)?;
    if query.dry_run {
        register_server(&state.catalog(), &command.register)?;
        return success(EmptyBody {});
    }
    // A request with a key may be the repeat of a request that has registered the server.
    if key.is_none() && state.catalog().server(name.as_str()).is_some() {
        let sentence = format!("Server with name {name} already exists");
        return Err(Failure::new(Code::ServerAlreadyExists, sentence).into());
    }
    let job = package_job(&caller, user, name, key, &command)?;
    submit(&state, &caller, prefer, job).await
}

/// Upgrade a package to a version; to the newest version if the body names none.
///
/// Running calls end on the old version.
#[utoipa::path(
    put, operation_id = "upgrade_package", path = "/packages/{name}/upgrade", tag = "packages",
    params(ServerNamePath, PreferAsync, IdempotencyHeader), request_body = Option<UpgradeBody>,
    responses(
        (status = 200, description = "The server runs this version",
            body = Success<PackageAndServer>),
        (status = 202, description = "The job is accepted; see `Location`", body = JobAccepted),
        (status = 404, description = "The server does not exist or has no package",
            body = ErrorBody),
        (status = 502, description = "The installation failed, or the server does not start; \
            the old version runs on", body = ErrorBody),
    )
)]
pub(crate) async fn upgrade(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    ServerNamePath(name): ServerNamePath,
    prefer: PreferAsync,
    key: IdempotencyHeader,
    OptionalJsonBody(body): OptionalJsonBody<UpgradeBody>,
) -> Result<Response, ApiError> {
    find_installed(&state.catalog(), name.as_str())?;
    let UpgradeBody { username, version } = body.value;
    let user = caller.acts_for(username)?;
    let key = key.job_key(&state, &user, &body.bytes)?;
    let command = UpgradePackage {
        origin: change_origin(&caller, None),
        name: name.clone(),
        version,
    };
    let job = package_job(&caller, user, name, key, &command)?;
    submit(&state, &caller, prefer, job).await
}

/// Returns the job that executes a command on the package of a server.
///
/// # Errors
/// `internal` if the command cannot be encoded.
pub(crate) fn package_job<C: Command>(
    caller: &Caller,
    user: UserName,
    server: ServerName,
    key: Option<JobIdempotencyKey>,
    command: &C,
) -> Result<NewJob, Failure> {
    let work = JobArguments {
        call: None,
        raw: false,
        reply: None,
        server_id: None,
        body: to_raw_value(command).map_err(internal_error)?,
    };
    Ok(NewJob {
        user,
        command: C::NAME,
        server: Some(server),
        work,
        key,
        actor: Actor::from(caller),
    })
}
