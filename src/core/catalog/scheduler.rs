//! The fair order of jobs: users take turns, so that the jobs of one user do not delay the next job of another user.
//!
//! A queue holds the waiting jobs of one user in one area for one server. Users and servers have limits on their
//! running jobs, so that a slow server or a busy user holds no more than its share.

use imbl::{HashMap, OrdMap, OrdSet, Vector};

use crate::core::command::{Area, lookup};
use crate::core::ids::JobId;
use crate::core::model::job::Job;
use crate::core::names::{ServerName, UserName};

/// The number of jobs that may run at once in the whole cluster.
#[derive(Debug, Clone, Copy)]
pub struct ConcurrencyLimits {
    pub per_user: usize,
    pub per_server: usize,
}

impl ConcurrencyLimits {
    /// Returns the limit of a queue. The package jobs of one server run one after another.
    fn for_queue(&self, queue: &QueueKey) -> usize {
        match queue {
            QueueKey {
                area: Some(Area::Packages),
                server: Some(_),
            } => 1,
            _ => self.per_server,
        }
    }
}

/// Identifies the jobs of one area for one server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueKey {
    area: Option<Area>,
    server: Option<ServerName>,
}

impl QueueKey {
    pub fn for_job(job: &Job) -> Self {
        Self {
            area: job_area(job),
            server: job.target.server.clone(),
        }
    }
}

/// Returns the area of a job's command, or `None` if only a newer version of the program knows the command.
pub fn job_area(job: &Job) -> Option<Area> {
    lookup(&job.target.command).map(|(_, area, _)| area)
}

/// The turn and the job counts of one user.
#[derive(Debug, Clone, Copy, Default)]
struct UserShare {
    /// The user with the smallest turn is next.
    turn: u64,
    waiting: u32,
    running: u32,
}

/// The waiting jobs, and the numbers of running jobs.
#[derive(Debug, Clone, Default)]
pub struct FairScheduler {
    /// The number of jobs that have started.
    started: u64,
    users: HashMap<UserName, UserShare>,
    /// The users with waiting jobs, in the order of their turns.
    turns: OrdSet<(u64, UserName)>,
    /// The waiting jobs of each queue of each user, the oldest first.
    backlog: OrdMap<(UserName, QueueKey), Vector<JobId>>,
    waiting: usize,
    running: HashMap<QueueKey, u32>,
}

impl FairScheduler {
    /// Returns the number of waiting jobs.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Returns the number of waiting jobs of a user.
    pub fn waiting_for_user(&self, user: &str) -> usize {
        self.users
            .get(user)
            .map_or(0, |share| share.waiting as usize)
    }

    /// Returns the copy of the user name that the scheduler holds, so that all jobs of a user share one text.
    pub fn shared_user(&self, user: &UserName) -> UserName {
        self.users
            .get_key_value(user)
            .map_or(user, |(shared, _)| shared)
            .clone()
    }

    /// Adds a waiting job.
    pub fn enqueue(&mut self, job: &Job) {
        let started = self.started;
        let share = self.users.entry(job.target.user.clone()).or_default();
        if share.waiting == 0 {
            // This turn comes after the turns of waiting users and before the turn of the user who was served last.
            share.turn = 2 * started;
            self.turns.insert((share.turn, job.target.user.clone()));
        }
        share.waiting += 1;
        self.waiting += 1;
        let queue = self
            .backlog
            .entry((job.target.user.clone(), QueueKey::for_job(job)))
            .or_default();
        // A new job is nearly always the newest job of its queue.
        match queue.last() {
            Some(last) if *last >= job.id => {
                if let Err(index) = queue.binary_search(&job.id) {
                    queue.insert(index, job.id);
                }
            }
            _ => queue.push_back(job.id),
        }
    }

    /// Removes a waiting job. Returns false if the job did not wait.
    pub fn remove(&mut self, job: &Job) -> bool {
        let key = (job.target.user.clone(), QueueKey::for_job(job));
        let Some(queue) = self.backlog.get_mut(&key) else {
            return false;
        };
        let Ok(index) = queue.binary_search(&job.id) else {
            return false;
        };
        if index == 0 {
            // The next job is usually the first job, and `pop_front` is cheaper than `remove`.
            queue.pop_front();
        } else {
            queue.remove(index);
        }
        if queue.is_empty() {
            self.backlog.remove(&key);
        }
        self.waiting -= 1;
        if let Some(share) = self.users.get_mut(&job.target.user) {
            share.waiting -= 1;
            if share.waiting == 0 {
                self.turns.remove(&(share.turn, job.target.user.clone()));
            }
        }
        self.remove_idle_user(&job.target.user);
        true
    }

    /// Moves a waiting job to the running jobs. Its user gets the last turn.
    pub fn mark_running(&mut self, job: &Job) {
        if !self.remove(job) {
            return;
        }
        self.started += 1;
        let share = self.users.entry(job.target.user.clone()).or_default();
        share.running += 1;
        if share.waiting > 0 {
            self.turns.remove(&(share.turn, job.target.user.clone()));
            share.turn = 2 * self.started + 1;
            self.turns.insert((share.turn, job.target.user.clone()));
        }
        *self.running.entry(QueueKey::for_job(job)).or_default() += 1;
    }

    /// Removes a running job.
    pub fn mark_stopped(&mut self, job: &Job) {
        let queue = QueueKey::for_job(job);
        if let Some(running) = self.running.get_mut(&queue) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&queue);
            }
        }
        if let Some(share) = self.users.get_mut(&job.target.user) {
            share.running = share.running.saturating_sub(1);
        }
        self.remove_idle_user(&job.target.user);
    }

    /// Adds a running job that a snapshot holds.
    pub fn count_running(&mut self, job: &Job) {
        self.users
            .entry(job.target.user.clone())
            .or_default()
            .running += 1;
        *self.running.entry(QueueKey::for_job(job)).or_default() += 1;
    }

    fn remove_idle_user(&mut self, user: &UserName) {
        if self
            .users
            .get(user)
            .is_some_and(|share| share.waiting == 0 && share.running == 0)
        {
            self.users.remove(user);
        }
    }

    /// Returns the next job of one of `areas` that the limits allow and `accepts` accepts: the oldest job of the user
    /// whose turn it is.
    pub fn next_job(
        &self,
        areas: &[Area],
        limits: &ConcurrencyLimits,
        accepts: &impl Fn(JobId) -> bool,
    ) -> Option<JobId> {
        let is_open = |queue: &QueueKey| {
            let running = self.running.get(queue).map_or(0, |count| *count as usize);
            queue.area.is_some_and(|area| areas.contains(&area))
                && running < limits.for_queue(queue)
        };
        self.turns
            .iter()
            .filter(|(_, user)| {
                self.users
                    .get(user)
                    .is_some_and(|share| (share.running as usize) < limits.per_user)
            })
            .find_map(|(_, user)| {
                self.oldest_per_queue(user)
                    .filter(|(queue, oldest)| is_open(queue) && accepts(*oldest))
                    .map(|(_, oldest)| oldest)
                    .min()
            })
    }

    /// Returns the oldest job of each queue of a user.
    fn oldest_per_queue<'a>(
        &'a self,
        user: &'a UserName,
    ) -> impl Iterator<Item = (&'a QueueKey, JobId)> {
        let smallest_key = QueueKey {
            area: None,
            server: None,
        };
        self.backlog
            .range((user.clone(), smallest_key)..)
            .take_while(move |((queue_user, _), _)| queue_user == user)
            .filter_map(|((_, queue), jobs)| Some((queue, *jobs.front()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::command::Command;
    use crate::core::ids::ValueId;
    use crate::core::model::job::JobStage;
    use crate::core::model::job::JobTarget;
    use crate::core::model::tool_call::CallTool;
    use std::sync::Arc;
    use uuid::Uuid;

    const LIMITS: ConcurrencyLimits = ConcurrencyLimits {
        per_user: 4,
        per_server: 3,
    };

    fn job(number: u128, user: &str, server: &str) -> Job {
        Job {
            id: JobId(Uuid::from_u128(number)),
            target: Arc::new(JobTarget {
                user: user.parse().expect("a name"),
                command: CallTool::NAME.into(),
                server: Some(server.parse().expect("a name")),
                tool: None,
            }),
            arguments: ValueId(Uuid::nil()),
            key: None,
            stage: JobStage::Waiting { attempts: 0 },
        }
    }

    fn enqueue_all(scheduler: &mut FairScheduler, jobs: &[Job]) {
        for job in jobs {
            scheduler.enqueue(job);
        }
    }

    /// Starts at most `most` jobs and returns their numbers in the order of their starts.
    fn start_all(scheduler: &mut FairScheduler, jobs: &[Job], most: usize) -> Vec<u128> {
        let mut started = Vec::new();
        while started.len() < most {
            let Some(next) = scheduler.next_job(&[Area::Tools], &LIMITS, &|_| true) else {
                break;
            };
            scheduler.mark_running(jobs.iter().find(|job| job.id == next).expect("a job"));
            started.push(next.0.as_u128());
        }
        started
    }

    #[test]
    fn users_take_turns_regardless_of_their_numbers_of_jobs() {
        let mut jobs: Vec<_> = (1..=100)
            .map(|n| job(n, "much", &format!("s{}", n % 50)))
            .collect();
        jobs.extend([
            job(101, "little", "s1"),
            job(102, "little", "s2"),
            job(103, "other", "s3"),
        ]);
        let mut scheduler = FairScheduler::default();
        enqueue_all(&mut scheduler, &jobs);
        assert_eq!(start_all(&mut scheduler, &jobs, 5), [101, 1, 103, 102, 2]);
        // A new user is served before the users who were served already.
        let late = job(104, "late", "s4");
        scheduler.enqueue(&late);
        jobs.push(late);
        assert_eq!(start_all(&mut scheduler, &jobs, 1), [104]);
    }

    #[test]
    fn a_slow_server_and_a_busy_user_hold_no_more_than_their_limits() {
        let mut jobs: Vec<_> = (1..=9).map(|n| job(n, "a", "slow")).collect();
        jobs.extend((11..=19).map(|n| job(n, "b", "slow")));
        jobs.extend((21..=29).map(|n| job(n, "a", "quick")));
        let mut scheduler = FairScheduler::default();
        enqueue_all(&mut scheduler, &jobs);
        let started = start_all(&mut scheduler, &jobs, 99);
        assert_eq!(
            started.iter().filter(|n| **n < 20).count(),
            3,
            "the limit of a server: {started:?}"
        );
        assert_eq!(
            started.iter().filter(|n| **n < 10 || **n > 20).count(),
            4,
            "the limit of a user: {started:?}"
        );
        let first = jobs
            .iter()
            .find(|job| job.id.0.as_u128() == started[0])
            .expect("a job");
        scheduler.mark_stopped(first);
        let reason = "an ended job frees one place of its server and one place of its user";
        assert_eq!(start_all(&mut scheduler, &jobs, 99), [12, 23], "{reason}");
    }

    #[test]
    fn the_package_jobs_of_one_server_run_one_after_another() {
        let limit = |area, server: Option<&str>| {
            LIMITS.for_queue(&QueueKey {
                area: Some(area),
                server: server.map(|name| name.parse().expect("a name")),
            })
        };
        assert_eq!(limit(Area::Packages, Some("a")), 1);
        assert_eq!(
            (limit(Area::Packages, None), limit(Area::Tools, Some("a"))),
            (3, 3)
        );
    }

    #[test]
    fn an_idle_user_leaves_no_data() {
        let mut scheduler = FairScheduler::default();
        let jobs = [job(1, "a", "s"), job(2, "a", "s")];
        enqueue_all(&mut scheduler, &jobs);
        start_all(&mut scheduler, &jobs, 1);
        scheduler.remove(&jobs[1]);
        scheduler.mark_stopped(&jobs[0]);
        assert!(
            scheduler.users.is_empty()
                && scheduler.turns.is_empty()
                && scheduler.backlog.is_empty()
                && scheduler.running.is_empty()
        );
    }
}
