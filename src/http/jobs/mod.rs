//! `/jobs`: work that is answered later.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use super::google::browser_flow::add_fresh_login_url;
use super::respond::json::{ApiError, Success, job_answer_response, json, success};
use super::state::ApiState;
use crate::core::command::{Area, NotifyProducer, ReadJobAnswer};
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::job::{Job, JobProgress, JobStage, JobState};
use crate::core::names::{ServerName, ToolName, UserName};
use crate::jobs::client::NewJob;
use crate::ports::bus::Target;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;
use crate::views::job_answer::JobAnswer;

/// The longest that may be waited for a job in one request.
const WAIT: Duration = Duration::from_secs(300);
/// How long a worker may take to open an answer.
const OPENS: Duration = Duration::from_secs(10);
/// Jobs in one answer, at most and where nothing is said.
const LIMIT: usize = 1000;
const DEFAULT_LIMIT: usize = 100;

/// A job.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    #[schema(value_type = String)]
    id: JobId,
    state: JobState,
    #[schema(value_type = String)]
    username: UserName,
    /// What it does, such as `tools.call`.
    command: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    server_name: Option<ServerName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    method_name: Option<ToolName>,
    /// When it was accepted: milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// How often a worker has taken it.
    attempts: u32,
    /// Somebody wants it to stop.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancelling: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<JobProgress>,
    /// What the request would have been answered without waiting later; only of one job, and only once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerView>,
    /// How long the answer is kept: milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// The answer of a job.
#[derive(Serialize, ToSchema)]
pub struct AnswerView {
    /// The status of HTTP.
    status: u16,
    #[schema(value_type = Object)]
    body: Box<serde_json::value::RawValue>,
}

impl JobView {
    fn new(job: &Job, answer: Option<JobAnswer>) -> Self {
        let (progress, cancelling) = match &job.stage {
            JobStage::Running(run) => (run.progress.clone(), run.cancelled),
            _ => (None, false),
        };
        Self {
            id: job.id,
            state: job.state(),
            username: job.user.clone(),
            command: job.command.clone().into_owned(),
            server_name: job.server.clone(),
            method_name: job.tool.clone(),
            at: job.id.made_at(),
            attempts: job.attempts(),
            cancelling,
            progress,
            answer: answer.map(|JobAnswer { status, body, .. }| AnswerView { status, body }),
            expires: job.ended().map(|ended| ended.until),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub struct OneJob {
    job: JobView,
}

#[derive(Serialize, ToSchema)]
pub struct SomeJobs {
    jobs: Vec<JobView>,
    /// The `before` of the next page, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next: Option<JobId>,
}

/// Answered instead of the work's own answer, which comes later.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    #[schema(default = true)]
    success: bool,
    #[schema(value_type = String)]
    job_id: JobId,
}

/// Whose job, and how long to wait for it.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct JobQuery {
    /// Whose job it is; `default` where absent.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    username: UserName,
    /// How long to wait for its end, such as `30s`; five minutes at most.
    wait: Option<String>,
}

/// Which jobs.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListJobsQuery {
    /// Whose jobs; `default` where absent.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    username: UserName,
    /// Only those in these states, comma-separated: waiting, running, succeeded, failed, cancelled, unknown.
    state: Option<String>,
    /// Jobs in the answer: 1 to 1000, 100 where absent.
    limit: Option<usize>,
    /// Only those accepted before this one: the `next` of an earlier answer.
    before: Option<String>,
}

/// A user's jobs, the newest first.
#[utoipa::path(get, operation_id = "list_jobs", path = "/jobs", tag = "jobs", params(ListJobsQuery),
    responses((status = 200, description = "Done", body = Success<SomeJobs>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody)))]
pub async fn list(
    State(facade): State<Arc<ApiState>>,
    page: Result<Query<ListJobsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(ListJobsQuery {
        username,
        state,
        limit,
        before,
    }) = page.map_err(|error| Failure::invalid(error.body_text()))?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=LIMIT).contains(&limit) {
        return Err(Failure::invalid(format!("limit must be 1 to {LIMIT}")).into());
    }
    let states = state.as_deref().map(states).transpose()?;
    let before = before.as_deref().map(str::parse::<JobId>).transpose();
    let before = before.map_err(|why| Failure::invalid(format!("before {why}")))?;
    let catalog = facade.projection.catalog();
    let all: Box<dyn Iterator<Item = &Arc<Job>>> = match before {
        Some(id) => Box::new(catalog.jobs.before(id)),
        None => Box::new(catalog.jobs.newest_first()),
    };
    let wanted = |job: &&Arc<Job>| {
        job.user == username
            && states
                .as_ref()
                .is_none_or(|states| states.contains(&job.state()))
    };
    let mut found = all.filter(wanted);
    let jobs: Vec<_> = found
        .by_ref()
        .take(limit)
        .map(|job| JobView::new(job, None))
        .collect();
    let next = found.next().and(jobs.last()).map(|job| job.id);
    success(SomeJobs { jobs, next })
}

fn states(text: &str) -> Result<Vec<JobState>, Failure> {
    let states = text
        .split(',')
        .map(|word| serde_json::from_value(word.trim().into()));
    states.collect::<Result<_, _>>().map_err(|_| {
        Failure::invalid(
            "state must be some of waiting, running, succeeded, failed, cancelled, unknown, comma-separated",
        )
    })
}

/// One job, with its answer once it has ended.
#[utoipa::path(get, operation_id = "get_job", path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path), JobQuery),
    responses((status = 200, description = "Done", body = Success<OneJob>), (status = 404, description = "The user has no such job", body = ErrorBody)))]
pub async fn get(
    State(facade): State<Arc<ApiState>>,
    Path(id): Path<String>,
    of: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (id, JobQuery { username, wait }) = one(&facade, &id, of)?;
    let mut job = of_user(&facade, id, &username)?;
    if let Some(wait) = wait {
        let wait = humantime::parse_duration(&wait)
            .ok()
            .filter(|wait| *wait <= WAIT);
        let wait = wait.ok_or_else(|| {
            Failure::invalid("wait must be a length of time such as 30s, 5m at most")
        })?;
        let _ = timeout(wait, wait_for_end(&facade, id)).await;
        job = of_user(&facade, id, &username)?;
    }
    let answer = if job.ended().is_some() {
        Some(answer(&facade, &job).await?)
    } else {
        None
    };
    success(OneJob {
        job: JobView::new(&job, answer),
    })
}

/// Cancel a job: one that waits never runs, one that runs is told to stop.
#[utoipa::path(delete, operation_id = "cancel_job", path = "/jobs/{id}", tag = "jobs", params(("id" = String, Path), JobQuery),
    responses((status = 200, description = "It is cancelled, or has been told to stop; `state` says which", body = Success<OneJob>), (status = 404, description = "The user has no such job", body = ErrorBody), (status = 409, description = "The job has ended already", body = ErrorBody)))]
pub async fn cancel(
    State(facade): State<Arc<ApiState>>,
    Path(id): Path<String>,
    of: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let (id, JobQuery { username, .. }) = one(&facade, &id, of)?;
    let job = facade.job_client.cancel(id, username).await?;
    if job.needs_notification() {
        // Only a worker can open who wants to be told. Should this fail, one looks for it later.
        tokio::spawn(async move {
            facade
                .send_command(&NotifyProducer { job: id }, OPENS)
                .await
        });
    }
    success(OneJob {
        job: JobView::new(&job, None),
    })
}

fn one(
    facade: &ApiState,
    id: &str,
    of: Result<Query<JobQuery>, QueryRejection>,
) -> Result<(JobId, JobQuery), Failure> {
    let Query(of) = of.map_err(|error| Failure::invalid(error.body_text()))?;
    let id = find_job_id(facade, id)?;
    Ok((id, of))
}

/// Returns the id of the job that a client names by the id of the job or by the id that a producer chose.
/// The id of a job comes first, so a producer's choice hides no job.
fn find_job_id(facade: &ApiState, id: &str) -> Result<JobId, Failure> {
    let parsed: Option<JobId> = id.parse().ok();
    let catalog = facade.projection.catalog();
    if let Some(job) = parsed.filter(|job| catalog.jobs.get(*job).is_some()) {
        return Ok(job);
    }
    let scope = facade.job_client.producer_key(id)?;
    let chosen = catalog.jobs.find_by_key(scope).map(|job| job.id);
    chosen
        .or(parsed)
        .ok_or_else(|| Failure::job_not_found("of that id"))
}

fn of_user(facade: &ApiState, id: JobId, user: &UserName) -> Result<Arc<Job>, Failure> {
    let job = facade
        .projection
        .catalog()
        .jobs
        .get(id)
        .filter(|job| job.user == *user)
        .cloned();
    job.ok_or_else(|| Failure::job_not_found(id))
}

/// Waits for the end of a job, or of this process.
async fn wait_for_end(facade: &ApiState, id: JobId) -> Option<Arc<Job>> {
    let mut watch = facade.projection.watch_job(id);
    loop {
        let job = facade.projection.catalog().jobs.get(id).cloned()?;
        if job.ended().is_some() {
            return Some(job);
        }
        tokio::select! {
            () = watch.changed() => {}
            () = facade.ending.cancelled() => return None,
        }
    }
}

/// What a job that has ended has to say; a worker opens it.
async fn answer(facade: &ApiState, job: &Job) -> Result<JobAnswer, Failure> {
    match job.ended() {
        Some(ended) if ended.answer.is_none() => Ok(JobAnswer::missing(ended.state)),
        _ => {
            let answer = facade
                .commands
                .send_to(
                    Target::AnyWorker(Area::Jobs),
                    &ReadJobAnswer { job: job.id },
                    OPENS,
                )
                .await?;
            let answer = JobAnswer::parse(&answer).map_err(internal_error)?;
            add_fresh_login_url(facade, job, answer)
        }
    }
}

/// Whether the caller wants to be answered later (RFC 7240, section 4.1).
pub fn prefers_async(headers: &HeaderMap) -> bool {
    let preferences = headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut words = preferences.flat_map(|value| value.split([',', ';']));
    words.any(|word| word.trim().eq_ignore_ascii_case("respond-async"))
}

/// Accepts a job and says where its answer will be.
pub async fn submit_and_accept(facade: &ApiState, new: NewJob) -> Result<Response, ApiError> {
    let id = facade.job_client.submit(new).await?.id;
    let body = serde_json::to_vec(&Accepted {
        success: true,
        job_id: id,
    })
    .map_err(internal_error)?;
    let mut response = respond_as_preferred(json(StatusCode::ACCEPTED, body));
    response.headers_mut().insert(
        LOCATION,
        HeaderValue::try_from(location(id)).map_err(internal_error)?,
    );
    Ok(response)
}

/// Where a job's answer will be.
pub fn location(id: JobId) -> String {
    format!("/jobs/{id}")
}

/// Says that the caller is answered later as it wanted.
pub fn respond_as_preferred(mut response: Response) -> Response {
    response.headers_mut().insert(
        "preference-applied",
        HeaderValue::from_static("respond-async"),
    );
    response
}

/// Accepts a job and waits for its end: the answer is the job's own, whoever hangs up meanwhile.
pub async fn submit_and_wait(facade: &ApiState, new: NewJob) -> Result<Response, ApiError> {
    let id = facade.job_client.submit(new).await?.id;
    Ok(job_answer_response(wait_for_answer(facade, id).await?))
}

/// Waits for the end of a job and gives what it has brought.
pub async fn wait_for_answer(facade: &ApiState, id: JobId) -> Result<JobAnswer, Failure> {
    let Some(job) = wait_for_end(facade, id).await else {
        let leaving = format!(
            "This process is stopping; GET /jobs/{id} on another one tells what becomes of it"
        );
        return Err(Failure::unavailable(leaving).maybe_run());
    };
    answer(facade, &job).await
}
