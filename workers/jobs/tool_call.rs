//! Executes a tool call as a job: sends the ask to the owner of the server, and repeats it while no
//! worker has started it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::execute::{JobExecution, JobFailure, JobOutput};
use crate::cluster::command_client::CommandRequest;
use crate::core::arguments::check_args;
use crate::core::command::{Area, Command};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::job;
use crate::core::model::job::JobArguments;
use crate::core::model::tool_call::CallTool;
use crate::core::tool_result;
use crate::time::clock::monotonic;
use crate::time::retry::INTERRUPTED_JOB;
use crate::workers::context::Context;

/// How long a call is repeated that no worker can start.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// The time in which a worker reports by itself that the call has timed out.
const REPORT_TIME: Duration = Duration::from_secs(5);

/// Calls the tool that the job names.
///
/// # Errors
/// Fails with the failure of the call. Returns [`JobFailure::NotStarted`] if the worker drains before
/// a worker has started the call.
pub(crate) async fn call_tool(
    context: &Arc<Context>,
    execution: &JobExecution,
    arguments: JobArguments,
) -> Result<JobOutput, JobFailure> {
    let call = arguments
        .call
        .ok_or_else(|| Failure::invalid("A tool call must name its server and its tool"))?;
    check_args(&arguments.body)?;
    let body = Bytes::from(String::from(Box::<str>::from(arguments.body)));
    let deadline = monotonic() + START_TIMEOUT;
    let mut pauses = INTERRUPTED_JOB.pauses();
    loop {
        let request = call_request(context, &call, arguments.server_id, body.clone())?;
        // Dropping the request cancels the call at its server.
        let result = tokio::select! {
            result = context.commands.send(&request) => result,
            () = execution.stop.cancelled() => return Err(job::job_cancelled().into()),
        };
        match result {
            Ok(response) => return job_output(response.body, arguments.raw),
            // No worker has started the call.
            Err(failure) if failure.code == Code::Unavailable && monotonic() < deadline => {}
            Err(failure) => return Err(failure.into()),
        }
        tokio::select! {
            () = pauses.wait() => {}
            () = execution.stop.cancelled() => return Err(job::job_cancelled().into()),
            () = execution.draining.cancelled() => return Err(JobFailure::NotStarted),
        }
    }
}

/// Builds the ask for the server as it is registered now.
fn call_request(
    context: &Context,
    call: &CallTool,
    only_server: Option<ServerId>,
    body: Bytes,
) -> Result<CommandRequest, Failure> {
    let server = context
        .projection
        .catalog()
        .server(call.server.as_str())
        .filter(|server| only_server.is_none_or(|only| server.id == only))
        .cloned()
        .ok_or_else(|| Failure::server_not_found(&call.server))?;
    let limit_ms = call
        .timeout_ms
        .unwrap_or_else(|| server.config.tool_timeout_ms());
    Ok(CommandRequest {
        area: Area::Tools,
        server: server.exclusive_id(),
        command: CallTool::NAME,
        call: Some(call.clone()),
        client: None,
        interim: None,
        body,
        traceparent: None,
        meta: None,
        time: Duration::from_millis(limit_ms) + REPORT_TIME,
    })
}

fn job_output(result: Bytes, raw: bool) -> Result<JobOutput, JobFailure> {
    let shaped = tool_result::shape_tool_result(&result, raw)?;
    Ok(JobOutput {
        body: shaped.body.into(),
        raw: result,
    })
}
