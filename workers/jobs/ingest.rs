//! Accepts the jobs that producers have put on the bus, and stores the messages that no worker can
//! parse as dead letters.

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
use crate::core::model::caller::{is_reserved, reserved_user};
use crate::core::model::idempotency::IdempotencyKey;
use crate::core::model::job::JobArguments;
use crate::core::model::tool_call::CallTool;
use crate::core::producer_message::parse_producer_message;
use crate::jobs::client::{NewJob, Submitted};
use crate::ports::bus::{JobConsumer, JobDelivery, JobMessage};
use crate::telemetry::error::internal_error;
use crate::views::job_answer::JobAnswer;
use crate::workers::context::Context;
use crate::workers::handler::encode;

/// The messages that one worker accepts at the same time.
const MAX_CONCURRENT: usize = 64;
/// How long a message stays on the bus that the worker cannot accept now.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
const STATUS_OK: u16 = 200;

/// Accepts messages until the worker drains, and then waits for those in progress.
pub(crate) async fn ingest_messages(
    context: Arc<Context>,
    mut consumer: Box<dyn JobConsumer>,
    draining: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONCURRENT));
    loop {
        let next_message = async {
            let permit = permits.clone().acquire_owned().await.ok()?;
            Some((consumer.next().await?, permit))
        };
        let received = tokio::select! {
            () = draining.cancelled() => break,
            received = next_message => received,
        };
        let Some((delivery, permit)) = received else {
            break;
        };
        let context = context.clone();
        tokio::spawn(async move {
            ingest_message(&context, delivery).await;
            drop(permit);
        });
    }
    let _ = permits.acquire_many(MAX_CONCURRENT as u32).await;
}

async fn ingest_message(context: &Context, delivery: JobDelivery) {
    let JobDelivery {
        job: message, ack, ..
    } = delivery;
    match submit_message(context, &message).await {
        // The producer gets the outcome when the job ends.
        Ok(Submitted { new: true, .. }) => ack.ack(None).await,
        // A repeated message, because the producer may not know that the first one was accepted.
        Ok(Submitted { id, .. }) => match producer_outcome(context, id).await {
            Some(outcome) => ack.ack(Some(outcome)).await,
            None if message.reply.is_none() => ack.ack(None).await,
            None => ack.nak_after(RETRY_PAUSE).await,
        },
        Err(failure) if is_temporary(&failure) => ack.nak_after(RETRY_PAUSE).await,
        Err(failure) if failure.code == Code::InvalidRequest => {
            match dead_letters::store_dead_letter(context, &message, &failure).await {
                Ok(()) => ack.ack(Some(Err(encode(&failure)))).await,
                Err(_) => ack.nak_after(RETRY_PAUSE).await,
            }
        }
        Err(failure) => ack.ack(Some(Err(encode(&failure)))).await,
    }
}

fn is_temporary(failure: &Failure) -> bool {
    matches!(failure.code, Code::Unavailable | Code::RateLimited)
}

/// Accepts the job of a producer. Its id is its idempotency key, so a repeated message is the same job.
///
/// # Errors
/// Fails with `invalid_request` if the message cannot be parsed.
pub(crate) async fn submit_message(
    context: &Context,
    message: &JobMessage,
) -> Result<Submitted, Failure> {
    let call_fields = message.call.as_deref();
    let (call, arguments) = parse_producer_message::<CallTool>(
        CallTool::NAME,
        &message.command,
        call_fields,
        &message.body,
    )?;
    if is_reserved(&call.user) {
        return Err(reserved_user());
    }
    let body_digest = context
        .job_client
        .sealer()
        .digest(
            "body",
            &[call_fields.unwrap_or_default().as_bytes(), &message.body],
        )
        .map_err(internal_error)?;
    let key = IdempotencyKey {
        scope: context.job_client.producer_key(&message.id)?,
        body: body_digest,
        user: None,
    };
    let new_job = NewJob {
        user: call.user.clone(),
        command: CallTool::NAME,
        server: Some(call.server.clone()),
        work: JobArguments {
            call: Some(call),
            raw: true,
            reply: message.reply.clone(),
            server_id: None,
            body: arguments,
        },
        key: Some(key.into()),
        actor: Actor::producer(),
    };
    context.job_client.submit(new_job).await
}

/// Returns the outcome that the producer gets, if the job has ended.
async fn producer_outcome(context: &Context, job: JobId) -> Option<Result<Bytes, Bytes>> {
    let answer = answer::load_answer(context, job).await.ok()?;
    if answer.status == STATUS_OK {
        tool_result(&answer).map(Ok)
    } else {
        producer_failure(&answer).map(Err)
    }
}

/// Returns the tool result in the body of a successful answer.
fn tool_result(answer: &JobAnswer) -> Option<Bytes> {
    #[derive(Deserialize)]
    struct RawBody {
        data: Box<RawValue>,
    }
    let body: RawBody = serde_json::from_str(answer.body.get()).ok()?;
    Some(String::from(Box::<str>::from(body.data)).into())
}

/// Returns a failure in the form for producers: the field `error` of HTTP is called `message`.
fn producer_failure(answer: &JobAnswer) -> Option<Bytes> {
    let mut body: Value = serde_json::from_str(answer.body.get()).ok()?;
    let fields = body.as_object_mut()?;
    let message = fields.get_mut("error").map(Value::take)?;
    fields.insert("message".into(), message);
    Some(serde_json::to_vec(&body).ok()?.into())
}
