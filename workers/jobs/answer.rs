//! Loads the answer of a job for the facade that asks for it.

use std::sync::Arc;

use serde_json::value::to_raw_value;

use crate::core::command::ReadJobAnswer;
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::job::StoredJobAnswer;
use crate::crypto::context::{JobValueContext, JobValueKind};
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;
use crate::workers::context::Context;
use crate::workers::sealed_store::store_unavailable;

/// Executes the command that reads an answer.
///
/// # Errors
/// Fails like [`load_answer`].
pub(crate) async fn read_answer(
    context: Arc<Context>,
    command: ReadJobAnswer,
) -> Result<StoredJobAnswer, Failure> {
    open_answer(&context, command.job).await
}

/// Returns the answer of a job that has ended.
///
/// # Errors
/// Fails with `job_not_found` if the job has not ended or its answer has expired, and with
/// `unavailable` if the store does not respond.
pub(crate) async fn load_answer(context: &Context, id: JobId) -> Result<JobAnswer, Failure> {
    let stored = open_answer(context, id).await?;
    JobAnswer::parse(&stored).map_err(internal_error)
}

async fn open_answer(context: &Context, id: JobId) -> Result<StoredJobAnswer, Failure> {
    let not_found = || Failure::job_not_found(id);
    let ended = {
        let catalog = context.projection.catalog();
        let job = catalog.jobs.get(id);
        job.and_then(|job| job.ended().cloned())
            .ok_or_else(not_found)?
    };
    let Some(value) = ended.answer else {
        return to_raw_value(&JobAnswer::missing(ended.state)).map_err(internal_error);
    };
    let sealed = match context.fresh_answers.get(value) {
        Some(sealed) => sealed,
        None => {
            let found = context.manager.sealed_store.find(value).await;
            found.map_err(store_unavailable)?.ok_or_else(not_found)?
        }
    };
    let answer_context = JobValueContext {
        job: id,
        part: JobValueKind::Answer,
        value,
    };
    let opened = context
        .opener
        .open(answer_context, &sealed)
        .map_err(internal_error)?;
    serde_json::from_str(opened.expose().map_err(internal_error)?).map_err(internal_error)
}
