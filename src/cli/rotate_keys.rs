//! `mcp-api rotate-keys`: has the running service put everything that is sealed under its new key.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::Ended;
use super::call::sentence;
use super::client::{Api, ApiArgs, block_on, send};

/// How often a part is asked for that got no answer: the service may be starting again.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);
/// Times through everything: others may put values under an earlier key meanwhile.
const PASSES: u32 = 5;

/// Shows how far it is. Interrupted anywhere, it can be run again; two at once do each a part.
pub fn run(api: &ApiArgs) -> Ended {
    let api = api.api()?;
    block_on(async {
        let before = ask(&api, "GET", "/keys").await?;
        let (values, earlier) = (number(&before, "values"), number(&before, "earlier"));
        println!("{values} sealed values, {earlier} of them under an earlier key");
        if number(&before, "unreadable") > 0 {
            println!(
                "{} lie under a key that is neither SECRETS_KEY nor in SECRETS_KEYS_OLD, and stay as they are",
                before["unreadable"]
            );
        }
        let mut waits_for = Value::Null;
        for _ in 0..PASSES {
            let end = pass(&api, values).await?;
            if end["finished"] == true {
                println!("Everything is under SECRETS_KEY: SECRETS_KEYS_OLD can be dropped.");
                return Ok(ExitCode::SUCCESS);
            }
            waits_for = end["waitsFor"].clone();
            tokio::time::sleep(PAUSE).await;
        }
        Err(match waits_for.as_array() {
            Some(workers) if !workers.is_empty() => {
                let workers: Vec<_> = workers.iter().filter_map(Value::as_str).collect();
                format!(
                    "these workers still seal with another key; start them with the new SECRETS_KEY, then run this again: {}",
                    workers.join(", ")
                )
            }
            _ => "values keep coming under an earlier key; run this again".to_owned(),
        }
        .into())
    })
}

/// Once through everything, part by part.
async fn pass(api: &Api, values: u64) -> Result<Value, String> {
    let (mut seen, mut rewrapped) = (0, 0);
    let mut path = "/keys/rotate".to_owned();
    loop {
        let part = ask(api, "POST", &path).await?;
        seen += number(&part, "seen");
        rewrapped += number(&part, "rewrapped");
        match part["next"].as_str() {
            Some(next) => path = format!("/keys/rotate?after={next}"),
            None => {
                println!("{seen} seen, {rewrapped} put under the new key");
                return Ok(part);
            }
        }
        println!("{seen} of {} seen, {rewrapped} put under the new key", values.max(seen));
    }
}

/// Every part may be asked for again: what it has done already, it does not do twice.
async fn ask(api: &Api, method: &str, path: &str) -> Result<Value, String> {
    let mut tried = 1;
    loop {
        let error = match send(api, method, path, None).await {
            Ok((200, answer)) => return Ok(answer),
            Ok((status @ 502..=504, answer)) => format!("{status}: {}", sentence(&answer)),
            Ok((_, answer)) => return Err(sentence(&answer)),
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

fn number(answer: &Value, field: &str) -> u64 {
    answer[field].as_u64().unwrap_or(0)
}
