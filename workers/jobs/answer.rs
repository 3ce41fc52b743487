//! What a job has to say, opened for the facade that asks.

use std::sync::Arc;

use crate::core::command::ReadJobAnswer;
use crate::core::failure::Failure;
use crate::core::ids::JobId;
use crate::core::model::job;
use crate::crypto::context::{JobValueContext, JobValueKind};
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;
use crate::workers::context::Context;

pub async fn read_answer(
    context: Arc<Context>,
    ReadJobAnswer { job }: ReadJobAnswer,
) -> Result<JobAnswer, Failure> {
    load_answer(&context, job).await
}

/// The answer of a job that has ended.
pub async fn load_answer(context: &Context, id: JobId) -> Result<JobAnswer, Failure> {
    let gone = || Failure::job_not_found(id);
    let ended = {
        let catalog = context.projection.catalog();
        catalog
            .jobs
            .get(id)
            .and_then(|job| job.ended().cloned())
            .ok_or_else(gone)?
    };
    let Some(value) = ended.answer else {
        return Ok(job::without_answer(ended.state));
    };
    let found = context.vault.get(&[value]).await.map_err(|error| {
        tracing::warn!(%error, "the Vault failed");
        Failure::unavailable("The store cannot be reached")
    })?;
    let sealed = found.into_iter().next().flatten().ok_or_else(gone)?;
    let opened = context
        .opener
        .open(
            JobValueContext {
                job: id,
                part: JobValueKind::Answer,
                value,
            },
            &sealed,
        )
        .map_err(internal_error)?;
    serde_json::from_str(opened.expose().map_err(internal_error)?).map_err(internal_error)
}
