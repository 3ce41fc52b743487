//! `mcp-api import`: takes over what an original has in its MongoDB, through the API like anybody.

mod apply;
mod grants;
mod packages;
mod plan;

use std::process::ExitCode;

use serde_json::Value;

use self::packages::PackageImport;
use self::plan::{ExistingState, ImportPlan};
use super::CommandResult;
use super::call::error_text;
use super::client::{ApiArgs, ApiClient, block_on, send};
use crate::app::predecessor;
use crate::config::{Env, ImportConfig};
use crate::crypto::predecessor::PredecessorKey;
use crate::time::clock::now_ms;

/// Says what would be done, or does it. What is there already stays as it is, so it may be run again.
pub fn run(api: &ApiArgs, apply: bool) -> CommandResult {
    let config = ImportConfig::read(&Env::of_process()?)?;
    let api = api.api()?;
    let key = PredecessorKey::new(&config.key)?;
    block_on(async {
        let there = ExistingState {
            servers: list(&api, "/mcp/servers", "servers").await?,
            packages: list(&api, "/packages", "packages").await?,
        };
        let found = predecessor::read(&config.mongo)
            .await
            .map_err(|error| format!("the original's MongoDB: {error}"))?;
        let mut plan = ImportPlan::make(&found, &there, &key, now_ms());
        if apply {
            apply::servers(&api, &mut plan).await?;
            apply::packages(&api, &mut plan).await;
            plan.settle();
            apply::secrets(&api, &mut plan).await?;
            apply::grants(&api, &mut plan).await?;
        } else {
            apply::check_servers(&api, &mut plan).await?;
            apply::check_packages(&api, &mut plan).await?;
            plan.settle();
        }
        Ok(tell(&plan, apply))
    })
}

/// What the API has.
async fn list(api: &ApiClient, path: &str, field: &str) -> Result<Vec<Value>, String> {
    let (status, mut answer) = send(api, "GET", path, None).await?;
    match (status, answer[field].take()) {
        (200, Value::Array(all)) => Ok(all),
        _ => Err(error_text(&answer)),
    }
}

fn tell(plan: &ImportPlan, applied: bool) -> ExitCode {
    let to_do = if applied {
        "taken over"
    } else {
        "to be taken over"
    };
    println!(
        "servers: {} {to_do}, {} there already",
        plan.servers.len(),
        plan.servers_there
    );
    let to_install = if applied {
        "installed"
    } else {
        "to be installed"
    };
    println!(
        "packages: {} {to_install}, {} there already",
        plan.packages.len(),
        plan.packages_there
    );
    for (what, taken, there) in [
        ("secrets", plan.secrets.len(), plan.secrets_there),
        ("OAuth tokens", plan.grants.len(), plan.grants_there),
    ] {
        match applied {
            true => println!("{what}: {taken} {to_do}, {there} there already"),
            false => println!("{what}: {taken} {to_do}; what is there already stays"),
        }
    }
    if plan.wrong_key {
        println!("none of its secrets opens: is IMPORT_SECRETS_KEY the original's SECRETS_KEY?");
    }
    let differences: Vec<_> = plan
        .packages
        .iter()
        .flat_map(PackageImport::differences)
        .collect();
    if !differences.is_empty() {
        println!("not quite as they were:");
        differences.iter().for_each(|what| println!("  {what}"));
    }
    if !plan.not_taken.is_empty() {
        println!("not taken over:");
        // Some have the last lines of npm, pip or a server with them.
        plan.not_taken
            .iter()
            .for_each(|what| println!("  {}", what.replace('\n', "\n      ")));
    }
    if !applied {
        println!("Nothing was changed. mcp-api import --apply does it.");
    }
    if plan.not_taken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
