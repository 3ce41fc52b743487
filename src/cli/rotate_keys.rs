//! `mcp-api rotate-keys`: starts a key rotation and shows its progress.

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, block_on, error_text, send, send_as_job};
use super::error::{CliError, CommandResult};
use super::follow::{JobEnd, follow_job};
use super::output::print_line;
use super::retry::retry_for_success;

/// Starts a key rotation, or finds the running rotation, and follows it to its end.
pub(super) fn run(api: &ApiArgs) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let keys = retry_for_success(async || send(&api, Method::GET, "/keys", None).await).await?;
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
        let accepted = retry_for_success(start).await?;
        let Some(job) = accepted["jobId"].as_str() else {
            return Err(CliError::Failed(error_text(&accepted)));
        };
        match follow_job(&api, job).await? {
            JobEnd::Answered(answer) => report(&answer),
            JobEnd::Interrupted(code) => Ok(code),
        }
    })
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
