//! Carries out jobs: claims what waits, runs it beside the others, and ends it.
//!
//! A worker holds one lease for all its jobs. While it holds it nobody else touches them; when it is over, they
//! are taken over ([`lost`]), and what still runs of them here is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::execute::JobExecution;
use super::progress::ProgressReporter;
use crate::core::catalog::Catalog;
use crate::core::catalog::job_table::JobTable;
use crate::core::catalog::scheduler::ConcurrencyLimits;
use crate::core::command::Area;
use crate::core::decide::job::ClaimJobs;
use crate::core::event::{Actor, Event};
use crate::core::ids::{CommandId, JobId};
use crate::core::model::job::{Job, JobStage};
use crate::workers::context::Context;

/// Jobs under way in one worker.
const AT_ONCE: usize = 256;
/// Jobs under way in the whole cluster.
const BOUNDS: ConcurrencyLimits = ConcurrencyLimits {
    per_user: 128,
    per_server: 64,
};
/// How long a job is left to the worker that is best for it.
const LOOK: Duration = Duration::from_millis(300);
/// The pause after the store did not answer.
const PAUSE: Duration = Duration::from_millis(500);

pub struct JobRunner {
    context: Arc<Context>,
    areas: Vec<Area>,
    /// What runs here, and how it is told to stop.
    running: Mutex<HashMap<JobId, CancellationToken>>,
    places: Arc<Semaphore>,
    freed: Notify,
    tidy: super::cleanup::JobCleanup,
    draining: CancellationToken,
}

impl JobRunner {
    pub fn new(context: Arc<Context>, areas: Vec<Area>, draining: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            tidy: super::cleanup::JobCleanup::new(context.clone()),
            context,
            areas,
            running: Mutex::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            freed: Notify::new(),
            draining,
        })
    }

    /// Works until the worker drains, then waits for what is under way.
    pub async fn run(self: Arc<Self>) {
        tokio::spawn(
            self.draining
                .clone()
                .run_until_cancelled_owned(super::takeover::watch(self.context.clone())),
        );
        tokio::spawn(
            self.draining
                .clone()
                .run_until_cancelled_owned(super::notify::watch(self.context.clone())),
        );
        tokio::spawn(
            self.draining
                .clone()
                .run_until_cancelled_owned(self.tidy.clone().run()),
        );
        let manager = self.context.manager.clone();
        let mut moves = self.context.projection.subscribe();
        let mut look = tokio::time::interval(LOOK);
        // Whoever was better for a job than this worker has had time enough.
        let mut overdue = JobId(Uuid::nil());
        let mut cancels = 0;
        while !self.draining.is_cancelled() {
            if !self.hold_lease().await {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            moves.borrow_and_update();
            self.stop_cancelled(&mut cancels);
            let more = self.claim(overdue).await;
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = manager.own.ended() => self.drop_all().await,
                () = std::future::ready(()), if more => {}
                _ = moves.changed() => {}
                () = self.freed.notified() => {}
                _ = look.tick() => overdue = self.context.projection.catalog().jobs.newest_first().next().map_or(overdue, |job| job.id),
            }
        }
        let _ = self.places.acquire_many(AT_ONCE as u32).await;
        self.tidy.flush().await;
    }

    /// The right to have jobs. Whoever has lost it has lost them all.
    async fn hold_lease(&self) -> bool {
        let manager = &self.context.manager;
        if manager.own.is_held() {
            return true;
        }
        self.drop_all().await;
        let asked = tokio::time::Instant::now();
        match manager
            .leases
            .acquire(manager.own_id(), manager.worker, manager.limits.lease_ttl)
            .await
        {
            Ok(Some(_)) => {
                manager.own.start(asked, manager.limits.lease_ttl);
                super::takeover::take_over(&self.context, manager.worker).await
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(%error, "no job can be taken");
                false
            }
        }
    }

    /// Drops what runs here, and waits until it is gone.
    async fn drop_all(&self) {
        self.running().drain().for_each(|(_, stop)| stop.cancel());
        drop(self.places.acquire_many(AT_ONCE as u32).await);
    }

    /// Claims and starts what there is room for. True: there may be more at once.
    async fn claim(self: &Arc<Self>, overdue: JobId) -> bool {
        let (context, places) = (&self.context, self.places.available_permits());
        if places == 0 || context.projection.catalog().jobs.waiting() == 0 {
            return false;
        }
        let claim = ClaimJobs {
            worker: context.manager.worker,
            areas: self.areas.clone(),
            places,
            bounds: BOUNDS,
        };
        let own = context.clone();
        let decide = move |catalog: &Catalog| {
            crate::core::decide::job::claim_jobs(catalog, &claim, &|job| own.is_mine(job, overdue))
        };
        // Most often somebody else was meant, and nothing is to be written.
        if decide(&context.projection.catalog()).is_empty() {
            return false;
        }
        let id = CommandId(Uuid::now_v7());
        let claimed = context
            .appender
            .commit(id, Actor::Worker, move |catalog| Ok(decide(catalog)))
            .await;
        let Ok(done) = claimed else {
            tokio::time::sleep(PAUSE).await;
            return true;
        };
        for event in done.events.iter() {
            if let Event::JobStarted(started) = event
                && let Some(job) = context.projection.catalog().jobs.get(started.job).cloned()
                && let Ok(place) = self.places.clone().try_acquire_owned()
            {
                self.clone().start(job, started.attempt, place);
            }
        }
        false
    }

    fn start(self: Arc<Self>, job: Arc<Job>, attempt: u32, place: OwnedSemaphorePermit) {
        let (stop, id) = (CancellationToken::new(), job.id);
        self.running().insert(id, stop.clone());
        let running = JobExecution {
            progress: Arc::new(ProgressReporter::start(&self.context, id, attempt)),
            job,
            attempt,
            stop,
            draining: self.draining.clone(),
        };
        tokio::spawn(async move {
            super::execute::execute_job(&self.context, &self.tidy, &running).await;
            self.running().remove(&id);
            drop(place);
            self.freed.notify_one();
        });
    }

    /// Tells those to stop that somebody has cancelled.
    fn stop_cancelled(&self, seen: &mut u64) {
        let catalog = self.context.projection.catalog();
        if std::mem::replace(seen, catalog.jobs.cancels) == catalog.jobs.cancels {
            return;
        }
        let running = self.running();
        running
            .iter()
            .filter(|(id, _)| is_cancelled(&catalog.jobs, **id))
            .for_each(|(_, stop)| stop.cancel());
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, CancellationToken>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_cancelled(jobs: &JobTable, id: JobId) -> bool {
    matches!(jobs.get(id).map(|job| &job.stage), Some(JobStage::Running(run)) if run.cancelled)
}

impl Context {
    /// Whether a job is for this worker: it runs the server, or is the one whose turn it is. What is overdue is
    /// for everybody.
    fn is_mine(&self, job: &Job, overdue: JobId) -> bool {
        if self.manager.alone || job.id <= overdue {
            return true;
        }
        let catalog = self.projection.catalog();
        let server = job
            .server
            .as_ref()
            .and_then(|name| catalog.server(name.as_str()));
        let holder = server
            .and_then(|server| server.held())
            .and_then(|id| self.manager.registry.owner_of(id));
        let best = holder
            .filter(|_| job.area() == Some(Area::Tools))
            .or_else(|| {
                let workers = self.manager.registry.live_workers();
                let turn = job.id.0.as_u128() as usize;
                workers.get(turn % workers.len().max(1)).copied()
            });
        best.is_none_or(|best| best == self.manager.worker)
    }
}
