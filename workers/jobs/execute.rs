//! Executes one job, from its arguments to its end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::cleanup::JobCleanup;
use super::progress::ProgressReporter;
use super::tool_call;
use crate::core::command::{
    Command, CompactLog, InstallPackage, RotateKeys, SweepVault, UpgradePackage,
};
use crate::core::decide::job as decide;
use crate::core::decide::job::JobEnd;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, ValueId};
use crate::core::model::job;
use crate::core::model::job::{Job, JobArguments, JobState};
use crate::core::model::tool_call::CallTool;
use crate::crypto::context::{JobValueContext, JobValueKind};
use crate::ports::vault::{Sealed, VaultValue};
use crate::telemetry::error::{error_chain, internal_error};
use crate::time::retry::INTERRUPTED_JOB;
use crate::views::job_answer::JobAnswer;
use crate::workers::context::Context;
use crate::workers::handler::encode;
use crate::workers::install::ProgressSink;
use crate::workers::{keys, log, packages, secrets};

/// The largest answer in bytes. A document of MongoDB has at most 16 MiB, and the JSON may grow a little.
const MAX_ANSWER: usize = 14 << 20;

/// A job that this worker executes.
pub(crate) struct JobExecution {
    pub job: Arc<Job>,
    pub attempt: u32,
    pub progress: Arc<ProgressReporter>,
    /// Cancelled when the job must stop, because a user has cancelled it or another worker has it.
    pub stop: CancellationToken,
    /// Cancelled when the worker drains. A job that has not started is left to other workers.
    pub draining: CancellationToken,
}

/// The reason why a job has no output.
pub(crate) enum JobFailure {
    /// Nothing has started, so another worker may execute the job.
    NotStarted,
    Failed(Failure),
}

impl From<Failure> for JobFailure {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The output of a successful job.
pub(crate) struct JobOutput {
    /// The body of the HTTP response.
    pub body: Bytes,
    /// The outcome for a producer on the bus.
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

/// The end of a job, as the log and the producer get it.
struct Ending {
    state: JobState,
    answer: JobAnswer,
    outcome: Result<Bytes, Bytes>,
}

impl Ending {
    fn from_output(output: JobOutput) -> Self {
        Self {
            state: JobState::Succeeded,
            answer: JobAnswer::done(output.body)
                .unwrap_or_else(|error| JobAnswer::failed(&internal_error(error))),
            outcome: Ok(output.raw),
        }
    }

    fn from_failure(failure: Failure, is_cancelled: bool) -> Self {
        let (state, failure) = if is_cancelled {
            (JobState::Cancelled, job::job_cancelled())
        } else if failure.code == Code::OutcomeUnknown {
            (JobState::Unknown, failure)
        } else {
            (JobState::Failed, failure)
        };
        Self {
            state,
            answer: JobAnswer::failed(&failure),
            outcome: Err(encode(&failure)),
        }
    }
}

/// Executes a job, stores its answer and notifies its producer. A job that has not started is requeued. `sealed` are the
/// arguments, if they were read already.
pub(super) async fn execute_job(
    context: &Arc<Context>,
    cleanup: &JobCleanup,
    execution: &JobExecution,
    sealed: Option<Sealed>,
) {
    let arguments = match &sealed {
        Some(sealed) => parse_arguments(context, &execution.job, sealed),
        None => load_arguments(context, &execution.job).await,
    };
    drop(sealed);
    let reply = arguments
        .as_ref()
        .ok()
        .and_then(|arguments| arguments.reply.clone());
    let work = async { dispatch_job(context, execution, arguments?).await };
    let result = AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(internal_error("a job panicked").into()));
    let ending = match result {
        Ok(output) => Ending::from_output(output),
        Err(JobFailure::Failed(failure)) => {
            Ending::from_failure(failure, execution.stop.is_cancelled())
        }
        Err(JobFailure::NotStarted) => return requeue_job(context, execution).await,
    };
    let has_ended = end_job(context, cleanup, execution, ending.state, ending.answer).await;
    if let Some(reply) = reply
        && has_ended
    {
        context.bus.publish_outcome(&reply, ending.outcome).await;
    }
}

/// Gives a job back. If the log is unavailable, another worker takes the job over later.
async fn requeue_job(context: &Context, execution: &JobExecution) {
    let job = execution.job.id;
    let attempt = execution.attempt;
    let worker = context.manager.worker;
    let until = context.job_client.answer_expiry();
    let decide = move |catalog: &_| Ok(decide::requeue(catalog, job, worker, attempt, until));
    let _ = context
        .appender
        .commit(CommandId(Uuid::now_v7()), Actor::worker(), decide)
        .await;
}

/// Loads the arguments of a job. Waits for the store while this worker holds its lease.
async fn load_arguments(context: &Context, job: &Job) -> Result<JobArguments, Failure> {
    let mut pauses = INTERRUPTED_JOB.pauses();
    let found = loop {
        match context.vault.get(&[job.arguments]).await {
            Ok(found) => break found,
            Err(error) if context.manager.own.is_held() => {
                tracing::warn!(job = %job.id, error = error_chain(&error), "cannot load the arguments of a job; retrying");
                pauses.wait().await;
            }
            Err(error) => return Err(internal_error(error)),
        }
    };
    let sealed = found.into_iter().next().flatten();
    let sealed = sealed
        .ok_or_else(|| internal_error(format!("the arguments of job {} are missing", job.id)))?;
    parse_arguments(context, job, &sealed)
}

/// Opens and parses the arguments of a job.
///
/// # Errors
/// Fails if they were sealed with an unknown key.
pub(super) fn parse_arguments(
    context: &Context,
    job: &Job,
    sealed: &Sealed,
) -> Result<JobArguments, Failure> {
    let arguments_context = JobValueContext {
        job: job.id,
        part: JobValueKind::Arguments,
        value: job.arguments,
    };
    let opened = context
        .opener
        .open(arguments_context, sealed)
        .map_err(internal_error)?;
    serde_json::from_str(opened.expose().map_err(internal_error)?).map_err(internal_error)
}

async fn dispatch_job(
    context: &Arc<Context>,
    execution: &JobExecution,
    arguments: JobArguments,
) -> Result<JobOutput, JobFailure> {
    match execution.job.target.command.as_ref() {
        CallTool::NAME => tool_call::call_tool(context, execution, arguments).await,
        InstallPackage::NAME => {
            let command = parse_command(&arguments)?;
            run_cancellable(execution, |progress| {
                packages::install(context.clone(), progress, command)
            })
            .await
        }
        UpgradePackage::NAME => {
            let command = parse_command(&arguments)?;
            run_cancellable(execution, |progress| {
                packages::upgrade(context.clone(), progress, command)
            })
            .await
        }
        RotateKeys::NAME => {
            let command = parse_command(&arguments)?;
            if keys::must_requeue(context, &command).await {
                return Err(JobFailure::NotStarted);
            }
            run_cancellable(execution, |progress| {
                keys::rotate_keys(context.clone(), progress, command)
            })
            .await
        }
        CompactLog::NAME => {
            let command = parse_command(&arguments)?;
            run_cancellable(execution, |progress| {
                log::compact(context.clone(), progress, command)
            })
            .await
        }
        SweepVault::NAME => {
            execution.progress.phase("sweeping");
            secrets::sweep(context).await?;
            Ok(Bytes::from_static(br#"{"success":true}"#).into())
        }
        unknown => {
            Err(Failure::invalid(format!("This worker does not know the command {unknown}")).into())
        }
    }
}

/// Runs work that can be dropped at any moment and repeated. It ends early if a user cancels the job or
/// if the worker drains.
async fn run_cancellable<F: Future<Output = Result<Bytes, Failure>> + Send + 'static>(
    execution: &JobExecution,
    start: impl FnOnce(Arc<dyn ProgressSink>) -> F,
) -> Result<JobOutput, JobFailure> {
    let work = start(execution.progress.clone()).boxed();
    tokio::select! {
        result = work => Ok(result?.into()),
        () = execution.stop.cancelled() => Err(job::job_cancelled().into()),
        () = execution.draining.cancelled() => Err(JobFailure::NotStarted),
    }
}

fn parse_command<C: Command>(arguments: &JobArguments) -> Result<C, Failure> {
    serde_json::from_str(arguments.body.get())
        .map_err(|error| Failure::invalid(format!("The job is no {} command: {error}", C::NAME)))
}

/// Stores the answer and ends the job in one commit. Returns `false` if another worker has the job, or
/// if the answer cannot be sealed.
async fn end_job(
    context: &Context,
    cleanup: &JobCleanup,
    execution: &JobExecution,
    state: JobState,
    answer: JobAnswer,
) -> bool {
    let job = execution.job.id;
    let value = ValueId(Uuid::now_v7());
    let Ok(sealed) = seal_answer(context, execution, value, answer) else {
        return false;
    };
    // The first request for the answer may come before the commit returns.
    context.fresh_answers.keep(value, sealed.clone());
    let id = CommandId(Uuid::now_v7());
    let mut pauses = INTERRUPTED_JOB.pauses();
    // While this worker holds its lease, no other worker ends the job.
    while context.manager.own.is_held() {
        let ended = commit_end(context, execution, id, state, value, sealed.clone()).await;
        match ended {
            Ok(()) => {
                cleanup.remove_value(execution.job.arguments);
                return true;
            }
            Err(failure) if failure.code == Code::Unavailable => {
                tracing::warn!(%job, %failure, "cannot store the end of a job; retrying");
                pauses.wait().await;
            }
            Err(failure) => {
                tracing::warn!(%job, %failure, "another worker has the job; its answer is discarded");
                cleanup.remove_value(value);
                return false;
            }
        }
    }
    false
}

fn seal_answer(
    context: &Context,
    execution: &JobExecution,
    value: ValueId,
    answer: JobAnswer,
) -> Result<Sealed, Failure> {
    let answer = if answer.body.get().len() > MAX_ANSWER {
        too_large_answer()
    } else {
        answer
    };
    let text = Zeroizing::new(serde_json::to_string(&answer).map_err(internal_error)?);
    let answer_context = JobValueContext {
        job: execution.job.id,
        part: JobValueKind::Answer,
        value,
    };
    let sealer = &context.manager.sealed_store.sealer;
    sealer.seal(answer_context, &text).map_err(internal_error)
}

async fn commit_end(
    context: &Context,
    execution: &JobExecution,
    id: CommandId,
    state: JobState,
    value: ValueId,
    sealed: Sealed,
) -> Result<(), Failure> {
    let job = execution.job.id;
    let attempt = execution.attempt;
    let worker = context.manager.worker;
    let until = context.job_client.answer_expiry();
    let decide = move |catalog: &_| {
        let end = JobEnd {
            state,
            answer: Some(value),
            until,
        };
        decide::finish_job(catalog, job, worker, attempt, end)
    };
    let values = vec![VaultValue { id: value, sealed }];
    context
        .appender
        .commit_with_values(id, Actor::worker(), values, decide)
        .await?;
    Ok(())
}

fn too_large_answer() -> JobAnswer {
    let sentence = format!(
        "The answer is larger than a job can keep ({MAX_ANSWER} bytes); make the call without respond-async"
    );
    JobAnswer::failed(&Failure::new(Code::ResultTooLarge, sentence).maybe_run())
}
