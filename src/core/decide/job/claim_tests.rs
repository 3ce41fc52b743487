//! Unit tests of the claims of workers.

use super::tests::{accepted, requeued, rotation_accepted, running};
use super::*;
use crate::core::decide::testing::given;
use crate::core::decide::testing::samples::*;

const LIMITS: ConcurrencyLimits = ConcurrencyLimits {
    per_user: 2,
    per_server: 3,
};

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
