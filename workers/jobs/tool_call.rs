//! A tool call as a job: asked like any other, of the worker that runs the server, and again while nothing was
//! begun.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::execute::{JobExecution, JobFailure, JobOutput};
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::check_args;
use crate::core::command::{Area, Command};
use crate::core::failure::{Code, Failure};
use crate::core::model::job;
use crate::core::model::job::JobArguments;
use crate::core::model::tool_call::CallTool;
use crate::core::tool_result;
use crate::workers::context::Context;

/// How long a call is tried that cannot begin because something is away.
const PATIENCE: Duration = Duration::from_secs(600);
const PAUSE: Duration = Duration::from_secs(1);
/// Time for a worker to say itself that it timed out.
const GRACE: Duration = Duration::from_secs(5);

pub async fn call_tool(
    context: &Arc<Context>,
    running: &JobExecution,
    work: JobArguments,
) -> Result<JobOutput, JobFailure> {
    let command = work
        .call
        .ok_or_else(|| Failure::invalid("A tool call without its server and tool"))?;
    check_args(&work.body)?;
    let body = Bytes::from(String::from(Box::<str>::from(work.body)));
    let began = Instant::now();
    loop {
        let server = context
            .projection
            .catalog()
            .server(command.server.as_str())
            .cloned();
        let server = server.ok_or_else(|| Failure::server_not_found(&command.server))?;
        let limit = Duration::from_millis(
            command
                .timeout_ms
                .unwrap_or(server.config.tool_timeout_ms()),
        );
        let question = CommandRequest {
            area: Area::Tools,
            server: server.exclusive_id(),
            command: CallTool::NAME,
            call: Some(command.clone()),
            body: body.clone(),
            traceparent: None,
            time: limit + GRACE,
        };
        // Dropping the question cancels the call at its server.
        let answered = tokio::select! {
            answered = context.commands.send(question) => answered,
            () = running.stop.cancelled() => return Err(job::job_cancelled().into()),
        };
        match answered {
            Ok(answered) => {
                let body = tool_result::shape_tool_result(&answered.body, work.raw)?
                    .body
                    .into();
                return Ok(JobOutput {
                    body,
                    raw: answered.body,
                });
            }
            // Nothing was begun.
            Err(failure) if failure.code == Code::Unavailable && began.elapsed() < PATIENCE => {}
            Err(failure) => return Err(failure.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = running.stop.cancelled() => return Err(job::job_cancelled().into()),
            () = running.draining.cancelled() => return Err(JobFailure::NotBegun),
        }
    }
}
