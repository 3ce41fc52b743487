//! One job from its arguments to its end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cleanup::JobCleanup;
use super::progress::ProgressReporter;
use super::tool_call;
use crate::core::command::{Command, InstallPackage, RotateKeys, SweepVault, UpgradePackage};
use crate::core::decide::job::JobEnd;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, ValueId};
use crate::core::model::job;
use crate::core::model::job::{Job, JobArguments, JobState};
use crate::core::model::tool_call::CallTool;
use crate::crypto::context::{JobValueContext, JobValueKind};
use crate::ports::vault::{Sealed, VaultValue};
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;
use crate::workers::context::Context;
use crate::workers::install::ProgressSink as Shown;
use crate::workers::{encode, keys, packages, secrets};

/// The pause after the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// The largest answer that is kept: a document of MongoDB has 16 MiB, and JSON may grow a little.
const LARGEST: usize = 14 << 20;

/// A job in this worker's hands.
pub struct JobExecution {
    pub job: Arc<Job>,
    pub attempt: u32,
    pub progress: Arc<ProgressReporter>,
    /// Cancelled when it is to stop, because somebody wants it to or because it is in other hands.
    pub stop: CancellationToken,
    /// Cancelled when what was not begun is to be left to others.
    pub draining: CancellationToken,
}

/// Why a job has no success to show.
pub enum JobFailure {
    /// Nothing was begun: whoever has room takes it.
    NotBegun,
    Failed(Failure),
}

impl From<Failure> for JobFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a job has brought.
pub struct JobOutput {
    /// The body of a successful answer over HTTP.
    pub body: Bytes,
    /// The same as a producer on the bus is told it.
    pub raw: Bytes,
}

impl From<Bytes> for JobOutput {
    fn from(body: Bytes) -> Self {
        Self {
            raw: body.clone(),
            body,
        }
    }
}

pub(super) async fn execute_job(context: &Arc<Context>, tidy: &JobCleanup, running: &JobExecution) {
    let work = open_arguments(context, &running.job).await;
    let reply = work.as_ref().ok().and_then(|work| work.reply.clone());
    let worked = async { dispatch_job(context, running, work?).await };
    let worked = AssertUnwindSafe(worked).catch_unwind().await;
    let worked =
        worked.unwrap_or_else(|_| Err(internal_error("a job panicked and is given up").into()));
    let (job, attempt, worker) = (running.job.id, running.attempt, context.manager.worker);
    let (state, outcome, told) = match worked {
        Ok(JobOutput { body, raw }) => {
            let outcome = JobAnswer::done(body)
                .unwrap_or_else(|error| JobAnswer::failed(&internal_error(error)));
            (JobState::Succeeded, outcome, Ok(raw))
        }
        Err(JobFailure::NotBegun) => {
            let decide = move |catalog: &_| {
                Ok(crate::core::decide::job::requeue(
                    catalog, job, worker, attempt,
                ))
            };
            // Should the log not take it, it is taken over with all else that this worker leaves behind.
            let _ = context
                .appender
                .commit(CommandId(Uuid::now_v7()), Actor::Worker, decide)
                .await;
            return;
        }
        Err(JobFailure::Failed(failure)) => {
            let (state, failure) = match failure.code {
                _ if running.stop.is_cancelled() => (JobState::Cancelled, job::job_cancelled()),
                Code::OutcomeUnknown => (JobState::Unknown, failure),
                _ => (JobState::Failed, failure),
            };
            (state, JobAnswer::failed(&failure), Err(encode(&failure)))
        }
    };
    if end_job(context, tidy, running, state, outcome).await
        && let Some(reply) = reply
    {
        context.bus.publish_outcome(&reply, told).await;
    }
}

/// What a job works on.
async fn open_arguments(context: &Context, job: &Job) -> Result<JobArguments, Failure> {
    let Job { id, arguments, .. } = job;
    let sealed = loop {
        match context.vault.get(&[*arguments]).await {
            Ok(found) => break found.into_iter().next().flatten(),
            Err(error) if !context.manager.own.is_held() => return Err(internal_error(error)),
            Err(error) => tracing::warn!(job = %id, %error, "a job waits for the store"),
        }
        tokio::time::sleep(PAUSE).await;
    };
    let sealed =
        sealed.ok_or_else(|| internal_error(format!("the arguments of job {id} are gone")))?;
    opened(context, job, &sealed)
}

/// The same of what was found in the Vault.
pub(super) fn opened(
    context: &Context,
    job: &Job,
    sealed: &Sealed,
) -> Result<JobArguments, Failure> {
    let place = JobValueContext {
        job: job.id,
        part: JobValueKind::Arguments,
        value: job.arguments,
    };
    let opened = context.opener.open(place, sealed).map_err(internal_error)?;
    serde_json::from_str(opened.expose().map_err(internal_error)?).map_err(internal_error)
}

async fn dispatch_job(
    context: &Arc<Context>,
    running: &JobExecution,
    work: JobArguments,
) -> Result<JobOutput, JobFailure> {
    match running.job.command.as_ref() {
        CallTool::NAME => tool_call::call_tool(context, running, work).await,
        InstallPackage::NAME => {
            let command = decoded(&work)?;
            run_cancellable(running, |progress| {
                packages::install(context.clone(), progress, command)
            })
            .await
        }
        UpgradePackage::NAME => {
            let command = decoded(&work)?;
            run_cancellable(running, |progress| {
                packages::upgrade(context.clone(), progress, command)
            })
            .await
        }
        RotateKeys::NAME => {
            let command = decoded(&work)?;
            if keys::must_requeue(context, &command).await {
                return Err(JobFailure::NotBegun);
            }
            run_cancellable(running, |progress| {
                keys::rotate_keys(context.clone(), progress, command)
            })
            .await
        }
        SweepVault::NAME => {
            running.progress.phase("sweeping");
            secrets::sweep(context).await?;
            Ok(Bytes::from_static(br#"{"success":true}"#).into())
        }
        unknown => {
            Err(Failure::invalid(format!("This worker does not know the command {unknown}")).into())
        }
    }
}

/// Carries a job out, unless somebody cancels it or this worker is to leave: it can be stopped anywhere, and done twice.
async fn run_cancellable<F: Future<Output = Result<Bytes, Failure>> + Send + 'static>(
    running: &JobExecution,
    work: impl FnOnce(Arc<dyn Shown>) -> F,
) -> Result<JobOutput, JobFailure> {
    let work = work(running.progress.clone()).boxed();
    tokio::select! {
        done = work => Ok(done?.into()),
        () = running.stop.cancelled() => Err(job::job_cancelled().into()),
        () = running.draining.cancelled() => Err(JobFailure::NotBegun),
    }
}

fn decoded<C: Command>(work: &JobArguments) -> Result<C, Failure> {
    let wrong = |error| Failure::invalid(format!("The job is no {} command: {error}", C::NAME));
    serde_json::from_str(work.body.get()).map_err(wrong)
}

/// Puts the answer and ends the job: what the log names is there. False: it is not ours to end any more.
async fn end_job(
    context: &Context,
    tidy: &JobCleanup,
    running: &JobExecution,
    state: JobState,
    outcome: JobAnswer,
) -> bool {
    let (job, attempt, worker) = (running.job.id, running.attempt, context.manager.worker);
    let outcome = if outcome.body.get().len() > LARGEST {
        too_large()
    } else {
        outcome
    };
    let value = ValueId(Uuid::now_v7());
    let place = JobValueContext {
        job,
        part: JobValueKind::Answer,
        value,
    };
    let sealed = serde_json::to_string(&outcome)
        .map(Zeroizing::new)
        .map_err(internal_error);
    let sealed = match sealed.and_then(|text| {
        context
            .manager
            .sealed_store
            .sealer
            .seal(place, &text)
            .map_err(internal_error)
    }) {
        Ok(sealed) => sealed,
        Err(_) => return false,
    };
    let id = CommandId(Uuid::now_v7());
    // While it holds the lease nobody else ends it; after that it is somebody else's.
    while context.manager.own.is_held() {
        let end = JobEnd {
            state,
            answer: Some(value),
            until: context.job_client.answer_expiry(),
        };
        let decide = move |catalog: &_| {
            crate::core::decide::job::finish_job(catalog, job, worker, attempt, end)
        };
        let values = vec![VaultValue {
            id: value,
            sealed: sealed.clone(),
        }];
        match context
            .appender
            .commit_with_values(id, Actor::Worker, values, decide)
            .await
        {
            Ok(_) => {
                tidy.drop_value(running.job.arguments);
                return true;
            }
            Err(failure) if failure.code == Code::Unavailable => {
                tracing::warn!(%job, %failure, "a job cannot be ended yet");
                tokio::time::sleep(PAUSE).await;
            }
            Err(failure) => {
                tracing::warn!(%job, %failure, "what came of a job is not wanted any more");
                tidy.drop_value(value);
                return false;
            }
        }
    }
    false
}

fn too_large() -> JobAnswer {
    let large = format!(
        "The answer is larger than a job can keep ({LARGEST} bytes); make the call without waiting later"
    );
    JobAnswer::failed(&Failure::new(Code::ResultTooLarge, large).maybe_run())
}
