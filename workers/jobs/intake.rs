//! The loop of the job lane: a job comes, is carried out beside the others and settled.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ask::Question;
use crate::core::call::check_args_text;
use crate::core::catalog::Server;
use crate::core::command::{Area, CallTool, Command};
use crate::core::failure::{Code, Failure};
use crate::ports::{Delivery, Job, Jobs};
use crate::telemetry::bug;
use crate::workers::context::Context;
use crate::workers::encode;

/// Jobs of one area under way in a worker.
const AT_ONCE: usize = 32;
/// How long a failed job rests before it is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How long a call is tried that cannot begin because something is away.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(1);
/// Time for a worker to say itself that it timed out.
const GRACE: Duration = Duration::from_secs(5);

/// Takes jobs until the worker drains, then waits for those under way.
pub async fn take(context: Arc<Context>, mut jobs: Box<dyn Jobs>, draining: CancellationToken) {
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
        let Some((delivery, place)) = taken else { break };
        let context = context.clone();
        tokio::spawn(async move {
            carry_out(&context, delivery).await;
            drop(place);
        });
    }
    let _ = places.acquire_many(AT_ONCE as u32).await;
}

async fn carry_out(context: &Arc<Context>, delivery: Delivery) {
    let Delivery { job, attempt, settle } = delivery;
    match AssertUnwindSafe(run(context, &job, attempt)).catch_unwind().await {
        Ok(Ok(answer)) => settle.done(Ok(answer)).await,
        // A call that was refused is a call that was answered.
        Ok(Err(failure)) if job.command == CallTool::NAME => settle.done(Err(encode(&failure))).await,
        Ok(Err(failure)) => {
            tracing::warn!(job = job.id, attempt, %failure, "a job failed; trying again");
            settle.again(AGAIN).await;
        }
        Err(_) => settle.done(Err(encode(&bug("a job panicked and is given up")))).await,
    }
}

async fn run(context: &Arc<Context>, job: &Job, attempt: u32) -> Result<Bytes, Failure> {
    match job.command {
        CallTool::NAME => call(context, job, attempt).await,
        unknown => {
            tracing::error!(unknown, "a job of an unknown kind is given up");
            Err(Failure::invalid(format!("This worker does not know the command {unknown}")))
        }
    }
}

/// A tool call as a job is asked like any other, of the worker that runs the server.
async fn call(context: &Arc<Context>, job: &Job, attempt: u32) -> Result<Bytes, Failure> {
    let command = job.call.clone().ok_or_else(|| Failure::invalid("A tool call without its server and tool"))?;
    check_args_text(&job.body)?;
    let began = Instant::now();
    loop {
        let server = context.follow.catalog().server(command.server.as_str()).cloned();
        let server = server.ok_or_else(|| Failure::server_not_found(&command.server))?;
        if attempt > 1 && !may_repeat(&server, &command) {
            let lost = "The worker that had this call is gone, and its tool is not declared readOnlyHint or idempotentHint: whether it was done is unknown";
            return Err(Failure::new(Code::OutcomeUnknown, lost).maybe_run());
        }
        let limit = Duration::from_millis(command.timeout_ms.unwrap_or(server.config.tool_timeout_ms()));
        let (area, held, call, body) = (Area::Tools, server.held(), Some(command.clone()), job.body.clone());
        let time = limit + GRACE;
        let question = Question { area, server: held, command: CallTool::NAME, call, body, traceparent: None, time };
        match context.asker.ask(question).await {
            Ok(answered) => return Ok(answered.body),
            // Nothing was begun.
            Err(failure) if failure.code == Code::Unavailable && began.elapsed() < PATIENCE => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn may_repeat(server: &Server, command: &CallTool) -> bool {
    let tools = server.tools.tools.iter();
    tools.filter(|tool| tool.name().as_deref() == Some(command.tool.as_str())).any(|tool| tool.may_repeat())
}
