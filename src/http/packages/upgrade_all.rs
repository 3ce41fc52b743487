//! `PUT /packages/upgrade-all`: one job for each package. The log accepts all jobs together.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::install::package_job;
use super::servers_with_package;
use crate::core::command::{Command, UpgradePackage};
use crate::core::decide::idempotency::key_conflict;
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::caller::Caller;
use crate::core::model::idempotency::JobIdempotencyKey;
use crate::core::names::{ServerName, UserName};
use crate::http::auth::AdminCaller;
use crate::http::extract::headers::PreferAsync;
use crate::http::extract::idempotency::{IdempotencyHeader, key_for_server};
use crate::http::extract::json::OptionalJsonBody;
use crate::http::jobs::submit::{job_location, wait_for_answer, with_preference_applied};
use crate::http::respond::json::{ApiError, Success, success, success_as};
use crate::http::state::{ApiState, change_origin};
use crate::jobs::client::{NewJob, key_expired};
use crate::views::failure::ErrorBody;

/// The options of an upgrade of all packages.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpgradeAllBody {
    /// The user of the jobs; the caller if absent, and `default` for a caller without a user.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
}

/// The result of one upgrade.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UpgradeResult {
    #[schema(value_type = String)]
    server_name: ServerName,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct UpgradeResults {
    results: Vec<UpgradeResult>,
}

/// The job of one upgrade.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UpgradeJob {
    #[schema(value_type = String)]
    server_name: ServerName,
    #[schema(value_type = String)]
    job_id: JobId,
    /// The path of the job.
    location: String,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct UpgradeJobs {
    jobs: Vec<UpgradeJob>,
}

/// Upgrade all packages to their newest versions at the same time.
///
/// A failed upgrade does not stop the other upgrades.
#[utoipa::path(
    put, operation_id = "upgrade_all_packages", path = "/packages/upgrade-all", tag = "packages",
    params(PreferAsync, IdempotencyHeader), request_body = Option<UpgradeAllBody>,
    responses(
        (status = 200, description = "The result of each upgrade", body = Success<UpgradeResults>),
        (status = 202, description = "The jobs are accepted; each has a location",
            body = Success<UpgradeJobs>),
        (status = 429, description = "The user would have too many waiting jobs \
            (MAX_WAITING_JOBS); the program accepted none", body = ErrorBody),
    )
)]
pub(crate) async fn upgrade_all(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    PreferAsync(prefers_async): PreferAsync,
    key: IdempotencyHeader,
    OptionalJsonBody(body): OptionalJsonBody<UpgradeAllBody>,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(body.value.username)?;
    let key = key.job_key(&state, &user, &body.bytes)?;
    let jobs = accept_jobs(&state, &caller, &user, key).await?;
    if prefers_async {
        return respond_with_jobs(jobs);
    }
    let results = jobs
        .into_iter()
        .map(|(server_name, job)| wait_for_upgrade(&state, server_name, job));
    success(UpgradeResults {
        results: join_all(results).await,
    })
}

fn respond_with_jobs(jobs: Vec<(ServerName, JobId)>) -> Result<Response, ApiError> {
    let jobs = jobs
        .into_iter()
        .map(|(server_name, job_id)| UpgradeJob {
            server_name,
            job_id,
            location: job_location(job_id),
        })
        .collect();
    let response = success_as(StatusCode::ACCEPTED, UpgradeJobs { jobs })?;
    Ok(with_preference_applied(response))
}

/// Returns the job of each package. A repeat of a key gets the jobs of the first request, even if
/// the packages have changed.
async fn accept_jobs(
    state: &ApiState,
    caller: &Caller,
    user: &UserName,
    key: Option<JobIdempotencyKey>,
) -> Result<Vec<(ServerName, JobId)>, Failure> {
    let known = find_jobs(state, key)?;
    if !known.is_empty() {
        return Ok(known);
    }
    let servers: Vec<ServerName> = servers_with_package(state)
        .into_iter()
        .map(|server| server.name.clone())
        .collect();
    let jobs = servers
        .iter()
        .map(|server| upgrade_job(state, caller, user, server, key))
        .collect::<Result<_, _>>()?;
    if let Some(ids) = state.job_client().submit_all(jobs).await? {
        return Ok(servers.into_iter().zip(ids).collect());
    }
    // A request with the same key arrived at the same moment, and the log accepted its jobs first.
    let known = find_jobs(state, key)?;
    if known.is_empty() {
        return Err(key_expired());
    }
    Ok(known)
}

fn upgrade_job(
    state: &ApiState,
    caller: &Caller,
    user: &UserName,
    server: &ServerName,
    key: Option<JobIdempotencyKey>,
) -> Result<NewJob, Failure> {
    let key = key
        .map(|key| key_for_server(state, key, server))
        .transpose()?;
    let command = UpgradePackage {
        origin: change_origin(caller, None),
        name: server.clone(),
        version: None,
    };
    package_job(caller, user.clone(), server.clone(), key, &command)
}

/// Returns the jobs that a request with this key has made, sorted by server.
fn find_jobs(
    state: &ApiState,
    key: Option<JobIdempotencyKey>,
) -> Result<Vec<(ServerName, JobId)>, Failure> {
    let Some(key) = key else {
        return Ok(vec![]);
    };
    let mut jobs = Vec::new();
    let catalog = state.catalog();
    for job in catalog.jobs.newest_first() {
        if job.target.command != UpgradePackage::NAME {
            continue;
        }
        let (Some(server), Some(job_key)) = (&job.target.server, &job.key) else {
            continue;
        };
        let expected = key_for_server(state, key, server)?.request;
        if job_key.request.scope != expected.scope {
            continue;
        }
        if job_key.request.body != expected.body {
            return Err(key_conflict());
        }
        jobs.push((server.clone(), job.id));
    }
    jobs.sort_unstable();
    Ok(jobs)
}

async fn wait_for_upgrade(state: &ApiState, server_name: ServerName, job: JobId) -> UpgradeResult {
    let error = match wait_for_answer(state, job).await {
        Ok(answer) => answer.error(),
        Err(failure) => Some(failure.message),
    };
    UpgradeResult {
        server_name,
        success: error.is_none(),
        error,
    }
}
