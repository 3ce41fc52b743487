//! The decisions about jobs: accepting, claiming, finishing, cancelling and expiring them.

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

/// Returns the running or waiting key rotation, if `command` is a key rotation. Only one rotation runs at a time. A key
/// would not do here, because `SECRETS_KEY` makes the keys and a rotation changes it.
pub fn active_singleton<'a>(catalog: &'a Catalog, command: &str) -> Option<&'a Job> {
    if command != RotateKeys::NAME {
        return None;
    }
    // A rotation is rare, so the search goes through all jobs.
    catalog
        .jobs
        .newest_first()
        .find(|job| job.command == command && job.ended().is_none())
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

/// Returns a job to its queue, because the worker has not started it. Returns no event if the worker does not run it at
/// this attempt.
pub fn requeue(catalog: &Catalog, id: JobId, worker: WorkerId, attempt: u32) -> Vec<Event> {
    if !is_run_by(catalog, id, worker, attempt) {
        return vec![];
    }
    vec![JobRequeued { job: id }.into()]
}

fn is_run_by(catalog: &Catalog, id: JobId, worker: WorkerId, attempt: u32) -> bool {
    let job = catalog.jobs.get(id);
    job.is_some_and(|job| job.is_run_by(worker, attempt))
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
    let is_cancelled = matches!(&job.stage, JobStage::Running(running) if running.cancelled);
    let may_run_again = may_repeat(catalog, job) && job.attempts() < MAX_ATTEMPTS;
    if may_run_again && !is_cancelled {
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
    let tool_name = job.tool.as_ref().map(ToolName::as_str);
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
        .filter(|job| job.user == *user)
        .ok_or_else(|| Failure::job_not_found(id))?;
    let end = JobEnd {
        state: JobState::Cancelled,
        answer: None,
        until,
    };
    match &job.stage {
        JobStage::Waiting { .. } => Ok(vec![finished_event(job, end)]),
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
mod tests {
    use super::*;
    use crate::core::decide::testing::samples::*;
    use crate::core::decide::testing::{Given, given};
    use crate::core::model::job::SYSTEM_USER;

    const READ_ONLY_TOOL: &str = r#"{"name":"t","annotations":{"readOnlyHint":true}}"#;
    const LIMITS: ConcurrencyLimits = ConcurrencyLimits {
        per_user: 2,
        per_server: 3,
    };

    fn accept(number: u128, user: &str) -> AcceptJob {
        AcceptJob {
            job: job_id(number),
            user: name(user),
            command: CallTool::NAME,
            server: Some(name("s")),
            tool: Some(name("t")),
            arguments: value(number),
            key: None,
            max_waiting: 2,
        }
    }

    fn with_key(number: u128, scope: u128, body: u128) -> AcceptJob {
        AcceptJob {
            key: Some(key(scope, body).into()),
            ..accept(number, "ana")
        }
    }

    fn rotation(number: u128) -> AcceptJob {
        AcceptJob {
            command: RotateKeys::NAME,
            server: None,
            tool: None,
            ..accept(number, SYSTEM_USER)
        }
    }

    fn accepted(number: u128, user: &str) -> Event {
        job_accepted(number, user).into()
    }

    fn accepted_with_key(number: u128, scope: u128, body: u128) -> Event {
        JobAccepted {
            key: Some(key(scope, body).into()),
            ..job_accepted(number, "ana")
        }
        .into()
    }

    fn rotation_accepted(number: u128) -> Event {
        JobAccepted {
            command: RotateKeys::NAME.into(),
            server: None,
            tool: None,
            ..job_accepted(number, SYSTEM_USER)
        }
        .into()
    }

    fn requeued(number: u128) -> Event {
        JobRequeued {
            job: job_id(number),
        }
        .into()
    }

    fn cancel_requested(number: u128) -> Event {
        JobCancelRequested {
            job: job_id(number),
        }
        .into()
    }

    /// Returns a catalog with job 1 of Ana, which worker 7 runs at `attempt`.
    fn running(attempt: u32, more: impl IntoIterator<Item = Event>) -> Given {
        let events = [accepted(1, "ana"), job_started(1, attempt, 7)];
        given(events.into_iter().chain(more))
    }

    #[test]
    fn a_job_is_accepted() {
        let catalog = given([])
            .when(|catalog| accept_job(catalog, &accept(1, "ana")))
            .then([accepted(1, "ana")]);
        assert_eq!(catalog.jobs.waiting(), 1);
        assert_eq!(catalog.values(), [value(1)].into());
    }

    #[test]
    fn a_job_is_accepted_once() {
        given([accepted(1, "ana")])
            .when(|catalog| accept_job(catalog, &accept(1, "ana")))
            .then_nothing();
    }

    #[test]
    fn a_repeat_under_a_key_is_the_first_job() {
        given([accepted_with_key(1, 5, 6)])
            .when(|catalog| accept_job(catalog, &with_key(2, 5, 6)))
            .then_nothing();
    }

    #[test]
    fn a_key_with_another_body_is_a_conflict() {
        given([accepted_with_key(1, 5, 6)])
            .when(|catalog| accept_job(catalog, &with_key(2, 5, 7)))
            .then_fails_with(Code::Conflict);
    }

    #[test]
    fn an_expired_job_frees_its_key() {
        let expired = JobExpired {
            jobs: vec![job_id(1)],
        };
        given([accepted_with_key(1, 5, 6), expired.into()])
            .when(|catalog| accept_job(catalog, &with_key(2, 5, 7)))
            .then([accepted_with_key(2, 5, 7)]);
    }

    #[test]
    fn a_user_with_too_many_waiting_jobs_must_retry_later() {
        let failure = given([accepted(1, "ana"), accepted(2, "ana")])
            .when(|catalog| accept_job(catalog, &accept(3, "ana")))
            .then_fails_with(Code::RateLimited);
        assert_eq!(failure.retry_after, Some(5));
    }

    #[test]
    fn waiting_jobs_of_another_user_and_running_jobs_do_not_count() {
        given([
            accepted(1, "ben"),
            accepted(2, "ben"),
            accepted(3, "ana"),
            accepted(4, "ana"),
            job_started(3, 1, 7),
        ])
        .when(|catalog| accept_job(catalog, &accept(5, "ana")))
        .then([accepted(5, "ana")]);
    }

    #[test]
    fn a_batch_is_accepted_as_a_whole() {
        given([])
            .when(|catalog| accept_jobs(catalog, &[accept(1, "ana"), accept(2, "ana")]))
            .then([accepted(1, "ana"), accepted(2, "ana")]);
        given([accepted(1, "ana")])
            .when(|catalog| accept_jobs(catalog, &[accept(2, "ana"), accept(3, "ana")]))
            .then_fails_with(Code::RateLimited);
    }

    #[test]
    fn a_batch_with_an_existing_job_changes_nothing() {
        let roomy = |number| AcceptJob {
            max_waiting: 10,
            ..accept(number, "ana")
        };
        given([accepted(1, "ana")])
            .when(|catalog| accept_jobs(catalog, &[roomy(1), roomy(2)]))
            .then_nothing();
    }

    #[test]
    fn only_one_key_rotation_runs_at_a_time() {
        given([rotation_accepted(1)])
            .when(|catalog| accept_job(catalog, &rotation(2)))
            .then_nothing();
        given([rotation_accepted(1), job_started(1, 1, 7)])
            .when(|catalog| accept_job(catalog, &rotation(2)))
            .then_nothing();
        given([
            rotation_accepted(1),
            job_started(1, 1, 7),
            job_finished(1, JobState::Succeeded, None, 9),
        ])
        .when(|catalog| accept_job(catalog, &rotation(2)))
        .then([rotation_accepted(2)]);
    }

    #[test]
    fn the_active_rotation_is_found_by_its_command_alone() {
        let catalog = given([accepted(1, "ana"), rotation_accepted(2)]).catalog;
        let found = |command| active_singleton(&catalog, command).map(|job| job.id);
        assert_eq!(found(RotateKeys::NAME), Some(job_id(2)));
        assert_eq!(found(CallTool::NAME), None);
    }

    fn claim(places: usize) -> ClaimJobs {
        ClaimJobs {
            worker: worker(7),
            areas: vec![Area::Tools],
            places,
            limits: LIMITS,
        }
    }

    #[test]
    fn a_worker_claims_as_many_jobs_as_it_has_places() {
        given([accepted(1, "ana"), accepted(2, "ben")])
            .when(|catalog| claim_jobs(catalog, &claim(1), &|_| true))
            .then([job_started(1, 1, 7)]);
        given([accepted(1, "ana"), accepted(2, "ben")])
            .when(|catalog| claim_jobs(catalog, &claim(9), &|_| true))
            .then([job_started(1, 1, 7), job_started(2, 1, 7)]);
        given([accepted(1, "ana")])
            .when(|catalog| claim_jobs(catalog, &claim(0), &|_| true))
            .then_nothing();
    }

    #[test]
    fn users_take_turns() {
        let jobs = (1..=3)
            .map(|number| accepted(number, "ana"))
            .chain([accepted(4, "ben")]);
        given(jobs)
            .when(|catalog| claim_jobs(catalog, &claim(2), &|_| true))
            .then([job_started(1, 1, 7), job_started(4, 1, 7)]);
    }

    #[test]
    fn a_claim_respects_the_limits_of_users_and_servers() {
        let of_ana = (1..=3).map(|number| accepted(number, "ana"));
        given(of_ana)
            .when(|catalog| claim_jobs(catalog, &claim(9), &|_| true))
            .then([job_started(1, 1, 7), job_started(2, 1, 7)]);
        let of_four_users = (1..=4).map(|number| accepted(number, &format!("user-{number}")));
        let catalog = given(of_four_users).catalog;
        assert_eq!(claim_jobs(&catalog, &claim(9), &|_| true).len(), 3);
    }

    #[test]
    fn a_worker_claims_jobs_of_its_areas_only() {
        given([rotation_accepted(1), accepted(2, "ana")])
            .when(|catalog| claim_jobs(catalog, &claim(9), &|_| true))
            .then([job_started(2, 1, 7)]);
    }

    #[test]
    fn a_worker_leaves_jobs_to_a_better_worker() {
        given([accepted(1, "ana"), accepted(2, "ben")])
            .when(|catalog| claim_jobs(catalog, &claim(9), &|job| job.id == job_id(2)))
            .then([job_started(2, 1, 7)]);
    }

    #[test]
    fn a_second_claim_has_the_next_number() {
        running(1, [requeued(1)])
            .when(|catalog| claim_jobs(catalog, &claim(1), &|_| true))
            .then([job_started(1, 2, 7)]);
    }

    #[test]
    fn only_the_worker_of_a_job_records_progress() {
        let progress = JobProgress {
            phase: "install".into(),
            line: None,
        };
        let progressed = JobProgressed {
            job: job_id(1),
            progress: progress.clone(),
        };
        running(1, [])
            .when(|catalog| record_progress(catalog, job_id(1), worker(7), 1, &progress))
            .then([progressed.into()]);
        for (by, attempt) in [(8, 1), (7, 2)] {
            running(1, [])
                .when(|catalog| record_progress(catalog, job_id(1), worker(by), attempt, &progress))
                .then_nothing();
        }
    }

    #[test]
    fn only_the_worker_of_a_job_requeues_it() {
        let catalog = running(1, [])
            .when(|catalog| requeue(catalog, job_id(1), worker(7), 1))
            .then([requeued(1)]);
        assert_eq!((catalog.jobs.waiting(), catalog.jobs.running()), (1, 0));
        running(1, [])
            .when(|catalog| requeue(catalog, job_id(1), worker(8), 1))
            .then_nothing();
    }

    fn end(state: JobState, answer: Option<u128>) -> JobEnd {
        JobEnd {
            state,
            answer: answer.map(value),
            until: 100,
        }
    }

    #[test]
    fn the_worker_of_a_job_ends_it() {
        let catalog = running(1, [])
            .when(|catalog| {
                finish_job(
                    catalog,
                    job_id(1),
                    worker(7),
                    1,
                    end(JobState::Succeeded, Some(9)),
                )
            })
            .then([job_finished(1, JobState::Succeeded, Some(9), 100)]);
        assert_eq!(catalog.values(), [value(9)].into());
        assert_eq!(catalog.jobs.running(), 0);
    }

    #[test]
    fn a_worker_cannot_end_a_job_that_was_taken_over() {
        for more in [
            vec![requeued(1), job_started(1, 2, 8)],
            vec![requeued(1), job_started(1, 2, 7)],
            vec![job_finished(1, JobState::Unknown, None, 100)],
        ] {
            running(1, more)
                .when(|catalog| {
                    finish_job(
                        catalog,
                        job_id(1),
                        worker(7),
                        1,
                        end(JobState::Failed, None),
                    )
                })
                .then_fails_with(Code::Conflict);
        }
    }

    #[test]
    fn a_job_under_a_key_stays_until_the_key_expires() {
        let accepted = JobAccepted {
            key: Some(JobIdempotencyKey {
                request: key(5, 6),
                until: Some(500),
            }),
            ..job_accepted(1, "ana")
        };
        given([accepted.into(), job_started(1, 1, 7)])
            .when(|catalog| {
                finish_job(
                    catalog,
                    job_id(1),
                    worker(7),
                    1,
                    end(JobState::Succeeded, Some(9)),
                )
            })
            .then([job_finished(1, JobState::Succeeded, Some(9), 500)]);
    }

    #[test]
    fn a_call_of_an_unsafe_tool_ends_with_its_worker() {
        running(
            1,
            [
                server_registered("s"),
                tools_discovered("s", &[r#"{"name":"t"}"#]),
            ],
        )
        .when(|catalog| take_over(catalog, worker(7), 100))
        .then([job_finished(1, JobState::Unknown, None, 100)]);
    }

    #[test]
    fn a_call_of_an_unknown_server_or_tool_ends_with_its_worker() {
        running(1, [])
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([job_finished(1, JobState::Unknown, None, 100)]);
        let other = [
            server_registered("s"),
            tools_discovered(
                "s",
                &[r#"{"name":"u","annotations":{"readOnlyHint":true}}"#],
            ),
        ];
        running(1, other)
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([job_finished(1, JobState::Unknown, None, 100)]);
    }

    #[test]
    fn a_call_of_a_repeatable_tool_waits_again() {
        let tool = [
            server_registered("s"),
            tools_discovered("s", &[READ_ONLY_TOOL]),
        ];
        running(1, tool)
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([requeued(1)]);
    }

    #[test]
    fn a_cancelled_call_of_a_dead_worker_is_cancelled() {
        let tool = [
            server_registered("s"),
            tools_discovered("s", &[READ_ONLY_TOOL]),
            cancel_requested(1),
        ];
        running(1, tool)
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([job_finished(1, JobState::Cancelled, None, 100)]);
    }

    #[test]
    fn a_job_that_outlives_five_workers_ends() {
        let tool = || {
            [
                server_registered("s"),
                tools_discovered("s", &[READ_ONLY_TOOL]),
            ]
        };
        running(4, tool())
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([requeued(1)]);
        running(5, tool())
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([job_finished(1, JobState::Unknown, None, 100)]);
    }

    #[test]
    fn maintenance_of_a_dead_worker_waits_again() {
        given([rotation_accepted(1), job_started(1, 1, 7)])
            .when(|catalog| take_over(catalog, worker(7), 100))
            .then([requeued(1)]);
    }

    #[test]
    fn the_jobs_of_other_workers_stay() {
        running(1, [])
            .when(|catalog| take_over(catalog, worker(8), 100))
            .then_nothing();
    }

    fn cancel(catalog: &Catalog, user: &str) -> Result<Vec<Event>, Failure> {
        cancel_job(catalog, job_id(1), &name(user), 100)
    }

    #[test]
    fn a_waiting_job_is_cancelled_at_once() {
        let catalog = given([accepted(1, "ana")])
            .when(|catalog| cancel(catalog, "ana"))
            .then([job_finished(1, JobState::Cancelled, None, 100)]);
        assert_eq!(catalog.jobs.waiting(), 0);
    }

    #[test]
    fn a_running_job_gets_one_cancellation_request() {
        let catalog = running(1, [])
            .when(|catalog| cancel(catalog, "ana"))
            .then([cancel_requested(1)]);
        assert_eq!(catalog.jobs.cancels, 1);
        running(1, [cancel_requested(1)])
            .when(|catalog| cancel(catalog, "ana"))
            .then_nothing();
    }

    #[test]
    fn an_ended_job_cannot_be_cancelled() {
        running(1, [job_finished(1, JobState::Succeeded, None, 100)])
            .when(|catalog| cancel(catalog, "ana"))
            .then_fails_with(Code::Conflict);
    }

    #[test]
    fn a_job_of_another_user_does_not_exist() {
        given([accepted(1, "ana")])
            .when(|catalog| cancel(catalog, "ben"))
            .then_fails_with(Code::JobNotFound);
        given([])
            .when(|catalog| cancel(catalog, "ana"))
            .then_fails_with(Code::JobNotFound);
    }

    #[test]
    fn an_ended_job_expires_at_its_time() {
        let ended = || [job_finished(1, JobState::Succeeded, Some(9), 100)];
        running(1, ended())
            .when(|catalog| expire(catalog, 99, 10))
            .then_nothing();
        let jobs = vec![job_id(1)];
        let catalog = running(1, ended())
            .when(|catalog| expire(catalog, 100, 10))
            .then([JobExpired { jobs }.into()]);
        assert!(catalog.values().is_empty() && catalog.jobs.get(job_id(1)).is_none());
    }

    #[test]
    fn waiting_and_running_jobs_never_expire() {
        running(1, [accepted(2, "ana")])
            .when(|catalog| expire(catalog, u64::MAX, 10))
            .then_nothing();
    }

    #[test]
    fn the_oldest_ended_job_above_the_limit_expires_before_its_time() {
        let limit = crate::core::catalog::ended_jobs::RETENTION.jobs_per_user as u128;
        let events = (1..=limit + 1).flat_map(|number| {
            [
                accepted(number, "ana"),
                job_finished(number, JobState::Cancelled, None, 100),
            ]
        });
        let jobs = vec![job_id(1)];
        given(events)
            .when(|catalog| expire(catalog, 0, 10))
            .then([JobExpired { jobs }.into()]);
    }
}
