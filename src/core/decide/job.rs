//! What may happen to a job.

use super::idempotency::key_conflict;
use crate::core::catalog::Catalog;
use crate::core::catalog::scheduler::ConcurrencyLimits;
use crate::core::command::{Area, Command, RotateKeys};
use crate::core::event::{
    Event, JobAccepted, JobCancelRequested, JobExpired, JobFinished, JobProgressed, JobRequeued,
    JobStarted,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{JobId, ValueId, WorkerId};
use crate::core::model::idempotency::JobIdempotencyKey;
use crate::core::model::job::{Job, JobProgress, JobStage, JobState};
use crate::core::model::tool_call::CallTool;
use crate::core::names::{ServerName, ToolName, UserName};

/// Workers that may die of one job before it is given up.
const ATTEMPTS: u32 = 5;

/// A job at the door. Its arguments lie in the Vault already.
#[derive(Debug, Clone)]
pub struct AcceptJob {
    pub job: JobId,
    pub user: UserName,
    pub command: &'static str,
    pub server: Option<ServerName>,
    pub tool: Option<ToolName>,
    pub arguments: ValueId,
    pub key: Option<JobIdempotencyKey>,
    /// Jobs that may wait for one user.
    pub most_waiting: usize,
}

/// A job that is there already, by its id or its key, is accepted once.
pub fn accept_job(catalog: &Catalog, command: &AcceptJob) -> Result<Vec<Event>, Failure> {
    accept_among(catalog, command, 1)
}

/// One of several that come together and need a place each.
fn accept_among(
    catalog: &Catalog,
    command: &AcceptJob,
    together: usize,
) -> Result<Vec<Event>, Failure> {
    if catalog.jobs.get(command.job).is_some() {
        return Ok(vec![]);
    }
    if let Some(key) = command.key
        && let Some(known) = catalog.jobs.of_key(key.request.scope)
    {
        return match known.key.as_deref() {
            Some(first) if first.request.body == key.request.body => Ok(vec![]),
            _ => Err(key_conflict()),
        };
    }
    if active_singleton(catalog, command.command).is_some() {
        return Ok(vec![]);
    }
    let waiting = catalog.jobs.waiting_of(command.user.as_str());
    if waiting + together > command.most_waiting {
        let user = &command.user;
        let many = format!(
            "User {user} has {waiting} jobs waiting (MAX_WAITING_JOBS); ask again when some have ended"
        );
        return Err(Failure {
            retry_after: Some(5),
            ..Failure::new(Code::RateLimited, many)
        });
    }
    let AcceptJob {
        job,
        user,
        command,
        server,
        tool,
        arguments,
        key,
        ..
    } = command.clone();
    Ok(vec![
        JobAccepted {
            job,
            user,
            command: command.to_owned(),
            server,
            tool,
            arguments,
            key,
        }
        .into(),
    ])
}

/// Accepts several jobs together: all, or none where one of them is there already.
pub fn accept_jobs(catalog: &Catalog, commands: &[AcceptJob]) -> Result<Vec<Event>, Failure> {
    let accepted = commands
        .iter()
        .map(|command| accept_among(catalog, command, commands.len()));
    let each = accepted.collect::<Result<Vec<_>, _>>()?;
    if each.iter().any(Vec::is_empty) {
        Ok(vec![])
    } else {
        Ok(each.concat())
    }
}

/// The job that whoever asks for this command gets as long as it has not ended: of rotations there is one at a time.
/// What has ended is in nobody's way, and a key would be: keys are made with `SECRETS_KEY`, which changes here.
pub fn active_singleton<'a>(catalog: &'a Catalog, command: &str) -> Option<&'a Job> {
    // Looked for among all, since it is asked for some times a year.
    let alone = command == RotateKeys::NAME;
    let mut jobs = alone
        .then(|| catalog.jobs.newest_first())
        .into_iter()
        .flatten();
    jobs.find(|job| job.command == command && job.ended().is_none())
        .map(AsRef::as_ref)
}

/// What a worker takes.
#[derive(Debug, Clone)]
pub struct ClaimJobs {
    pub worker: WorkerId,
    pub areas: Vec<Area>,
    /// How many more it has room for.
    pub places: usize,
    pub bounds: ConcurrencyLimits,
}

/// Takes the next jobs that `mine` says are for this worker.
pub fn claim_jobs(
    catalog: &Catalog,
    claim: &ClaimJobs,
    mine: &impl Fn(&Job) -> bool,
) -> Vec<Event> {
    let jobs = &catalog.jobs;
    let mut line = jobs.line.clone();
    let mine = |id| jobs.get(id).is_some_and(|job| mine(job));
    let mut events = Vec::new();
    while events.len() < claim.places {
        let Some(job) = line
            .next_job(&claim.areas, &claim.bounds, &mine)
            .and_then(|id| jobs.get(id))
        else {
            break;
        };
        line.mark_running(job);
        events.push(
            JobStarted {
                job: job.id,
                attempt: job.attempts() + 1,
                worker: claim.worker,
            }
            .into(),
        );
    }
    events
}

/// How far it is; of interest only while that worker has it.
pub fn record_progress(
    catalog: &Catalog,
    id: JobId,
    worker: WorkerId,
    attempt: u32,
    progress: &JobProgress,
) -> Vec<Event> {
    let running = catalog
        .jobs
        .get(id)
        .is_some_and(|job| job.is_run_by(worker, attempt));
    if running {
        vec![
            JobProgressed {
                job: id,
                progress: progress.clone(),
            }
            .into(),
        ]
    } else {
        vec![]
    }
}

/// Nothing was begun: whoever has room takes it.
pub fn requeue(catalog: &Catalog, id: JobId, worker: WorkerId, attempt: u32) -> Vec<Event> {
    let running = catalog
        .jobs
        .get(id)
        .is_some_and(|job| job.is_run_by(worker, attempt));
    if running {
        vec![JobRequeued { job: id }.into()]
    } else {
        vec![]
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy)]
pub struct JobEnd {
    pub state: JobState,
    /// Where its answer lies.
    pub answer: Option<ValueId>,
    /// Milliseconds since 1970.
    pub until: u64,
}

/// Only whoever has it ends it: one that was taken over is somebody else's.
pub fn finish_job(
    catalog: &Catalog,
    id: JobId,
    worker: WorkerId,
    attempt: u32,
    end: JobEnd,
) -> Result<Vec<Event>, Failure> {
    match catalog.jobs.get(id) {
        Some(job) if job.is_run_by(worker, attempt) => Ok(vec![finished_event(job, end)]),
        _ => Err(Failure::new(Code::Conflict, "The job is in other hands")),
    }
}

/// It is kept as long as its answer, and one under a key as long as that: else the same request would do it again.
fn finished_event(
    job: &Job,
    JobEnd {
        state,
        answer,
        until,
    }: JobEnd,
) -> Event {
    let of_key = job
        .key
        .as_ref()
        .and_then(|key| key.until)
        .unwrap_or_default();
    JobFinished {
        job: job.id,
        state,
        answer,
        until: until.max(of_key),
    }
    .into()
}

/// What becomes of a dead worker's jobs: those that may run twice wait again, of the others nobody knows.
pub fn take_over(catalog: &Catalog, dead: WorkerId, until: u64) -> Vec<Event> {
    let jobs = catalog.jobs.of_worker(dead);
    jobs.map(|job| {
        let cancelled = matches!(&job.stage, JobStage::Running(run) if run.cancelled);
        let again = may_repeat(catalog, job) && job.attempts() < ATTEMPTS;
        match (again, cancelled) {
            (true, true) => finished_event(
                job,
                JobEnd {
                    state: JobState::Cancelled,
                    answer: None,
                    until,
                },
            ),
            (true, false) => JobRequeued { job: job.id }.into(),
            (false, _) => finished_event(
                job,
                JobEnd {
                    state: JobState::Unknown,
                    answer: None,
                    until,
                },
            ),
        }
    })
    .collect()
}

/// Every job but a tool call is safe to run twice; of a tool, the tool itself says whether it is.
fn may_repeat(catalog: &Catalog, job: &Job) -> bool {
    if job.command != CallTool::NAME {
        return true;
    }
    let server = job
        .server
        .as_ref()
        .and_then(|name| catalog.server(name.as_str()));
    let tools = server
        .into_iter()
        .flat_map(|server| server.tools.tools.iter());
    let wanted = job.tool.as_ref().map(ToolName::as_str);
    tools
        .filter(|tool| tool.name().as_deref() == wanted)
        .any(|tool| tool.may_repeat())
}

/// One that waits will never run; one that runs is told to stop.
pub fn cancel_job(
    catalog: &Catalog,
    id: JobId,
    user: &UserName,
    until: u64,
) -> Result<Vec<Event>, Failure> {
    let job = catalog
        .jobs
        .get(id)
        .filter(|job| job.user == *user)
        .ok_or_else(|| Failure::job_not_found(id))?;
    match &job.stage {
        JobStage::Waiting { .. } => Ok(vec![finished_event(
            job,
            JobEnd {
                state: JobState::Cancelled,
                answer: None,
                until,
            },
        )]),
        JobStage::Running(run) if run.cancelled => Ok(vec![]),
        JobStage::Running(_) => Ok(vec![JobCancelRequested { job: id }.into()]),
        JobStage::Ended(_) => Err(Failure::new(
            Code::Conflict,
            format!("Job {id} has ended already"),
        )),
    }
}

/// Lets go of jobs whose answers have expired.
pub fn expire(catalog: &Catalog, now: u64, limit: usize) -> Vec<Event> {
    let jobs = catalog.jobs.expired(now, limit);
    if jobs.is_empty() {
        vec![]
    } else {
        vec![JobExpired { jobs }.into()]
    }
}
