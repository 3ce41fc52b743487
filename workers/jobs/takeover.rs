//! Takes over the jobs of workers that are gone. A worker that acquires the lease of another worker
//! decides about the jobs of that worker. The lease of a live worker cannot be acquired.

use std::sync::Arc;

use futures::future::join_all;
use uuid::Uuid;

use super::notify;
use crate::core::decide::job as decide;
use crate::core::event::{Actor, Event};
use crate::core::ids::{CommandId, LeaseId, WorkerId};
use crate::telemetry::error::error_chain;
use crate::workers::context::Context;

/// Searches for ever for workers that have jobs and send no reports.
pub(crate) async fn watch(context: Arc<Context>) {
    let manager = &context.manager;
    let mut interval = tokio::time::interval(manager.limits.lease_ttl / 4);
    loop {
        interval.tick().await;
        let live_workers = manager.registry.live_workers();
        let workers_with_jobs: Vec<_> = context.projection.catalog().jobs.workers().collect();
        for worker in workers_with_jobs {
            if worker != manager.worker && !live_workers.contains(&worker) {
                take_over_if_gone(&context, worker).await;
            }
        }
    }
}

/// Takes over the jobs of a worker, if its lease has expired.
async fn take_over_if_gone(context: &Context, worker: WorkerId) {
    let manager = &context.manager;
    let lease = LeaseId::from(worker);
    let ttl = manager.limits.lease_ttl;
    match manager.leases.acquire(lease, manager.worker, ttl).await {
        Ok(Some(_)) => {
            if take_over(context, worker).await {
                tracing::info!(%worker, "jobs taken over from a worker that is gone");
            }
            // A lease that cannot be released expires.
            let _ = manager.leases.release(lease, manager.worker).await;
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(error = error_chain(&error), %worker, "cannot read the lease of a worker; retrying");
        }
    }
}

/// Requeues or ends all jobs of a worker that executes them no more, and notifies the producers of the
/// ended jobs. Returns `false` if the store is unavailable.
pub(crate) async fn take_over(context: &Context, worker: WorkerId) -> bool {
    let until = context.job_client.answer_expiry();
    let committed = context
        .appender
        .commit(
            CommandId(Uuid::now_v7()),
            Actor::worker(),
            move |catalog: &_| Ok(decide::take_over(catalog, worker, until)),
        )
        .await;
    let Ok(committed) = committed else {
        return false;
    };
    let Some(before) = &committed.before else {
        return true;
    };
    let notifications = committed.events.iter().filter_map(|event| match event {
        Event::JobFinished(finished) => {
            let job = before.jobs.get(finished.job)?;
            Some(notify::notify_producer(context, job, finished.state))
        }
        _ => None,
    });
    // `notify::watch` repeats a failed notification.
    join_all(notifications).await;
    true
}
