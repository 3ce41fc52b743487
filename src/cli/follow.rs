//! Follows a maintenance job to its end, and shows its progress.

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::INTERRUPTED;
use super::client::{ApiClient, ClientError, send};
use super::error::CliError;
use super::output::print_line;
use super::retry::retry_for_success;
use crate::core::model::job::SYSTEM_USER;

/// The reason why the program follows a job no longer.
pub(super) enum JobEnd {
    /// The job has ended with this body.
    Answered(Value),
    /// The user pressed Ctrl-C, and the job continues.
    Interrupted(ExitCode),
}

/// Prints the progress of a job of the system user until the job ends, or until Ctrl-C.
pub(super) async fn follow_job(api: &ApiClient, job: &str) -> Result<JobEnd, CliError> {
    tokio::select! {
        answer = wait_for_answer(api, job) => Ok(JobEnd::Answered(answer?)),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(CliError::Signal)?;
            print_line(format_args!(
                "The job continues. Run this command again to follow it, or stop it with DELETE /jobs/{job}?username={SYSTEM_USER}."
            ));
            Ok(JobEnd::Interrupted(ExitCode::from(INTERRUPTED)))
        }
    }
}

async fn wait_for_answer(api: &ApiClient, job: &str) -> Result<Value, ClientError> {
    let path = format!("/jobs/{job}?username={SYSTEM_USER}&wait=1s");
    let mut last = Value::Null;
    loop {
        let body = retry_for_success(async || send(api, Method::GET, &path, None).await).await?;
        let job = &body["job"];
        if job["answer"].is_object() {
            return Ok(job["answer"]["body"].clone());
        }
        let line = job["progress"]["line"].as_str();
        if let Some(line) = line.filter(|line| last != *line) {
            print_line(line);
            last = line.into();
        }
    }
}
