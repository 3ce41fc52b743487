//! `mcp-api import`: takes over what an original has in its MongoDB, through the API like anybody.

mod apply;
mod grants;
mod plan;

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Ended;
use super::call::sentence;
use super::client::{Api, ApiArgs, block_on, send};
use crate::app::original;
use crate::config::{Env, ImportConfig};
use crate::seal::OriginalKey;
use plan::Plan;

/// Says what would be done, or does it. What is there already stays as it is, so it may be run again.
pub fn run(api: &ApiArgs, apply: bool) -> Ended {
    let config = ImportConfig::read(&Env::of_process()?)?;
    let api = api.api()?;
    let key = OriginalKey::new(&config.key)?;
    block_on(async {
        let there = servers(&api).await?;
        let found = original::read(&config.mongo).await.map_err(|error| format!("the original's MongoDB: {error}"))?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let mut plan = Plan::make(&found, &there, &key, now_ms);
        if apply {
            apply::servers(&api, &mut plan).await?;
            plan.settle();
            apply::secrets(&api, &mut plan).await?;
            apply::grants(&api, &mut plan).await?;
        } else {
            apply::check_servers(&api, &mut plan).await?;
            plan.settle();
        }
        Ok(tell(&plan, apply))
    })
}

/// What the API has.
async fn servers(api: &Api) -> Result<Vec<Value>, String> {
    let (status, mut answer) = send(api, "GET", "/mcp/servers", None).await?;
    match (status, answer["servers"].take()) {
        (200, Value::Array(servers)) => Ok(servers),
        _ => Err(sentence(&answer)),
    }
}

fn tell(plan: &Plan, applied: bool) -> ExitCode {
    let to_do = if applied { "taken over" } else { "to be taken over" };
    println!("servers: {} {to_do}, {} there already", plan.servers.len(), plan.servers_there);
    for (what, taken, there) in
        [("secrets", plan.secrets.len(), plan.secrets_there), ("OAuth tokens", plan.grants.len(), plan.grants_there)]
    {
        match applied {
            true => println!("{what}: {taken} {to_do}, {there} there already"),
            false => println!("{what}: {taken} {to_do}; what is there already stays"),
        }
    }
    if plan.wrong_key {
        println!("none of its secrets opens: is IMPORT_SECRETS_KEY the original's SECRETS_KEY?");
    }
    if !plan.not_taken.is_empty() {
        println!("not taken over:");
        plan.not_taken.iter().for_each(|what| println!("  {what}"));
    }
    if !applied {
        println!("Nothing was changed. mcp-api import --apply does it.");
    }
    if plan.not_taken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
