//! `mcp-api rotate-keys`: starts a key rotation and shows its progress.

use std::process::ExitCode;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use super::INTERRUPTED;
use super::client::{ApiArgs, ApiClient, ApiResponse, ClientError, block_on, error_text};
use super::client::{send, send_as_job};
use super::error::{CliError, CommandResult};
use super::output::print_line;
use crate::core::model::job::SYSTEM_USER;
use crate::telemetry::error::error_chain;

/// The number of attempts of a request without an answer, because the API may be starting.
const ATTEMPTS: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Starts a key rotation, or finds the running rotation, and follows it to its end.
pub fn run(api: &ApiArgs) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let keys = retry(async || send(&api, Method::GET, "/keys", None).await).await?;
        print_line(format_args!(
            "{} sealed values, {} of them under an earlier key",
            keys["values"], keys["earlier"]
        ));
        if keys["unreadable"] != 0 {
            print_line(format_args!(
                "{} are under a key that is neither SECRETS_KEY nor in SECRETS_KEYS_OLD, and the rotation skips them",
                keys["unreadable"]
            ));
        }
        // A repeated request returns the same job.
        let start = async || send_as_job(&api, "/keys/rotate", &Value::Null, None).await;
        let accepted = retry(start).await?;
        let Some(job) = accepted["jobId"].as_str() else {
            return Err(CliError::Failed(error_text(&accepted)));
        };
        tokio::select! {
            answer = follow(&api, job) => report(&answer?),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.map_err(CliError::Signal)?;
                print_line(format_args!(
                    "The job continues. Run this command again to follow it, or stop it with DELETE /jobs/{job}?username={SYSTEM_USER}."
                ));
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    })
}

/// Prints the progress of the job until it ends, and returns the body of its answer.
async fn follow(api: &ApiClient, job: &str) -> Result<Value, ClientError> {
    let path = format!("/jobs/{job}?username={SYSTEM_USER}&wait=1s");
    let mut last = Value::Null;
    loop {
        let body = retry(async || send(api, Method::GET, &path, None).await).await?;
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

/// Prints the result of the rotation.
fn report(answer: &Value) -> CommandResult {
    if answer["success"] != true {
        let why = error_text(answer);
        return Err(CliError::Failed(format!("{why}; run this command again")));
    }
    print_line(format_args!(
        "{} read, {} encrypted with the new key",
        answer["seen"], answer["rewrapped"]
    ));
    if answer["finished"] == true {
        print_line("Everything is under SECRETS_KEY: SECRETS_KEYS_OLD can be removed.");
        return Ok(ExitCode::SUCCESS);
    }
    let workers = answer["waitsFor"].as_array().into_iter().flatten();
    let workers: Vec<_> = workers.filter_map(Value::as_str).collect();
    Err(CliError::Failed(if workers.is_empty() {
        "new values are still sealed with an earlier key; run this command again".to_owned()
    } else {
        format!(
            "these workers seal with another key than the API; start all processes with the new SECRETS_KEY, then run this command again: {}",
            workers.join(", ")
        )
    }))
}

/// Sends a request until it has an answer other than 502, 503 or 504.
async fn retry(request: impl AsyncFn() -> ApiResponse) -> Result<Value, ClientError> {
    let mut attempt = 1;
    loop {
        let error = match request().await {
            Ok((200 | 202, body)) => return Ok(body),
            Ok((status @ 502..=504, body)) => {
                ClientError::Refused(format!("{status}: {}", error_text(&body)))
            }
            Ok((_, body)) => return Err(ClientError::Refused(error_text(&body))),
            Err(error) => error,
        };
        if attempt == ATTEMPTS {
            return Err(error);
        }
        if attempt == 1 {
            eprintln!("mcp-api: {}; retrying", error_chain(&error));
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
