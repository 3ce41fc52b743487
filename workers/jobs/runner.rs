//! Claims waiting jobs and executes them.
//!
//! A worker holds one lease for all its jobs. While it holds the lease, no other worker touches these
//! jobs. When the lease ends, the worker drops the jobs that still run, and another worker takes them
//! over (`takeover`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::cleanup::JobCleanup;
use super::execute::{JobExecution, execute_job};
use super::progress::ProgressReporter;
use super::{notify, takeover};
use crate::core::catalog::Catalog;
use crate::core::catalog::job_table::JobTable;
use crate::core::catalog::scheduler::{ConcurrencyLimits, job_area};
use crate::core::command::Area;
use crate::core::decide::job::{ClaimJobs, claim_jobs};
use crate::core::event::{Actor, Event};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, JobId, ValueId, WorkerId};
use crate::core::model::job::{Job, JobStage};
use crate::ports::vault::Sealed;
use crate::telemetry::error::error_chain;
use crate::time::clock::monotonic;
use crate::time::retry::JOB_CLAIM;
use crate::workers::context::Context;

/// The jobs that one worker executes at the same time.
const MAX_CONCURRENT: usize = 256;
/// The jobs that the whole cluster executes at the same time.
const LIMITS: ConcurrencyLimits = ConcurrencyLimits {
    per_user: 128,
    per_server: 64,
};
/// How long a waiting job is left to the worker that it suits best.
const PREFERENCE_TIME: Duration = Duration::from_millis(300);
/// The jobs of one claim whose arguments are read together.
const READ_AHEAD: usize = 32;

/// Executes the jobs of one worker.
pub(crate) struct JobRunner {
    context: Arc<Context>,
    areas: Vec<Area>,
    /// The running jobs, and the tokens that stop them.
    running: Mutex<HashMap<JobId, CancellationToken>>,
    permits: Arc<Semaphore>,
    permit_released: Notify,
    cleanup: JobCleanup,
    draining: CancellationToken,
}

impl JobRunner {
    pub(crate) fn new(
        context: Arc<Context>,
        areas: Vec<Area>,
        draining: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            cleanup: JobCleanup::new(context.clone()),
            context,
            areas,
            running: Mutex::default(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            permit_released: Notify::new(),
            draining,
        })
    }

    /// Claims and executes jobs until the worker drains, and then waits for the running jobs.
    pub(crate) async fn run(self: Arc<Self>) {
        self.spawn_until_drain(takeover::watch(self.context.clone()));
        self.spawn_until_drain(notify::watch(self.context.clone()));
        self.spawn_until_drain(self.cleanup.clone().run());
        let mut catalog_changes = self.context.projection.subscribe();
        let mut preference_ends = tokio::time::interval(PREFERENCE_TIME);
        // Jobs up to this id have waited long enough for the worker that suits them best.
        let mut overdue = JobId(Uuid::nil());
        let mut seen_cancellations = 0;
        let mut store_pauses = JOB_CLAIM.pauses();
        while !self.draining.is_cancelled() {
            if !self.hold_lease().await {
                store_pauses.wait().await;
                continue;
            }
            catalog_changes.borrow_and_update();
            self.stop_cancelled(&mut seen_cancellations);
            let must_retry = self.claim(overdue).await.is_err();
            if must_retry {
                store_pauses.wait().await;
            }
            tokio::select! {
                () = self.draining.cancelled() => {}
                () = self.context.manager.own.ended() => self.stop_all().await,
                () = std::future::ready(()), if must_retry => {}
                _ = catalog_changes.changed() => {}
                () = self.permit_released.notified() => {}
                _ = preference_ends.tick() => overdue = self.newest_job().unwrap_or(overdue),
            }
        }
        let _ = self.permits.acquire_many(MAX_CONCURRENT as u32).await;
        self.cleanup.flush().await;
    }

    fn spawn_until_drain(&self, task: impl Future<Output = ()> + Send + 'static) {
        let draining = self.draining.clone();
        tokio::spawn(draining.run_until_cancelled_owned(task));
    }

    fn newest_job(&self) -> Option<JobId> {
        let catalog = self.context.projection.catalog();
        catalog.jobs.newest_first().next().map(|job| job.id)
    }

    /// Makes sure that this worker holds its lease. Returns `false` if it cannot. A worker that has lost
    /// its lease has lost all its jobs.
    async fn hold_lease(&self) -> bool {
        let manager = &self.context.manager;
        if manager.own.is_held() {
            return true;
        }
        self.stop_all().await;
        let asked = monotonic();
        let ttl = manager.limits.lease_ttl;
        let acquired = manager
            .leases
            .acquire(manager.own_id(), manager.worker, ttl)
            .await;
        match acquired {
            Ok(Some(token)) => {
                manager.own.start(asked, ttl, token);
                takeover::take_over(&self.context, manager.worker).await
            }
            Ok(None) => false,
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot acquire the lease for jobs; retrying"
                );
                false
            }
        }
    }

    /// Stops all running jobs, and waits until they have stopped.
    async fn stop_all(&self) {
        for (_, stop) in self.running.lock().drain() {
            stop.cancel();
        }
        let _ = self.permits.acquire_many(MAX_CONCURRENT as u32).await;
    }

    /// Claims and starts as many jobs as there are permits.
    ///
    /// # Errors
    /// Fails if the store is unavailable. The caller must retry.
    async fn claim(self: &Arc<Self>, overdue: JobId) -> Result<(), Failure> {
        let context = &self.context;
        let free = self.permits.available_permits();
        if free == 0 || context.projection.catalog().jobs.waiting() == 0 {
            return Ok(());
        }
        let claim = ClaimJobs {
            worker: context.manager.worker,
            areas: self.areas.clone(),
            places: free,
            limits: LIMITS,
        };
        let claim_context = context.clone();
        let decide = move |catalog: &Catalog| {
            claim_jobs(catalog, &claim, &|job| {
                is_for_this_worker(&claim_context, job, overdue)
            })
        };
        // The waiting jobs usually suit other workers, and then nothing is appended.
        let expected = decide(&context.projection.catalog());
        if expected.is_empty() {
            return Ok(());
        }
        let claiming =
            context
                .appender
                .commit(CommandId(Uuid::now_v7()), Actor::worker(), move |catalog| {
                    Ok(decide(catalog))
                });
        // The store reads the arguments while it appends the claim.
        let (committed, arguments) = tokio::join!(claiming, self.read_arguments(&expected));
        self.start_claimed(&committed?.events, arguments);
        Ok(())
    }

    /// Reads the sealed arguments of the first jobs of a claim. A job whose arguments are not found here reads them itself.
    async fn read_arguments(&self, claim: &[Event]) -> HashMap<ValueId, Sealed> {
        let jobs = claim.iter().filter_map(|event| match event {
            Event::JobStarted(started) => self.job(started.job),
            _ => None,
        });
        let ids: Vec<_> = jobs.map(|job| job.arguments).take(READ_AHEAD).collect();
        let found = self.context.vault.get(&ids).await.unwrap_or_default();
        let found = ids.into_iter().zip(found);
        found
            .filter_map(|(id, sealed)| Some((id, sealed?)))
            .collect()
    }

    fn start_claimed(self: &Arc<Self>, events: &[Event], mut arguments: HashMap<ValueId, Sealed>) {
        for event in events {
            if let Event::JobStarted(started) = event
                && let Some(job) = self.job(started.job)
                && let Ok(permit) = self.permits.clone().try_acquire_owned()
            {
                let sealed = arguments.remove(&job.arguments);
                self.clone().start(job, started.attempt, sealed, permit);
            }
        }
    }

    fn job(&self, id: JobId) -> Option<Arc<Job>> {
        self.context.projection.catalog().jobs.get(id).cloned()
    }

    fn start(
        self: Arc<Self>,
        job: Arc<Job>,
        attempt: u32,
        sealed: Option<Sealed>,
        permit: OwnedSemaphorePermit,
    ) {
        let id = job.id;
        let stop = CancellationToken::new();
        self.running.lock().insert(id, stop.clone());
        let execution = JobExecution {
            progress: Arc::new(ProgressReporter::start(&self.context, id, attempt)),
            job,
            attempt,
            stop,
            draining: self.draining.clone(),
        };
        tokio::spawn(async move {
            execute_job(&self.context, &self.cleanup, &execution, sealed).await;
            self.running.lock().remove(&id);
            drop(permit);
            self.permit_released.notify_one();
        });
    }

    /// Stops the jobs that users have cancelled since the last look.
    fn stop_cancelled(&self, seen_cancellations: &mut u64) {
        let catalog = self.context.projection.catalog();
        if *seen_cancellations == catalog.jobs.cancels {
            return;
        }
        *seen_cancellations = catalog.jobs.cancels;
        for (id, stop) in self.running.lock().iter() {
            if is_cancelled(&catalog.jobs, *id) {
                stop.cancel();
            }
        }
    }
}

fn is_cancelled(jobs: &JobTable, id: JobId) -> bool {
    let stage = jobs.get(id).map(|job| &job.stage);
    matches!(stage, Some(JobStage::Running(run)) if run.cancelled)
}

/// Returns whether this worker may claim a job. Every worker may claim an overdue job.
fn is_for_this_worker(context: &Context, job: &Job, overdue: JobId) -> bool {
    if context.manager.alone || job.id <= overdue {
        return true;
    }
    let preferred = owner_for_job(context, job).or_else(|| worker_by_turn(context, job));
    preferred.is_none_or(|preferred| preferred == context.manager.worker)
}

/// Returns the owner of the server that a tool call needs.
fn owner_for_job(context: &Context, job: &Job) -> Option<WorkerId> {
    if job_area(job) != Some(Area::Tools) {
        return None;
    }
    let catalog = context.projection.catalog();
    let server = catalog.server(job.target.server.as_ref()?.as_str())?;
    context.manager.registry.owner_of(server.exclusive_id()?)
}

/// Distributes the other jobs over the live workers.
fn worker_by_turn(context: &Context, job: &Job) -> Option<WorkerId> {
    let workers = context.manager.registry.live_workers();
    let turn = job.id.0.as_u128() as usize;
    workers.get(turn % workers.len().max(1)).copied()
}
