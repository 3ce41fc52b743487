//! All jobs there are, folded from the log: those that wait, run, or have an answer that is still kept.

use std::sync::Arc;

use imbl::{HashMap, OrdMap, OrdSet};

use super::scheduler::FairScheduler;
use crate::core::event::{
    JobAccepted, JobCancelRequested, JobExpired, JobFinished, JobProgressed, JobRequeued,
    JobStarted,
};
use crate::core::ids::{Digest, JobId, ValueId, WorkerId};
use crate::core::model::job::{EndedJob, Job, JobStage, JobState, RunningJob, interned};
use crate::core::names::{ServerName, ToolName};

#[derive(Debug, Clone, Default)]
pub struct JobTable {
    all: OrdMap<JobId, Arc<Job>>,
    pub(in crate::core) line: FairScheduler,
    /// What each worker has.
    running: HashMap<WorkerId, OrdSet<JobId>>,
    /// When the answers of those that have ended expire.
    ends: OrdSet<(u64, JobId)>,
    keys: HashMap<Digest, JobId>,
    /// The tools that jobs name, and how many do: many jobs share one text.
    tools: HashMap<ToolName, u32>,
    /// How often somebody wanted a running job to stop.
    pub cancels: u64,
}

impl JobTable {
    pub fn get(&self, id: JobId) -> Option<&Arc<Job>> {
        self.all.get(&id)
    }

    /// All of them, the newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Job>> {
        self.all.values().rev()
    }

    /// Those that were accepted before that one, the newest first.
    pub fn before(&self, id: JobId) -> impl Iterator<Item = &Arc<Job>> {
        self.all.range(..id).rev().map(|(_, job)| job)
    }

    pub fn waiting(&self) -> usize {
        self.line.waiting()
    }

    pub fn waiting_of(&self, user: &str) -> usize {
        self.line.waiting_of(user)
    }

    pub fn running(&self) -> usize {
        self.running.values().map(OrdSet::len).sum()
    }

    pub fn of_key(&self, scope: Digest) -> Option<&Arc<Job>> {
        self.keys.get(&scope).and_then(|id| self.get(*id))
    }

    /// The workers that have jobs.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.running.keys().copied()
    }

    /// What a worker has, the oldest first.
    pub fn of_worker(&self, worker: WorkerId) -> impl Iterator<Item = &Arc<Job>> {
        self.running
            .get(&worker)
            .into_iter()
            .flatten()
            .filter_map(|id| self.get(*id))
    }

    /// Those whose answers have expired by then, `limit` at most.
    pub fn expired(&self, now: u64, limit: usize) -> Vec<JobId> {
        let expired = self.ends.iter().take_while(|(until, _)| *until <= now);
        expired.take(limit).map(|(_, id)| *id).collect()
    }

    /// Everything in the Vault that jobs name.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.all.values().flat_map(|job| job.values())
    }

    /// `server` is the name as the catalogue keeps it.
    pub fn accepted(&mut self, e: &JobAccepted, server: Option<ServerName>) {
        let job = Job {
            id: e.job,
            user: self.line.user(&e.user),
            command: interned(&e.command),
            server,
            tool: e.tool.as_ref().map(|tool| self.tool(tool)),
            arguments: e.arguments,
            key: e.key.map(Box::new),
            stage: JobStage::Waiting { attempts: 0 },
        };
        self.insert(job);
    }

    /// The tool's name as it is kept here already.
    fn tool(&self, tool: &ToolName) -> ToolName {
        self.tools
            .get_key_value(tool)
            .map_or(tool, |(known, _)| known)
            .clone()
    }

    fn insert(&mut self, job: Job) {
        if let Some(tool) = &job.tool {
            *self.tools.entry(tool.clone()).or_default() += 1;
        }
        match &job.stage {
            JobStage::Waiting { .. } => self.line.enqueue(&job),
            JobStage::Running(run) => {
                self.line.count_running(&job);
                self.running.entry(run.worker).or_default().insert(job.id);
            }
            JobStage::Ended(ended) => drop(self.ends.insert((ended.until, job.id))),
        }
        if let Some(key) = &job.key {
            self.keys.insert(key.request.scope, job.id);
        }
        self.all.insert(job.id, Arc::new(job));
    }

    pub fn started(&mut self, e: &JobStarted) {
        let Some(job) = self.all.get_mut(&e.job) else {
            return;
        };
        if !matches!(job.stage, JobStage::Waiting { .. }) {
            return;
        }
        self.line.mark_running(job);
        let run = RunningJob {
            worker: e.worker,
            attempt: e.attempt,
            cancelled: false,
            progress: None,
        };
        Arc::make_mut(job).stage = JobStage::Running(Box::new(run));
        self.running.entry(e.worker).or_default().insert(e.job);
    }

    pub fn progressed(&mut self, e: &JobProgressed) {
        self.change_run(e.job, |run| run.progress = Some(e.progress.clone()));
    }

    pub fn cancel_requested(&mut self, e: &JobCancelRequested) {
        self.cancels += 1;
        self.change_run(e.job, |run| run.cancelled = true);
    }

    fn change_run(&mut self, id: JobId, with: impl FnOnce(&mut RunningJob)) {
        if let Some(job) = self.all.get_mut(&id)
            && let JobStage::Running(run) = &mut Arc::make_mut(job).stage
        {
            with(run);
        }
    }

    pub fn returned(&mut self, e: &JobRequeued) {
        let Some(job) = self.take_from_worker(e.job) else {
            return;
        };
        let attempts = job.attempts();
        Arc::make_mut(job).stage = JobStage::Waiting { attempts };
        let job = job.clone();
        self.line.enqueue(&job);
    }

    pub fn finished(&mut self, e: &JobFinished) {
        match self.all.get(&e.job).map(|job| job.state()) {
            Some(JobState::Waiting) => {
                let job = self.all[&e.job].clone();
                self.line.remove(&job);
            }
            Some(JobState::Running) => drop(self.take_from_worker(e.job)),
            _ => return,
        }
        let Some(job) = self.all.get_mut(&e.job) else {
            return;
        };
        let attempts = job.attempts();
        let ended = EndedJob {
            state: e.state,
            attempts,
            answer: e.answer,
            until: e.until,
        };
        Arc::make_mut(job).stage = JobStage::Ended(Box::new(ended));
        self.ends.insert((e.until, e.job));
    }

    /// Its worker has it no more.
    fn take_from_worker(&mut self, id: JobId) -> Option<&mut Arc<Job>> {
        let job = self.all.get_mut(&id)?;
        let JobStage::Running(run) = &job.stage else {
            return None;
        };
        if let Some(of_worker) = self.running.get_mut(&run.worker) {
            of_worker.remove(&id);
            if of_worker.is_empty() {
                self.running.remove(&run.worker);
            }
        }
        self.line.mark_stopped(job);
        Some(job)
    }

    pub fn forgotten(&mut self, e: &JobExpired) {
        for id in &e.jobs {
            let Some(job) = self.all.remove(id) else {
                continue;
            };
            if let Some(tool) = &job.tool
                && let Some(jobs) = self.tools.get_mut(tool)
            {
                *jobs -= 1;
                if *jobs == 0 {
                    self.tools.remove(tool);
                }
            }
            match &job.stage {
                JobStage::Ended(ended) => drop(self.ends.remove(&(ended.until, *id))),
                JobStage::Waiting { .. } => drop(self.line.remove(&job)),
                JobStage::Running(_) => {}
            }
            if let Some(key) = &job.key
                && self.keys.get(&key.request.scope) == Some(id)
            {
                self.keys.remove(&key.request.scope);
            }
        }
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Job> {
        self.all.values().map(AsRef::as_ref)
    }

    /// Puts back what was stored with a snapshot; who is next begins anew. `server` is the name as the catalogue
    /// keeps it.
    pub fn put_back(&mut self, mut job: Job, server: Option<ServerName>) {
        job.user = self.line.user(&job.user);
        job.server = server.or(job.server);
        job.tool = job.tool.map(|tool| self.tool(&tool));
        self.insert(job);
    }
}
