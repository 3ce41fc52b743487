//! Jobs that ended where nobody could open their arguments: cancelled while they waited, or lost with their worker.
//! Only their arguments say who wants to be told, so they are kept until that was done.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::execute;
use crate::core::command::NotifyProducer;
use crate::core::failure::Failure;
use crate::core::ids::{LeaseId, WorkerId};
use crate::core::model::job;
use crate::core::model::job::{Job, JobState};
use crate::workers::context::Context;
use crate::workers::encode;
use crate::workers::secrets::{away, drop_values};

/// How long after its end one is told at the latest that was missed: no worker was there, or it died of it.
const EVERY: Duration = Duration::from_secs(600);
/// Jobs whose arguments, large perhaps, are looked for at once.
const AT_ONCE: usize = 8;

/// Looks for those that were missed, for ever.
pub async fn watch(context: Arc<Context>) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        // What fails is said where it does, and tried again.
        let _ = notify_all(&context).await;
    }
}

async fn notify_all(context: &Context) -> Result<(), Failure> {
    let untold: Vec<_> = context
        .projection
        .catalog()
        .jobs
        .newest_first()
        .filter(|job| job.needs_notification())
        .cloned()
        .collect();
    for some in untold.chunks(AT_ONCE) {
        let arguments: Vec<_> = some.iter().map(|job| job.arguments).collect();
        // Nearly always all were told, and nothing of them is there.
        let there = context.vault.get(&arguments).await.map_err(away)?;
        for (job, _) in some.iter().zip(there).filter(|(_, there)| there.is_some()) {
            let _ = notify_producer(context, job, job.state()).await;
        }
    }
    Ok(())
}

/// A facade has cancelled one that waited.
pub async fn notify_end(
    context: Arc<Context>,
    NotifyProducer { job }: NotifyProducer,
) -> Result<(), Failure> {
    let job = context
        .projection
        .catalog()
        .jobs
        .get(job)
        .filter(|job| job.needs_notification())
        .cloned();
    let Some(job) = job else { return Ok(()) };
    notify_producer(&context, &job, job.state()).await
}

/// Tells a producer what became of its job, and drops the job's arguments. A lease sees to it that of several who
/// want to, one does.
pub async fn notify_producer(context: &Context, job: &Job, state: JobState) -> Result<(), Failure> {
    // Two of one worker exclude each other, too.
    let (lease, holder) = (LeaseId::from(job.id), WorkerId(Uuid::now_v7()));
    if context
        .leases
        .acquire(lease, holder, context.manager.limits.lease_ttl)
        .await
        .map_err(away)?
        .is_none()
    {
        return Ok(());
    }
    let told = publish_outcome(context, job, state).await;
    let _ = context.leases.release(lease, holder).await;
    told
}

async fn publish_outcome(context: &Context, job: &Job, state: JobState) -> Result<(), Failure> {
    let Some(sealed) = context
        .vault
        .get(&[job.arguments])
        .await
        .map_err(away)?
        .pop()
        .flatten()
    else {
        return Ok(());
    };
    if let Some(reply) = execute::opened(context, job, &sealed)?.reply {
        context
            .bus
            .publish_outcome(&reply, Err(encode(&job::why_without_answer(state))))
            .await;
    }
    drop_values(context, &[job.arguments]).await;
    Ok(())
}
