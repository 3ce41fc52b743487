//! `PUT /packages/upgrade-all`: a job for each package, accepted together.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{job, packaged};
use crate::core::command::{Command, UpgradePackage};
use crate::core::decide::idempotency::key_conflict;
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::idempotency::JobIdempotencyKey;
use crate::core::names::{ServerName, UserName};
use crate::http::extract::idempotency::{IdempotencyHeader, of_server};
use crate::http::extract::json;
use crate::http::jobs;
use crate::http::respond::json::{ApiError, Success, success, success_as};
use crate::http::state::{ApiState, new_command_id};
use crate::jobs::client::key_expired;
use crate::views::failure::ErrorBody;

/// What an upgrade of all may say.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpgradeAllBody {
    /// Whose jobs they are; `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    username: UserName,
}

/// How one package of several was upgraded.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgraded {
    #[schema(value_type = String)]
    server_name: ServerName,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub struct AllUpgraded {
    results: Vec<Upgraded>,
}

/// The upgrade of one package of several, which is answered later.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AcceptedUpgrade {
    #[schema(value_type = String)]
    server_name: ServerName,
    #[schema(value_type = String)]
    job_id: JobId,
    /// Where its answer will be.
    location: String,
}

#[derive(Serialize, ToSchema)]
pub struct AllAccepted {
    jobs: Vec<AcceptedUpgrade>,
}

/// Upgrade all packages to their newest versions, side by side. One that fails stops no other.
#[utoipa::path(put, operation_id = "upgrade_all_packages", path = "/packages/upgrade-all", tag = "packages", request_body = Option<UpgradeAllBody>,
    responses((status = 200, description = "What came of each", body = Success<AllUpgraded>), (status = 202, description = "With Prefer: respond-async; each job says where its answer will be", body = Success<AllAccepted>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody),
        (status = 409, description = "Its Idempotency-Key was used with another body", body = ErrorBody), (status = 429, description = "The user has no room for so many waiting jobs (MAX_WAITING_JOBS); none was begun", body = ErrorBody)))]
pub async fn upgrade_all(
    State(facade): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (later, keyed) = (
        jobs::prefers_async(request.headers()),
        IdempotencyHeader::of(&request)?,
    );
    let bytes = json::read_optional_json(request, facade.limits.payload).await?;
    let UpgradeAllBody { username } = if bytes.is_empty() {
        UpgradeAllBody::default()
    } else {
        json::parse_json(&bytes)?
    };
    let key = keyed
        .map(|keyed| keyed.job_key(&facade, &username, &bytes))
        .transpose()?;
    let accepted = accept(&facade, &username, key).await?;
    if later {
        let job = |(server_name, job_id)| AcceptedUpgrade {
            server_name,
            job_id,
            location: jobs::location(job_id),
        };
        let accepted = success_as(
            StatusCode::ACCEPTED,
            AllAccepted {
                jobs: accepted.into_iter().map(job).collect(),
            },
        )?;
        return Ok(jobs::respond_as_preferred(accepted));
    }
    let results = accepted
        .into_iter()
        .map(|(server_name, job)| ended(&facade, server_name, job));
    success(AllUpgraded {
        results: join_all(results).await,
    })
}

/// The job of each package. Under a key that was used before they are those of that time, whichever packages there
/// are now.
async fn accept(
    facade: &ApiState,
    user: &UserName,
    key: Option<JobIdempotencyKey>,
) -> Result<Vec<(ServerName, JobId)>, Failure> {
    let known = || {
        key.map(|key| of_key(facade, key))
            .transpose()
            .map(Option::unwrap_or_default)
    };
    let before = known()?;
    if !before.is_empty() {
        return Ok(before);
    }
    let servers: Vec<_> = packaged(facade)
        .into_iter()
        .map(|server| server.name.clone())
        .collect();
    let new = servers.iter().map(|name| {
        let key = key.map(|key| of_server(facade, key, name)).transpose()?;
        let command = UpgradePackage {
            id: new_command_id(),
            name: name.clone(),
            version: None,
        };
        job(user.clone(), name.clone(), key, &command)
    });
    match facade
        .job_client
        .submit_all(new.collect::<Result<_, _>>()?)
        .await?
    {
        Some(jobs) => Ok(servers.into_iter().zip(jobs).collect()),
        // The same request came at the same moment, and was first.
        None => known().and_then(|jobs| {
            if jobs.is_empty() {
                Err(key_expired())
            } else {
                Ok(jobs)
            }
        }),
    }
}

/// The jobs that a request under that key has made, in the order of their servers.
fn of_key(facade: &ApiState, key: JobIdempotencyKey) -> Result<Vec<(ServerName, JobId)>, Failure> {
    let mut known = Vec::new();
    for job in facade
        .projection
        .catalog()
        .jobs
        .newest_first()
        .filter(|job| job.command == UpgradePackage::NAME)
    {
        let (Some(server), Some(own)) = (&job.server, &job.key) else {
            continue;
        };
        let same = of_server(facade, key, server)?.request;
        if own.request.scope != same.scope {
            continue;
        }
        if own.request.body != same.body {
            return Err(key_conflict());
        }
        known.push((server.clone(), job.id));
    }
    known.sort_unstable();
    Ok(known)
}

async fn ended(facade: &ApiState, server_name: ServerName, job: JobId) -> Upgraded {
    let error = match jobs::wait_for_answer(facade, job).await {
        Ok(outcome) => outcome.error(),
        Err(failure) => Some(failure.message),
    };
    Upgraded {
        server_name,
        success: error.is_none(),
        error,
    }
}
