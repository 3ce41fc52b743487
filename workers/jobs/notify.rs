//! Notifies producers of jobs that ended without a worker: cancelled while they waited, or lost with
//! their worker. Only the arguments of such a job name the producer, so they are kept until then.

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
use crate::workers::handler::encode;
use crate::workers::sealed_store::store_unavailable;
use crate::workers::secrets::drop_values;

/// The interval of the search for missed notifications. A notification is missed if no worker ran, or
/// if the worker died before it.
const SEARCH_INTERVAL: Duration = Duration::from_secs(600);
/// The jobs whose arguments one step of the search loads. Arguments may be large.
const MAX_LOADED: usize = 8;

/// Searches for missed notifications for ever.
pub(crate) async fn watch(context: Arc<Context>) {
    let mut interval = tokio::time::interval(SEARCH_INTERVAL);
    loop {
        interval.tick().await;
        // The next round repeats a failed notification.
        let _ = notify_all(&context).await;
    }
}

async fn notify_all(context: &Context) -> Result<(), Failure> {
    let unnotified: Vec<_> = context
        .projection
        .catalog()
        .jobs
        .newest_first()
        .filter(|job| job.needs_notification())
        .cloned()
        .collect();
    for jobs in unnotified.chunks(MAX_LOADED) {
        let ids: Vec<_> = jobs.iter().map(|job| job.arguments).collect();
        let found = context.vault.get(&ids).await.map_err(store_unavailable)?;
        // Without arguments, the producer was notified before.
        for (job, _) in jobs.iter().zip(found).filter(|(_, value)| value.is_some()) {
            let _ = notify_producer(context, job, job.state()).await;
        }
    }
    Ok(())
}

/// Executes the command of a facade that has cancelled a waiting job.
///
/// # Errors
/// Fails if the store is unavailable.
pub(crate) async fn notify_end(
    context: Arc<Context>,
    command: NotifyProducer,
) -> Result<(), Failure> {
    let job = context
        .projection
        .catalog()
        .jobs
        .get(command.job)
        .filter(|job| job.needs_notification())
        .cloned();
    match job {
        Some(job) => notify_producer(&context, &job, job.state()).await,
        None => Ok(()),
    }
}

/// Publishes the outcome of a job, and removes its arguments. A lease makes sure that one worker does
/// it.
///
/// # Errors
/// Fails if the store is unavailable.
pub(crate) async fn notify_producer(
    context: &Context,
    job: &Job,
    state: JobState,
) -> Result<(), Failure> {
    let lease = LeaseId::from(job.id);
    // Two notifications in one worker exclude each other too, because each has a holder of its own.
    let holder = WorkerId(Uuid::now_v7());
    let ttl = context.manager.limits.lease_ttl;
    let acquired = context.leases.acquire(lease, holder, ttl).await;
    if acquired.map_err(store_unavailable)?.is_none() {
        return Ok(());
    }
    let published = publish_outcome(context, job, state).await;
    // A lease that cannot be released expires.
    let _ = context.leases.release(lease, holder).await;
    published
}

async fn publish_outcome(context: &Context, job: &Job, state: JobState) -> Result<(), Failure> {
    let found = context.vault.get(&[job.arguments]).await;
    let sealed = found.map_err(store_unavailable)?.pop().flatten();
    let Some(sealed) = sealed else {
        return Ok(());
    };
    let arguments = execute::parse_arguments(context, job, &sealed)?;
    if let Some(reply) = arguments.reply {
        let outcome = encode(&job::failure_without_answer(state));
        context.bus.publish_outcome(&reply, Err(outcome)).await;
    }
    drop_values(context, &[job.arguments]).await;
    Ok(())
}
