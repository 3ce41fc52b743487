//! The ended jobs in the catalog: the expiry of their answers, and the largest number of jobs.

use imbl::{HashMap, OrdSet};

use crate::core::ids::{JobId, Position};
use crate::core::model::job::{EndedJob, Job};
use crate::core::names::UserName;

/// The memory of one ended job without its names, in bytes, estimated with a margin.
const JOB_BYTES: u64 = 1024;

/// How many ended jobs the catalog keeps. If there are more, the jobs that ended first expire before their time.
#[derive(Debug, Clone, Copy)]
pub struct RetentionLimits {
    pub jobs_per_user: usize,
    /// Estimated memory in bytes.
    pub bytes_per_user: u64,
    pub jobs: usize,
    /// Estimated memory in bytes.
    pub bytes: u64,
}

/// The limits of every process, which are constants, because all processes must decide alike.
pub const RETENTION: RetentionLimits = RetentionLimits {
    jobs_per_user: 20_000,
    bytes_per_user: 24 * 1024 * 1024,
    jobs: 200_000,
    bytes: 240 * 1024 * 1024,
};

/// The ended jobs of one user.
#[derive(Debug, Clone, Default)]
struct UserShare {
    /// The jobs in the order in which they ended.
    jobs: OrdSet<(Position, JobId)>,
    bytes: u64,
}

/// All ended jobs, by expiry and by end.
#[derive(Debug, Clone)]
pub struct EndedJobs {
    limits: RetentionLimits,
    expiries: OrdSet<(u64, JobId)>,
    /// The jobs of all users in the order in which they ended.
    by_end: OrdSet<(Position, JobId)>,
    bytes: u64,
    users: HashMap<UserName, UserShare>,
    /// The users whose jobs exceed the limits.
    users_above_limit: OrdSet<UserName>,
}

impl Default for EndedJobs {
    fn default() -> Self {
        Self::with_limits(RETENTION)
    }
}

impl EndedJobs {
    pub fn with_limits(limits: RetentionLimits) -> Self {
        Self {
            limits,
            expiries: OrdSet::new(),
            by_end: OrdSet::new(),
            bytes: 0,
            users: HashMap::new(),
            users_above_limit: OrdSet::new(),
        }
    }

    pub fn insert(&mut self, job: &Job, ended: &EndedJob) {
        let bytes = estimated_bytes(job);
        self.expiries.insert((ended.until, job.id));
        self.by_end.insert((ended.at, job.id));
        self.bytes += bytes;
        let share = self.users.entry(job.target.user.clone()).or_default();
        share.jobs.insert((ended.at, job.id));
        share.bytes += bytes;
        self.update_user(&job.target.user);
    }

    pub fn remove(&mut self, job: &Job, ended: &EndedJob) {
        if self.expiries.remove(&(ended.until, job.id)).is_none() {
            return;
        }
        let bytes = estimated_bytes(job);
        self.by_end.remove(&(ended.at, job.id));
        self.bytes = self.bytes.saturating_sub(bytes);
        if let Some(share) = self.users.get_mut(&job.target.user) {
            share.jobs.remove(&(ended.at, job.id));
            share.bytes = share.bytes.saturating_sub(bytes);
        }
        self.update_user(&job.target.user);
    }

    fn update_user(&mut self, user: &UserName) {
        let Some(share) = self.users.get(user) else {
            return;
        };
        let is_above = share.jobs.len() > self.limits.jobs_per_user
            || share.bytes > self.limits.bytes_per_user;
        let is_empty = share.jobs.is_empty();
        if is_above {
            self.users_above_limit.insert(user.clone());
        } else {
            self.users_above_limit.remove(user);
        }
        if is_empty {
            self.users.remove(user);
        }
    }

    /// Returns at most `limit` jobs that expire at `now` (milliseconds since 1970): the jobs whose time is over, and
    /// the oldest jobs above the limits. `size` returns the estimated memory of a job in bytes.
    pub fn expired(&self, now: u64, limit: usize, size: impl Fn(JobId) -> u64) -> Vec<JobId> {
        let mut expired: Vec<JobId> = self
            .expiries
            .iter()
            .take_while(|(until, _)| *until <= now)
            .take(limit)
            .map(|(_, id)| *id)
            .collect();
        for share in self
            .users_above_limit
            .iter()
            .filter_map(|user| self.users.get(user))
        {
            let jobs = share.jobs.len().saturating_sub(self.limits.jobs_per_user);
            let bytes = share.bytes.saturating_sub(self.limits.bytes_per_user);
            add_oldest(&mut expired, &share.jobs, limit, (jobs, bytes), &size);
        }
        // The jobs that expire anyway make room.
        let expired_bytes: u64 = expired.iter().map(|id| size(*id)).sum();
        let jobs = self
            .by_end
            .len()
            .saturating_sub(self.limits.jobs + expired.len());
        let bytes = self
            .bytes
            .saturating_sub(self.limits.bytes)
            .saturating_sub(expired_bytes);
        add_oldest(&mut expired, &self.by_end, limit, (jobs, bytes), &size);
        expired
    }
}

/// Adds the oldest jobs until the excess, a number of jobs and of bytes, is gone.
fn add_oldest(
    expired: &mut Vec<JobId>,
    jobs_by_end: &OrdSet<(Position, JobId)>,
    limit: usize,
    (mut excess_jobs, mut excess_bytes): (usize, u64),
    size: &impl Fn(JobId) -> u64,
) {
    for (_, id) in jobs_by_end {
        if (excess_jobs == 0 && excess_bytes == 0) || expired.len() >= limit {
            return;
        }
        if expired.contains(id) {
            continue;
        }
        expired.push(*id);
        excess_jobs = excess_jobs.saturating_sub(1);
        excess_bytes = excess_bytes.saturating_sub(size(*id));
    }
}

/// Returns the estimated memory of an ended job in bytes. Names count in full, although jobs share them.
pub fn estimated_bytes(job: &Job) -> u64 {
    let server = job
        .target
        .server
        .as_ref()
        .map_or(0, |name| name.as_str().len());
    let tool = job
        .target
        .tool
        .as_ref()
        .map_or(0, |name| name.as_str().len());
    let names = job.target.user.as_str().len() + job.target.command.len() + server + tool;
    JOB_BYTES + names as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ids::ValueId;
    use crate::core::model::job::JobTarget;
    use crate::core::model::job::{JobStage, JobState};
    use std::sync::Arc;
    use uuid::Uuid;

    const LIMITS: RetentionLimits = RetentionLimits {
        jobs_per_user: 3,
        bytes_per_user: u64::MAX,
        jobs: 5,
        bytes: u64::MAX,
    };

    fn ended(at: u64, until: u64) -> EndedJob {
        EndedJob {
            state: JobState::Succeeded,
            attempts: 1,
            answer: Some(ValueId(Uuid::nil())),
            until,
            at: Position(at),
        }
    }

    /// A job that ends at the position of its number.
    fn job(number: u64, user: &str, until: u64) -> Job {
        Job {
            id: JobId(Uuid::from_u128(number.into())),
            target: Arc::new(JobTarget {
                user: user.parse().expect("a name"),
                command: "tools.call".into(),
                server: None,
                tool: None,
            }),
            arguments: ValueId(Uuid::nil()),
            key: None,
            stage: JobStage::Ended(Box::new(ended(number, until))),
        }
    }

    fn table(limits: RetentionLimits, jobs: &[Job]) -> EndedJobs {
        let mut table = EndedJobs::with_limits(limits);
        for job in jobs {
            table.insert(job, job.ended().expect("an ended job"));
        }
        table
    }

    fn expired(table: &EndedJobs, now: u64, limit: usize) -> Vec<u128> {
        let ids = table.expired(now, limit, |_| JOB_BYTES + 13);
        ids.iter().map(|id| id.0.as_u128()).collect()
    }

    #[test]
    fn a_job_expires_at_its_time() {
        let table = table(LIMITS, &[job(1, "ana", 20), job(2, "ana", 10)]);
        assert_eq!(expired(&table, 9, 9), [0u128; 0]);
        assert_eq!(expired(&table, 10, 9), [2]);
        assert_eq!(expired(&table, 20, 1), [2]);
    }

    #[test]
    fn the_jobs_of_a_user_above_the_limit_that_ended_first_expire() {
        let jobs: Vec<_> = (1..=5)
            .map(|number| job(number, "ana", 100 - number))
            .collect();
        assert_eq!(expired(&table(LIMITS, &jobs), 0, 9), [1, 2]);
        assert_eq!(expired(&table(LIMITS, &jobs), 0, 1), [1]);
    }

    #[test]
    fn a_user_below_the_limit_loses_no_job_to_another_user() {
        let mut jobs: Vec<_> = (1..=2).map(|number| job(number, "ben", 99)).collect();
        jobs.extend((3..=6).map(|number| job(number, "ana", 99)));
        assert_eq!(expired(&table(LIMITS, &jobs), 0, 9), [3]);
    }

    #[test]
    fn the_oldest_jobs_of_all_users_expire_above_the_total_limit() {
        let jobs: Vec<_> = (1..=7)
            .map(|number| job(number, &format!("user-{}", number % 3), 99))
            .collect();
        assert_eq!(expired(&table(LIMITS, &jobs), 0, 9), [1, 2]);
    }

    #[test]
    fn a_job_that_expires_anyway_makes_room_for_another_one() {
        let mut jobs: Vec<_> = (1..=5)
            .map(|number| job(number, &format!("user-{}", number % 3), 99))
            .collect();
        jobs.push(job(6, "user-0", 1));
        assert_eq!(expired(&table(LIMITS, &jobs), 1, 9), [6]);
    }

    #[test]
    fn the_limits_count_bytes_too() {
        let limits = RetentionLimits {
            bytes_per_user: 2 * (JOB_BYTES + 13),
            ..LIMITS
        };
        let jobs: Vec<_> = (1..=3).map(|number| job(number, "ana", 99)).collect();
        assert_eq!(estimated_bytes(&jobs[0]), JOB_BYTES + 13);
        assert_eq!(expired(&table(limits, &jobs), 0, 9), [1]);
    }

    #[test]
    fn removed_jobs_count_no_more() {
        let jobs: Vec<_> = (1..=4).map(|number| job(number, "ana", 99)).collect();
        let mut table = table(LIMITS, &jobs);
        for job in &jobs {
            table.remove(job, job.ended().expect("an ended job"));
            table.remove(job, job.ended().expect("an ended job"));
            assert_eq!(expired(&table, 0, 9), [0u128; 0]);
        }
        assert!(table.users.is_empty() && table.by_end.is_empty() && table.bytes == 0);
    }
}
