//! Takes the jobs that producers put on the bus into the log, and sets aside what nobody can read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{answer, dead_letters};
use crate::core::command::Command;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::JobId;
use crate::core::model::idempotency::IdempotencyKey;
use crate::core::model::job::JobArguments;
use crate::core::model::tool_call::CallTool;
use crate::core::producer_message;
use crate::jobs::client::{NewJob, Submitted};
use crate::ports::bus::{JobConsumer, JobDelivery, JobMessage};
use crate::telemetry::error::internal_error;
use crate::workers::context::Context;
use crate::workers::encode;

/// Jobs that one worker takes in at once.
const AT_ONCE: usize = 64;
/// How long a job stays on the bus that cannot be accepted now.
const AGAIN: Duration = Duration::from_secs(2);

/// Takes jobs until the worker drains, then waits for those under way.
pub async fn ingest_messages(
    context: Arc<Context>,
    mut jobs: Box<dyn JobConsumer>,
    draining: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((jobs.next().await?, place))
        };
        let taken = tokio::select! {
            () = draining.cancelled() => break,
            taken = next => taken,
        };
        let Some((delivery, place)) = taken else {
            break;
        };
        let context = context.clone();
        tokio::spawn(async move {
            ingest_message(&context, delivery).await;
            drop(place);
        });
    }
    let _ = places.acquire_many(AT_ONCE as u32).await;
}

async fn ingest_message(context: &Context, JobDelivery { job, settle, .. }: JobDelivery) {
    match submit_message(context, &job).await {
        // Its outcome is told when it has ended.
        Ok(Submitted { new: true, .. }) => settle.ack(None).await,
        // The same message once more: perhaps its sender did not hear of the first.
        Ok(Submitted { id, .. }) => match producer_outcome(context, id).await {
            Some(outcome) => settle.ack(Some(outcome)).await,
            None if job.reply.is_none() => settle.ack(None).await,
            None => settle.nak_after(AGAIN).await,
        },
        Err(failure) if is_for_later(&failure) => settle.nak_after(AGAIN).await,
        Err(failure) if failure.code == Code::InvalidRequest => {
            match dead_letters::store_dead_letter(context, &job, &failure).await {
                Ok(()) => settle.ack(Some(Err(encode(&failure)))).await,
                Err(_) => settle.nak_after(AGAIN).await,
            }
        }
        Err(failure) => settle.ack(Some(Err(encode(&failure)))).await,
    }
}

fn is_for_later(failure: &Failure) -> bool {
    matches!(failure.code, Code::Unavailable | Code::RateLimited)
}

/// Accepts a producer's job. Its id is its key: the same message again is the same job.
pub async fn submit_message(context: &Context, job: &JobMessage) -> Result<Submitted, Failure> {
    let JobMessage {
        id,
        command,
        call,
        reply,
        body,
    } = job;
    let (called, args) = producer_message::parse_producer_message(command, call.as_deref(), body)?;
    let scope = context.job_client.producer_key(id)?;
    let fields = call.as_deref().unwrap_or_default().as_bytes();
    let body = context
        .job_client
        .sealer()
        .digest("body", &[fields, body])
        .map_err(internal_error)?;
    let (user, server) = (called.user.clone(), Some(called.server.clone()));
    let work = JobArguments {
        call: Some(called),
        raw: true,
        reply: reply.clone(),
        body: args,
    };
    let key = Some(IdempotencyKey { scope, body }.into());
    let new = NewJob {
        user,
        command: CallTool::NAME,
        server,
        work,
        key,
        actor: Actor::Worker,
    };
    context.job_client.submit(new).await
}

/// What a job that has ended is told as.
async fn producer_outcome(context: &Context, job: JobId) -> Option<Result<Bytes, Bytes>> {
    let outcome = answer::load_answer(context, job).await.ok()?;
    if outcome.status != 200 {
        // Over HTTP a failure says `error`, among us `message`; codes and all else are the same.
        let mut body: Value = serde_json::from_str(outcome.body.get()).ok()?;
        let message = body.get_mut("error").map(Value::take);
        body.as_object_mut()?.insert("message".into(), message?);
        return Some(Err(serde_json::to_vec(&body).ok()?.into()));
    }
    #[derive(Deserialize)]
    struct Raw {
        data: Box<RawValue>,
    }
    let Raw { data } = serde_json::from_str(outcome.body.get()).ok()?;
    Some(Ok(String::from(Box::<str>::from(data)).into()))
}
