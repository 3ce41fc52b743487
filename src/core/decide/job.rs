//! The decisions about jobs: accepting, claiming, finishing, cancelling and expiring them.

use super::idempotency::key_conflict;
use crate::core::catalog::Catalog;
use crate::core::catalog::scheduler::ConcurrencyLimits;
use crate::core::command::{Area, Command, CompactLog, RotateKeys};
use crate::core::event::{
    Event, JobAccepted, JobCancelRequested, JobExpired, JobFinished, JobProgressed, JobRequeued,
    JobStarted,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{JobId, TokenId, ValueId, WorkerId};
use crate::core::model::idempotency::JobIdempotencyKey;
use crate::core::model::job::{Job, JobProgress, JobStage, JobState};
use crate::core::model::tool_call::CallTool;
use crate::core::names::{ServerName, ToolName, UserName};

/// The largest number of claims of one job. A job whose worker dies at the last claim ends.
const MAX_ATTEMPTS: u32 = 5;

/// A new job. The Vault holds its sealed arguments already.
#[derive(Debug, Clone)]
pub struct AcceptJob {
    pub job: JobId,
    pub user: UserName,
    pub command: &'static str,
    pub server: Option<ServerName>,
    pub tool: Option<ToolName>,
    pub arguments: ValueId,
    pub key: Option<JobIdempotencyKey>,
    /// The token of the caller who submits the job.
    pub token: Option<TokenId>,
    /// The largest number of waiting jobs of one user (`MAX_WAITING_JOBS`).
    pub max_waiting: usize,
}

/// Accepts a job. Returns no event if a job with this id or this key exists.
///
/// # Errors
/// Fails if the key was used with another body, or if the user has too many waiting jobs.
pub fn accept_job(catalog: &Catalog, command: &AcceptJob) -> Result<Vec<Event>, Failure> {
    accept_among(catalog, command, 1)
}

/// Accepts one of `batch_size` jobs that a user submits together.
fn accept_among(
    catalog: &Catalog,
    command: &AcceptJob,
    batch_size: usize,
) -> Result<Vec<Event>, Failure> {
    if catalog.jobs.get(command.job).is_some() {
        return Ok(vec![]);
    }
    if let Some(key) = command.key
        && let Some(existing) = catalog.jobs.find_by_key(key.request.scope)
    {
        return match existing.key.as_deref() {
            Some(first) if first.request.body == key.request.body => Ok(vec![]),
            _ => Err(key_conflict()),
        };
    }
    if active_singleton(catalog, command.command).is_some() {
        return Ok(vec![]);
    }
    let waiting = catalog.jobs.waiting_for_user(command.user.as_str());
    if waiting + batch_size > command.max_waiting {
        return Err(too_many_waiting(&command.user, waiting));
    }
    let accepted = JobAccepted {
        job: command.job,
        user: command.user.clone(),
        command: command.command.to_owned(),
        server: command.server.clone(),
        tool: command.tool.clone(),
        arguments: command.arguments,
        key: command.key,
        token: command.token,
    };
    Ok(vec![accepted.into()])
}

fn too_many_waiting(user: &UserName, waiting: usize) -> Failure {
    let message = format!(
        "User {user} has {waiting} waiting jobs (MAX_WAITING_JOBS); retry when some of them have ended"
    );
    Failure {
        retry_after: Some(5),
        ..Failure::new(Code::RateLimited, message)
    }
}

/// Accepts several jobs together. Returns no event if one of them exists already.
///
/// # Errors
/// Fails if one of the jobs cannot be accepted.
pub fn accept_jobs(catalog: &Catalog, commands: &[AcceptJob]) -> Result<Vec<Event>, Failure> {
    let mut events = Vec::with_capacity(commands.len());
    for command in commands {
        events.extend(accept_among(catalog, command, commands.len())?);
    }
    // A job that exists gives no event.
    if events.len() < commands.len() {
        return Ok(vec![]);
    }
    Ok(events)
}

/// Returns the running or waiting job of this command, if the command is a key rotation or a compaction of the log. Only
/// one job of these commands runs at a time. An idempotency key would not do here, because `SECRETS_KEY` makes the keys
/// and a rotation changes it, and because two compactions have different times.
pub fn active_singleton<'a>(catalog: &'a Catalog, command: &str) -> Option<&'a Job> {
    if ![RotateKeys::NAME, CompactLog::NAME].contains(&command) {
        return None;
    }
    // These commands are rare, so the search goes through all jobs.
    catalog
        .jobs
        .newest_first()
        .find(|job| job.target.command == command && job.ended().is_none())
        .map(AsRef::as_ref)
}

/// The jobs that a worker can claim.
#[derive(Debug, Clone)]
pub struct ClaimJobs {
    pub worker: WorkerId,
    pub areas: Vec<Area>,
    /// The number of jobs that the worker can start now.
    pub places: usize,
    pub limits: ConcurrencyLimits,
}

/// Claims the next jobs that `is_for_worker` accepts.
pub fn claim_jobs(
    catalog: &Catalog,
    claim: &ClaimJobs,
    is_for_worker: &impl Fn(&Job) -> bool,
) -> Vec<Event> {
    let jobs = &catalog.jobs;
    let mut scheduler = jobs.scheduler.clone();
    let accepts = |id| jobs.get(id).is_some_and(|job| is_for_worker(job));
    let mut events = Vec::new();
    while events.len() < claim.places {
        let Some(job) = scheduler
            .next_job(&claim.areas, &claim.limits, &accepts)
            .and_then(|id| jobs.get(id))
        else {
            break;
        };
        scheduler.mark_running(job);
        let started = JobStarted {
            job: job.id,
            attempt: job.attempts() + 1,
            worker: claim.worker,
        };
        events.push(started.into());
    }
    events
}

/// Records the progress of a running job. Returns no event if the worker does not run it at this attempt.
pub fn record_progress(
    catalog: &Catalog,
    id: JobId,
    worker: WorkerId,
    attempt: u32,
    progress: &JobProgress,
) -> Vec<Event> {
    if !is_run_by(catalog, id, worker, attempt) {
        return vec![];
    }
    let progressed = JobProgressed {
        job: id,
        progress: progress.clone(),
    };
    vec![progressed.into()]
}

/// Returns a job to its queue, because the worker has not started it. Ends the job if a user has cancelled it. Returns
/// no event if the worker does not run it at this attempt. `until` is the time when the answer of an ended job expires.
pub fn requeue(
    catalog: &Catalog,
    id: JobId,
    worker: WorkerId,
    attempt: u32,
    until: u64,
) -> Vec<Event> {
    let job = catalog.jobs.get(id);
    let Some(job) = job.filter(|job| job.is_run_by(worker, attempt)) else {
        return vec![];
    };
    if is_cancelled(job) {
        return vec![finished_event(job, cancelled_end(until))];
    }
    vec![JobRequeued { job: id }.into()]
}

fn is_run_by(catalog: &Catalog, id: JobId, worker: WorkerId, attempt: u32) -> bool {
    let job = catalog.jobs.get(id);
    job.is_some_and(|job| job.is_run_by(worker, attempt))
}

/// Returns whether a user has cancelled this running job.
fn is_cancelled(job: &Job) -> bool {
    matches!(&job.stage, JobStage::Running(running) if running.cancelled)
}

/// Returns the end of a job that was cancelled before it has an answer.
fn cancelled_end(until: u64) -> JobEnd {
    JobEnd {
        state: JobState::Cancelled,
        answer: None,
        until,
    }
}

/// The end of a job.
#[derive(Debug, Clone, Copy)]
pub struct JobEnd {
    pub state: JobState,
    /// The id of the sealed answer in the Vault.
    pub answer: Option<ValueId>,
    /// The time when the answer expires, in milliseconds since 1970.
    pub until: u64,
}

/// Ends a running job.
///
/// # Errors
/// Fails if the worker does not run the job at this attempt, for example because another worker has taken it over.
pub fn finish_job(
    catalog: &Catalog,
    id: JobId,
    worker: WorkerId,
    attempt: u32,
    end: JobEnd,
) -> Result<Vec<Event>, Failure> {
    match catalog.jobs.get(id) {
        Some(job) if job.is_run_by(worker, attempt) => Ok(vec![finished_event(job, end)]),
        _ => Err(Failure::new(
            Code::Conflict,
            "Another worker has taken over the job",
        )),
    }
}

/// Returns the event of an ended job. A job with a key stays until its key expires, because a repeat of its request
/// would execute it again.
fn finished_event(job: &Job, end: JobEnd) -> Event {
    let key_expiry = job.key.as_ref().and_then(|key| key.until).unwrap_or(0);
    JobFinished {
        job: job.id,
        state: end.state,
        answer: end.answer,
        until: end.until.max(key_expiry),
    }
    .into()
}

/// Decides about the jobs of a dead worker. A job that may run twice returns to its queue. Any other job ends, because
/// no process knows whether its work was done.
pub fn take_over(catalog: &Catalog, dead: WorkerId, until: u64) -> Vec<Event> {
    let jobs = catalog.jobs.running_on(dead);
    jobs.map(|job| take_over_job(catalog, job, until)).collect()
}

fn take_over_job(catalog: &Catalog, job: &Job, until: u64) -> Event {
    let may_run_again = may_repeat(catalog, job) && job.attempts() < MAX_ATTEMPTS;
    if may_run_again && !is_cancelled(job) {
        return JobRequeued { job: job.id }.into();
    }
    let state = if may_run_again {
        JobState::Cancelled
    } else {
        JobState::Unknown
    };
    let end = JobEnd {
        state,
        answer: None,
        until,
    };
    finished_event(job, end)
}

/// Returns true if the job may run twice. Only a tool call depends on its tool: the tool declares whether it may.
fn may_repeat(catalog: &Catalog, job: &Job) -> bool {
    if job.target.command != CallTool::NAME {
        return true;
    }
    let server = job
        .target
        .server
        .as_ref()
        .and_then(|name| catalog.server(name.as_str()));
    let tools = server
        .into_iter()
        .flat_map(|server| server.tools.tools.iter());
    let tool_name = job.target.tool.as_ref().map(ToolName::as_str);
    tools
        .filter(|tool| tool.name().as_deref() == tool_name)
        .any(|tool| tool.may_repeat())
}

/// Cancels a job. A waiting job ends, and the worker of a running job gets a cancellation request.
///
/// # Errors
/// Fails if the user has no such job or if the job has ended.
pub fn cancel_job(
    catalog: &Catalog,
    id: JobId,
    user: &UserName,
    until: u64,
) -> Result<Vec<Event>, Failure> {
    let job = catalog
        .jobs
        .get(id)
        .filter(|job| job.target.user == *user)
        .ok_or_else(|| Failure::job_not_found(id))?;
    match &job.stage {
        JobStage::Waiting { .. } => Ok(vec![finished_event(job, cancelled_end(until))]),
        JobStage::Running(running) if running.cancelled => Ok(vec![]),
        JobStage::Running(_) => Ok(vec![JobCancelRequested { job: id }.into()]),
        JobStage::Ended(_) => Err(Failure::new(
            Code::Conflict,
            format!("Job {id} has already ended"),
        )),
    }
}

/// Removes at most `limit` jobs that expire at `now` (milliseconds since 1970).
pub fn expire(catalog: &Catalog, now: u64, limit: usize) -> Vec<Event> {
    let jobs = catalog.jobs.expired(now, limit);
    if jobs.is_empty() {
        return vec![];
    }
    vec![JobExpired { jobs }.into()]
}

#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod tests;
