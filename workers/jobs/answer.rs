//! Opens the sealed answers of ended jobs for facades and producers.

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

/// Returns the answer of an ended job, as the Vault holds it.
pub async fn read_answer(
    context: Arc<Context>,
    ReadJobAnswer { job }: ReadJobAnswer,
) -> Result<StoredJobAnswer, Failure> {
    open_answer(&context, job).await
}

/// Returns the answer of an ended job.
pub async fn load_answer(context: &Context, id: JobId) -> Result<JobAnswer, Failure> {
    let stored = open_answer(context, id).await?;
    JobAnswer::parse(&stored).map_err(internal_error)
}

async fn open_answer(context: &Context, id: JobId) -> Result<StoredJobAnswer, Failure> {
    let not_found = || Failure::job_not_found(id);
    let ended = {
        let catalog = context.projection.catalog();
        catalog
            .jobs
            .get(id)
            .and_then(|job| job.ended().cloned())
            .ok_or_else(not_found)?
    };
    let Some(value) = ended.answer else {
        return to_raw_value(&JobAnswer::missing(ended.state)).map_err(internal_error);
    };
    let found = context.vault.get(&[value]).await.map_err(|error| {
        tracing::warn!(%error, "cannot read a job answer from the Vault");
        Failure::unavailable("The store cannot be reached")
    })?;
    let sealed = found.into_iter().next().flatten().ok_or_else(not_found)?;
    let seal_context = JobValueContext {
        job: id,
        part: JobValueKind::Answer,
        value,
    };
    let opened = context
        .opener
        .open(seal_context, &sealed)
        .map_err(internal_error)?;
    serde_json::from_str(opened.expose().map_err(internal_error)?).map_err(internal_error)
}
