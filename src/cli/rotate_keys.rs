//! `mcp-api rotate-keys`: has the running service put everything that is sealed under its new key.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::CommandResult;
use super::call::error_text;
use super::client::{ApiArgs, ApiClient, block_on, send, send_later};
use crate::core::model::job::SYSTEM_USER;

/// How often is asked what got no answer: the service may be starting again.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);
/// What a shell makes of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

/// Begins the job that does it, or finds the one that is there, and shows how far that is.
pub fn run(api: &ApiArgs) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let before = ask(async || send(&api, "GET", "/keys", None).await).await?;
        println!(
            "{} sealed values, {} of them under an earlier key",
            before["values"], before["earlier"]
        );
        if before["unreadable"] != 0 {
            println!(
                "{} lie under a key that is neither SECRETS_KEY nor in SECRETS_KEYS_OLD, and stay as they are",
                before["unreadable"]
            );
        }
        // Asked for again, it is the same job.
        let begun =
            ask(async || send_later(&api, "POST", "/keys/rotate", Value::Null, None).await).await?;
        let Some(job) = begun["jobId"].as_str() else {
            return Err(error_text(&begun).into());
        };
        tokio::select! {
            answer = follow(&api, job) => end(&answer?),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                println!("The job goes on; run this again to follow it, or DELETE /jobs/{job}?username={SYSTEM_USER} to stop it.");
                Ok(ExitCode::from(INTERRUPTED))
            }
        }
    })
}

/// Prints how far the job is until it has ended, and gives its answer.
async fn follow(api: &ApiClient, job: &str) -> Result<Value, String> {
    let path = format!("/jobs/{job}?username={SYSTEM_USER}&wait=1s");
    let mut last = Value::Null;
    loop {
        let job = ask(async || send(api, "GET", &path, None).await).await?["job"].take();
        if job["answer"].is_object() {
            return Ok(job["answer"]["body"].clone());
        }
        if let Some(line) = job["progress"]["line"]
            .as_str()
            .filter(|line| last != *line)
        {
            println!("{line}");
            last = line.into();
        }
    }
}

/// Says what came of it.
fn end(answer: &Value) -> CommandResult {
    if answer["success"] != true {
        return Err(format!("{}; run this again", error_text(answer)).into());
    }
    println!(
        "{} seen, {} put under the new key",
        answer["seen"], answer["rewrapped"]
    );
    if answer["finished"] == true {
        println!("Everything is under SECRETS_KEY: SECRETS_KEYS_OLD can be dropped.");
        return Ok(ExitCode::SUCCESS);
    }
    let workers: Vec<_> = answer["waitsFor"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    Err(match workers.is_empty() {
        true => "values keep coming under an earlier key; run this again".to_owned(),
        false => format!(
            "these workers seal with another key than the service that was asked; start all with the new SECRETS_KEY, then run this again: {}",
            workers.join(", ")
        ),
    }
    .into())
}

/// Everything may be asked again that got no answer.
async fn ask(request: impl AsyncFn() -> Result<(u16, Value), String>) -> Result<Value, String> {
    let mut tried = 1;
    loop {
        let error = match request().await {
            Ok((200 | 202, answer)) => return Ok(answer),
            Ok((status @ 502..=504, answer)) => format!("{status}: {}", error_text(&answer)),
            Ok((_, answer)) => return Err(error_text(&answer)),
            Err(error) => error,
        };
        if tried == TRIES {
            return Err(error);
        }
        if tried == 1 {
            eprintln!("mcp-api: {error}; asking again");
        }
        tried += 1;
        tokio::time::sleep(PAUSE).await;
    }
}
