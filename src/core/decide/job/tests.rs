//! Unit tests of the decisions about jobs.

use super::*;
use crate::core::decide::testing::samples::*;
use crate::core::decide::testing::{Given, given};
use crate::core::model::job::SYSTEM_USER;

const READ_ONLY_TOOL: &str = r#"{"name":"t","annotations":{"readOnlyHint":true}}"#;

fn accept(number: u128, user: &str) -> AcceptJob {
    AcceptJob {
        job: job_id(number),
        user: name(user),
        command: CallTool::NAME,
        server: Some(name("s")),
        tool: Some(name("t")),
        arguments: value(number),
        key: None,
        token: None,
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

pub(super) fn accepted(number: u128, user: &str) -> Event {
    job_accepted(number, user).into()
}

fn accepted_with_key(number: u128, scope: u128, body: u128) -> Event {
    JobAccepted {
        key: Some(key(scope, body).into()),
        ..job_accepted(number, "ana")
    }
    .into()
}

pub(super) fn rotation_accepted(number: u128) -> Event {
    JobAccepted {
        command: RotateKeys::NAME.into(),
        server: None,
        tool: None,
        ..job_accepted(number, SYSTEM_USER)
    }
    .into()
}

pub(super) fn requeued(number: u128) -> Event {
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
pub(super) fn running(attempt: u32, more: impl IntoIterator<Item = Event>) -> Given {
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
        .when(|catalog| requeue(catalog, job_id(1), worker(7), 1, 100))
        .then([requeued(1)]);
    assert_eq!((catalog.jobs.waiting(), catalog.jobs.running()), (1, 0));
    running(1, [])
        .when(|catalog| requeue(catalog, job_id(1), worker(8), 1, 100))
        .then_nothing();
}

#[test]
fn a_cancelled_job_is_not_requeued() {
    running(1, [cancel_requested(1)])
        .when(|catalog| requeue(catalog, job_id(1), worker(7), 1, 100))
        .then([job_finished(1, JobState::Cancelled, None, 100)]);
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
