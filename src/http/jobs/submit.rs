//! Requests whose work is a job: the client waits for the answer, or reads it later.

use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::view::JobAccepted;
pub(crate) use super::wait::wait_for_answer;
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::caller::Caller;
use crate::http::extract::headers::PreferAsync;
use crate::http::respond::json::{ApiError, job_answer_response, json};
use crate::http::state::ApiState;
use crate::jobs::client::NewJob;
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;

/// Submits a job and answers as the client prefers: with the job's answer, or at once.
pub(crate) async fn submit(
    state: &ApiState,
    caller: &Caller,
    PreferAsync(prefers_async): PreferAsync,
    job: NewJob,
) -> Result<Response, ApiError> {
    if prefers_async {
        submit_and_accept(state, job).await
    } else {
        submit_and_wait(state, caller, job).await
    }
}

/// Submits a job and answers 202 with the location of its answer.
async fn submit_and_accept(state: &ApiState, job: NewJob) -> Result<Response, ApiError> {
    let job_id = state.job_client().submit(job).await?.id;
    let accepted = JobAccepted {
        success: true,
        job_id,
    };
    let body = serde_json::to_vec(&accepted).map_err(internal_error)?;
    let mut response = with_preference_applied(json(StatusCode::ACCEPTED, body));
    let location = HeaderValue::try_from(job_location(job_id)).map_err(internal_error)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Submits a job and answers with its answer. The job continues if the client disconnects.
async fn submit_and_wait(
    state: &ApiState,
    caller: &Caller,
    job: NewJob,
) -> Result<Response, ApiError> {
    let id = state.job_client().submit(job).await?.id;
    let answer = wait_for_answer(state, id).await?;
    Ok(job_answer_response(visible_answer(caller, answer)?))
}

/// Returns the answer of a job as a caller may see it, as `visible_failure` does for the synchronous request.
///
/// # Errors
/// `internal` if the answer is no JSON object.
pub(crate) fn visible_answer(caller: &Caller, answer: JobAnswer) -> Result<JobAnswer, Failure> {
    if caller.is_admin() {
        return Ok(answer);
    }
    answer.without_details_for_admins().map_err(internal_error)
}

/// Returns the path of a job.
pub(crate) fn job_location(id: JobId) -> String {
    format!("/jobs/{id}")
}

/// Adds the header that confirms an asynchronous answer (RFC 7240, section 3).
pub(crate) fn with_preference_applied(mut response: Response) -> Response {
    response.headers_mut().insert(
        "preference-applied",
        HeaderValue::from_static("respond-async"),
    );
    response
}
