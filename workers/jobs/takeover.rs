//! Jobs whose worker is gone. Whoever gets a dead worker's lease decides for its jobs; nobody gets that of one that
//! lives.

use std::sync::Arc;

use futures::future::join_all;
use uuid::Uuid;

use super::notify;
use crate::core::event::{Actor, Event};
use crate::core::ids::{CommandId, LeaseId, WorkerId};
use crate::workers::context::Context;

/// Looks for workers that have jobs and are not heard of, for ever.
pub async fn watch(context: Arc<Context>) {
    let manager = &context.manager;
    let mut every = tokio::time::interval(manager.limits.lease_ttl / 4);
    loop {
        every.tick().await;
        let lively = manager.registry.live_workers();
        let having: Vec<_> = context.projection.catalog().jobs.workers().collect();
        for worker in having
            .into_iter()
            .filter(|worker| *worker != manager.worker && !lively.contains(worker))
        {
            let lease = LeaseId::from(worker);
            match manager
                .leases
                .acquire(lease, manager.worker, manager.limits.lease_ttl)
                .await
            {
                Ok(Some(_)) => {
                    if take_over(&context, worker).await {
                        tracing::info!(%worker, "the jobs of a worker that is gone were taken over");
                    }
                    let _ = manager.leases.release(lease, manager.worker).await;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "whether a worker still lives is not to be found out")
                }
            }
        }
    }
}

/// Decides for all jobs of a worker that has them no more. False: the store does not answer.
pub async fn take_over(context: &Context, worker: WorkerId) -> bool {
    let until = context.job_client.answer_expiry();
    let decide = move |catalog: &_| Ok(crate::core::decide::job::take_over(catalog, worker, until));
    let Ok(done) = context
        .appender
        .commit(CommandId(Uuid::now_v7()), Actor::Worker, decide)
        .await
    else {
        return false;
    };
    let Some(before) = &done.before else {
        return true;
    };
    let told = done.events.iter().filter_map(|event| {
        let Event::JobFinished(finished) = event else {
            return None;
        };
        Some(notify::notify_producer(
            context,
            before.jobs.get(finished.job)?,
            finished.state,
        ))
    });
    // Where it fails, it is done later.
    join_all(told).await;
    true
}
