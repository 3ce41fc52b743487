//! All jobs in the catalog: waiting jobs, running jobs, and ended jobs whose answers have not expired.

use std::borrow::Cow;
use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};

use super::ended_jobs::{EndedJobs, estimated_bytes};
use super::scheduler::FairScheduler;
use crate::core::command::lookup;
use crate::core::event::{
    JobAccepted, JobCancelRequested, JobExpired, JobFinished, JobProgressed, JobRequeued,
    JobStarted,
};
use crate::core::ids::{Digest, JobId, Position, ValueId, WorkerId};
use crate::core::model::job::{EndedJob, Job, JobStage, JobState, JobTarget, RunningJob};
use crate::core::names::ServerName;

/// All jobs, by id, worker, key and expiry.
#[derive(Debug, Clone, Default)]
pub struct JobTable {
    jobs: OrdMap<JobId, Arc<Job>>,
    pub(in crate::core) scheduler: FairScheduler,
    running_by_worker: HashMap<WorkerId, OrdSet<JobId>>,
    ended: EndedJobs,
    by_key: HashMap<Digest, JobId>,
    /// The targets of all jobs, and the number of jobs of each.
    targets: HashMap<Arc<JobTarget>, u32>,
    /// The number of cancellation requests so far. A worker compares it to notice a new request.
    pub cancels: u64,
}

impl JobTable {
    pub fn get(&self, id: JobId) -> Option<&Arc<Job>> {
        self.jobs.get(&id)
    }

    /// Returns all jobs, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(AsRef::as_ref)
    }

    /// Returns all jobs, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.values().rev()
    }

    /// Returns the jobs that were accepted before the job `id`, the newest first.
    pub fn before(&self, id: JobId) -> impl Iterator<Item = &Arc<Job>> {
        self.jobs.range(..id).rev().map(|(_, job)| job)
    }

    /// Returns the number of waiting jobs.
    pub fn waiting(&self) -> usize {
        self.scheduler.waiting()
    }

    /// Returns the number of waiting jobs of a user.
    pub fn waiting_for_user(&self, user: &str) -> usize {
        self.scheduler.waiting_for_user(user)
    }

    /// Returns the number of running jobs.
    pub fn running(&self) -> usize {
        self.running_by_worker.values().map(OrdSet::len).sum()
    }

    /// Returns the job that was accepted under an idempotency key.
    pub fn find_by_key(&self, scope: Digest) -> Option<&Arc<Job>> {
        self.by_key.get(&scope).and_then(|id| self.get(*id))
    }

    /// Returns the workers that run jobs.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.running_by_worker.keys().copied()
    }

    /// Returns the running jobs of a worker, the oldest first.
    pub fn running_on(&self, worker: WorkerId) -> impl Iterator<Item = &Arc<Job>> {
        self.running_by_worker
            .get(&worker)
            .into_iter()
            .flatten()
            .filter_map(|id| self.get(*id))
    }

    /// Returns at most `limit` ended jobs that expire at `now` (milliseconds since 1970): the jobs whose time is over,
    /// and the oldest jobs above the limits of [`super::ended_jobs::RETENTION`].
    pub fn expired(&self, now: u64, limit: usize) -> Vec<JobId> {
        let size = |id| self.get(id).map_or(0, |job| estimated_bytes(job));
        self.ended.expired(now, limit, size)
    }

    /// Returns the ids of all values of jobs that the Vault must keep.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.jobs.values().flat_map(|job| job.values())
    }

    /// Folds an accepted job. `server` is the server name that the catalog already holds, so that jobs share its text.
    pub fn accept(&mut self, event: &JobAccepted, server: Option<ServerName>) {
        let target = JobTarget {
            user: event.user.clone(),
            command: interned_command(&event.command),
            server,
            tool: event.tool.clone(),
        };
        let job = Job {
            id: event.job,
            target: self.shared_target(target),
            arguments: event.arguments,
            key: event.key.map(Box::new),
            stage: JobStage::Waiting { attempts: 0 },
        };
        self.insert(job);
    }

    /// Restores a job from a snapshot. `server` is the server name that the catalog already holds. The snapshot does
    /// not store the turns of users, so all users start with equal turns.
    pub fn restore(&mut self, mut job: Job, server: Option<ServerName>) {
        let target = JobTarget {
            user: job.target.user.clone(),
            command: interned_command(&job.target.command),
            server: server.or_else(|| job.target.server.clone()),
            tool: job.target.tool.clone(),
        };
        job.target = self.shared_target(target);
        self.insert(job);
    }

    /// Returns the copy of a target that other jobs hold. A new target shares the user name of the scheduler.
    fn shared_target(&self, mut target: JobTarget) -> Arc<JobTarget> {
        if let Some((shared, _)) = self.targets.get_key_value(&target) {
            return shared.clone();
        }
        target.user = self.scheduler.shared_user(&target.user);
        Arc::new(target)
    }

    fn insert(&mut self, job: Job) {
        *self.targets.entry(job.target.clone()).or_default() += 1;
        match &job.stage {
            JobStage::Waiting { .. } => self.scheduler.enqueue(&job),
            JobStage::Running(running) => {
                self.scheduler.count_running(&job);
                self.running_by_worker
                    .entry(running.worker)
                    .or_default()
                    .insert(job.id);
            }
            JobStage::Ended(ended) => self.ended.insert(&job, ended),
        }
        if let Some(key) = &job.key {
            self.by_key.insert(key.request.scope, job.id);
        }
        self.jobs.insert(job.id, Arc::new(job));
    }

    pub fn start(&mut self, event: &JobStarted) {
        let Some(job) = self.jobs.get_mut(&event.job) else {
            return;
        };
        if !matches!(job.stage, JobStage::Waiting { .. }) {
            return;
        }
        self.scheduler.mark_running(job);
        let running = RunningJob {
            worker: event.worker,
            attempt: event.attempt,
            cancelled: false,
            progress: None,
        };
        Arc::make_mut(job).stage = JobStage::Running(Box::new(running));
        self.running_by_worker
            .entry(event.worker)
            .or_default()
            .insert(event.job);
    }

    pub fn set_progress(&mut self, event: &JobProgressed) {
        self.change_running(event.job, |running| {
            running.progress = Some(event.progress.clone());
        });
    }

    pub fn request_cancellation(&mut self, event: &JobCancelRequested) {
        self.cancels += 1;
        self.change_running(event.job, |running| running.cancelled = true);
    }

    fn change_running(&mut self, id: JobId, change: impl FnOnce(&mut RunningJob)) {
        if let Some(job) = self.jobs.get_mut(&id)
            && let JobStage::Running(running) = &mut Arc::make_mut(job).stage
        {
            change(running);
        }
    }

    pub fn requeue(&mut self, event: &JobRequeued) {
        let Some(job) = self.take_from_worker(event.job) else {
            return;
        };
        let attempts = job.attempts();
        Arc::make_mut(job).stage = JobStage::Waiting { attempts };
        let job = job.clone();
        self.scheduler.enqueue(&job);
    }

    /// Folds the end of a job. `position` is the position of the event.
    pub fn finish(&mut self, event: &JobFinished, position: Position) {
        match self.jobs.get(&event.job).map(|job| job.state()) {
            Some(JobState::Waiting) => {
                self.scheduler.remove(&self.jobs[&event.job]);
            }
            Some(JobState::Running) => {
                self.take_from_worker(event.job);
            }
            _ => return,
        }
        let Some(job) = self.jobs.get_mut(&event.job) else {
            return;
        };
        let ended = EndedJob {
            state: event.state,
            attempts: job.attempts(),
            answer: event.answer,
            until: event.until,
            at: position,
        };
        self.ended.insert(job, &ended);
        Arc::make_mut(job).stage = JobStage::Ended(Box::new(ended));
    }

    /// Removes a running job from its worker and from the counters of running jobs.
    fn take_from_worker(&mut self, id: JobId) -> Option<&mut Arc<Job>> {
        let job = self.jobs.get_mut(&id)?;
        let JobStage::Running(running) = &job.stage else {
            return None;
        };
        if let Some(jobs_of_worker) = self.running_by_worker.get_mut(&running.worker) {
            jobs_of_worker.remove(&id);
            if jobs_of_worker.is_empty() {
                self.running_by_worker.remove(&running.worker);
            }
        }
        self.scheduler.mark_stopped(job);
        Some(job)
    }

    pub fn expire(&mut self, event: &JobExpired) {
        for id in &event.jobs {
            if let Some(job) = self.jobs.remove(id) {
                self.remove_references(&job);
            }
        }
    }

    fn remove_references(&mut self, job: &Job) {
        if let Some(count) = self.targets.get_mut(&job.target) {
            *count -= 1;
            if *count == 0 {
                self.targets.remove(&job.target);
            }
        }
        match &job.stage {
            JobStage::Ended(ended) => self.ended.remove(job, ended),
            JobStage::Waiting { .. } => {
                self.scheduler.remove(job);
            }
            JobStage::Running(_) => {}
        }
        if let Some(key) = &job.key
            && self.by_key.get(&key.request.scope) == Some(&job.id)
        {
            self.by_key.remove(&key.request.scope);
        }
    }
}

/// Returns the program's own copy of a command name, or an owned copy of a name that the program does not know.
fn interned_command(name: &str) -> Cow<'static, str> {
    match lookup(name) {
        Some((name, ..)) => Cow::Borrowed(name),
        None => Cow::Owned(name.to_owned()),
    }
}
