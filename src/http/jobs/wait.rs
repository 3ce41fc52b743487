//! Waiting for the end of a job, and loading its answer.

use std::sync::Arc;
use std::time::Duration;

use crate::core::command::{Area, ReadJobAnswer};
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::job::Job;
use crate::http::connections::link::add_connect_url_to_answer;
use crate::http::google::link::add_fresh_login_url;
use crate::http::state::ApiState;
use crate::ports::bus::Target;
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;

/// The longest time for a worker to open an answer.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Waits for the end of a job and returns its answer.
///
/// # Errors
/// `unavailable` if this process stops first.
pub(crate) async fn wait_for_answer(state: &ApiState, id: JobId) -> Result<JobAnswer, Failure> {
    let Some(job) = wait_for_end(state, id).await else {
        let sentence =
            format!("This process is stopping; GET /jobs/{id} on another process shows the job");
        return Err(Failure::unavailable(sentence).maybe_run());
    };
    load_answer(state, &job).await
}

/// Waits for the end of a job. Returns `None` if the job expires or this process stops.
pub(super) async fn wait_for_end(state: &ApiState, id: JobId) -> Option<Arc<Job>> {
    let mut watch = state.projection().watch_job(id);
    loop {
        let job = state.catalog().jobs.get(id).cloned()?;
        if job.ended().is_some() {
            return Some(job);
        }
        tokio::select! {
            () = watch.changed() => {}
            () = state.shutdown().cancelled() => return None,
        }
    }
}

/// Returns the answer of an ended job. A worker opens it.
pub(super) async fn load_answer(state: &ApiState, job: &Job) -> Result<JobAnswer, Failure> {
    if let Some(ended) = job.ended()
        && ended.answer.is_none()
    {
        return Ok(JobAnswer::missing(ended.state));
    }
    let target = Target::AnyWorker(Area::Jobs);
    let command = ReadJobAnswer { job: job.id };
    let answer = state.send_once(target, &command, OPEN_LIMIT).await?;
    let answer = JobAnswer::parse(&answer).map_err(internal_error)?;
    let answer = add_fresh_login_url(state, job, answer)?;
    add_connect_url_to_answer(state, job, answer)
}
