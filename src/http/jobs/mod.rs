//! `/jobs`: the jobs of a user, and the answers of ended jobs.

pub(super) mod submit;
mod view;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use self::submit::visible_answer;
pub(super) use self::view::JobAccepted;
use self::view::JobView;
use self::wait::{load_answer, wait_for_end};
use super::auth::ToolsCaller;
use super::extract::path::PathText;
use super::extract::query::QueryParams;
use super::respond::json::{ApiError, Success, success};
use super::state::ApiState;
use crate::core::catalog::Catalog;
use crate::core::command::NotifyProducer;
use crate::core::decide::access::{Action, may};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::caller::Caller;
use crate::core::model::job::{Job, JobState};
use crate::core::names::UserName;
use crate::views::failure::ErrorBody;

/// The longest `wait` of one request.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// The longest time for the notification of a producer.
const NOTIFY_LIMIT: Duration = Duration::from_secs(10);
/// The largest and the default number of jobs in one answer.
const MAX_LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;

#[derive(Serialize, ToSchema)]
pub(super) struct OneJob {
    job: JobView,
}

#[derive(Serialize, ToSchema)]
pub(super) struct JobList {
    jobs: Vec<JobView>,
    /// The `before` of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<JobId>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobQuery {
    /// The user of the job; the caller if absent, and `default` for a caller without a user.
    #[param(value_type = Option<String>)]
    username: Option<UserName>,
    /// The longest time to wait for the end of the job, such as `30s`; at most five minutes.
    wait: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListJobsQuery {
    /// The user of the jobs; the caller if absent, and `default` for a caller without a user.
    #[param(value_type = Option<String>)]
    username: Option<UserName>,
    /// Only jobs in these states, comma-separated: waiting, running, succeeded, failed, cancelled,
    /// unknown.
    state: Option<String>,
    /// The number of jobs in the answer: 1 to 1000; 100 if absent.
    limit: Option<usize>,
    /// Only jobs that were accepted before this job: the `next` of an earlier answer.
    before: Option<String>,
}

/// List a user's jobs, newest first.
#[utoipa::path(
    get, operation_id = "list_jobs", path = "/jobs", tag = "jobs", params(ListJobsQuery),
    responses((status = 200, description = "The jobs", body = Success<JobList>))
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    QueryParams(query): QueryParams<ListJobsQuery>,
) -> Result<Response, ApiError> {
    let user = caller.reads_for(query.username)?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Failure::invalid(format!("limit must be 1 to {MAX_LIMIT}")).into());
    }
    let states = query.state.as_deref().map(parse_states).transpose()?;
    let before = query
        .before
        .as_deref()
        .map(str::parse::<JobId>)
        .transpose()
        .map_err(|error| Failure::invalid(format!("before {error}")))?;
    let catalog = state.catalog();
    let newest_first: Box<dyn Iterator<Item = &Arc<Job>>> = match before {
        Some(id) => Box::new(catalog.jobs.before(id)),
        None => Box::new(catalog.jobs.newest_first()),
    };
    let mut matching = newest_first.filter(|job| {
        let has_state = states
            .as_ref()
            .is_none_or(|states| states.contains(&job.state()));
        job.target.user == user && has_state && is_visible(&caller, &catalog, job)
    });
    let jobs: Vec<_> = matching
        .by_ref()
        .take(limit)
        .map(|job| JobView::new(job, None))
        .collect();
    let has_more = matching.next().is_some();
    let next = jobs.last().filter(|_| has_more).map(JobView::id);
    success(JobList { jobs, next })
}

fn parse_states(text: &str) -> Result<Vec<JobState>, Failure> {
    text.split(',')
        .map(|state| serde_json::from_value(state.trim().into()))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            Failure::invalid(
                "state must be a comma-separated list of \
                 waiting, running, succeeded, failed, cancelled, unknown",
            )
        })
}

/// Read one job. An ended job has an answer.
#[utoipa::path(
    get, operation_id = "get_job", path = "/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The id of the job"), JobQuery),
    responses(
        (status = 200, description = "The job", body = Success<OneJob>),
        (status = 404, description = "The user has no job with this id", body = ErrorBody),
    )
)]
pub(super) async fn get(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    PathText(id): PathText,
    QueryParams(query): QueryParams<JobQuery>,
) -> Result<Response, ApiError> {
    let user = caller.reads_for(query.username)?;
    let id = resolve_job_id(&state, &id)?;
    let mut job = find_job(&state, &caller, id, &user)?;
    if let Some(wait) = &query.wait {
        // The limit only ends the wait; the answer then shows the job as it is.
        let _ = timeout(parse_wait(wait)?, wait_for_end(&state, id)).await;
        state.check_still_valid(&caller)?;
        job = find_job(&state, &caller, id, &user)?;
    }
    let answer = match job.ended() {
        Some(_) => Some(visible_answer(&caller, load_answer(&state, &job).await?)?),
        None => None,
    };
    success(OneJob {
        job: JobView::new(&job, answer),
    })
}

fn parse_wait(text: &str) -> Result<Duration, Failure> {
    humantime::parse_duration(text)
        .ok()
        .filter(|wait| *wait <= MAX_WAIT)
        .ok_or_else(|| Failure::invalid("wait must be a duration such as 30s, at most 5m"))
}

/// Cancel a job. A waiting job never runs. A running job gets a request to stop.
#[utoipa::path(
    delete, operation_id = "cancel_job", path = "/jobs/{id}", tag = "jobs",
    params(("id" = String, Path, description = "The id of the job"), JobQuery),
    responses(
        (status = 200, description = "`state` says whether the job is cancelled or still stops",
            body = Success<OneJob>),
        (status = 404, description = "The user has no job with this id", body = ErrorBody),
        (status = 409, description = "The job has ended already", body = ErrorBody),
    )
)]
pub(super) async fn cancel(
    State(state): State<Arc<ApiState>>,
    ToolsCaller(caller): ToolsCaller,
    PathText(id): PathText,
    QueryParams(query): QueryParams<JobQuery>,
) -> Result<Response, ApiError> {
    let id = resolve_job_id(&state, &id)?;
    let user = caller.reads_for(query.username)?;
    find_job(&state, &caller, id, &user)?;
    let actor = Actor::from(&*caller);
    let job = state.job_client().cancel(id, user, actor).await?;
    if job.needs_notification() {
        // Only a worker can open the reply address of the producer. A failure here delays the
        // notification until a worker looks for missing notifications.
        tokio::spawn(async move {
            let command = NotifyProducer { job: id };
            state.send_command(&command, NOTIFY_LIMIT).await
        });
    }
    success(OneJob {
        job: JobView::new(&job, None),
    })
}

/// Returns the id of the job that a path names by the id of the job or by the id that a producer chose. The id of a
/// job comes first, so that a producer's choice hides no job.
fn resolve_job_id(state: &ApiState, text: &str) -> Result<JobId, Failure> {
    let parsed: Option<JobId> = text.parse().ok();
    let catalog = state.catalog();
    if let Some(id) = parsed.filter(|id| catalog.jobs.get(*id).is_some()) {
        return Ok(id);
    }
    let key = state.job_client().producer_key(text)?;
    let chosen = catalog.jobs.find_by_key(key).map(|job| job.id);
    chosen
        .or(parsed)
        .ok_or_else(|| Failure::job_not_found("of that id"))
}

fn find_job(
    state: &ApiState,
    caller: &Caller,
    id: JobId,
    user: &UserName,
) -> Result<Arc<Job>, Failure> {
    let catalog = state.catalog();
    catalog
        .jobs
        .get(id)
        .filter(|job| job.target.user == *user && is_visible(caller, &catalog, job))
        .cloned()
        // The id can come from the name that a producer gave to the job of another user, so no answer shows it.
        .ok_or_else(|| Failure::job_not_found("of that id"))
}

/// Returns whether a caller may see a job: a caller for some servers sees the jobs of these servers.
fn is_visible(caller: &Caller, catalog: &Catalog, job: &Job) -> bool {
    if caller.servers.is_all() {
        return true;
    }
    let server = job.target.server.as_ref();
    server
        .and_then(|name| catalog.server(name.as_str()))
        .is_some_and(|server| may(caller, Action::UseTools, Some(server.id)).is_ok())
}
