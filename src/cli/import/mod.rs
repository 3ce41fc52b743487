//! `mcp-api import`: imports the data of the predecessor from its MongoDB through the API.

mod apply;
mod grants;
mod packages;
mod plan;

use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use self::packages::PackageImport;
use self::plan::{ExistingState, ImportPlan};
use super::client::{ApiArgs, ApiClient, ClientError, block_on, error_text, send};
use super::error::{CliError, CommandResult};
use super::output::print_line;
use crate::app::predecessor;
use crate::config::{Env, ImportConfig};
use crate::crypto::predecessor::PredecessorKey;
use crate::time::clock::now_ms;

/// Shows the plan of an import, or executes it. Existing data stays, so the command may run again.
pub(super) fn run(api: &ApiArgs, apply: bool) -> CommandResult {
    let config = ImportConfig::read(&Env::of_process()?)?;
    let api = api.api()?;
    let key = PredecessorKey::new(&config.key).map_err(CliError::PredecessorKey)?;
    block_on(async {
        let existing = ExistingState {
            servers: list(&api, "/mcp/servers", "servers").await?,
            packages: list(&api, "/packages", "packages").await?,
        };
        let found = predecessor::read(&config.mongo)
            .await
            .map_err(|error| CliError::Predecessor(error.into()))?;
        let mut plan = ImportPlan::new(&found, &existing, &key, now_ms());
        if apply {
            apply::register_servers(&api, &mut plan).await?;
            apply::install_packages(&api, &mut plan).await;
            plan.skip_without_server();
            apply::store_secrets(&api, &mut plan).await?;
            apply::store_grants(&api, &mut plan).await?;
        } else {
            apply::check_servers(&api, &mut plan).await?;
            apply::check_packages(&api, &mut plan).await?;
            plan.skip_without_server();
        }
        print_plan(&plan, apply);
        Ok(if plan.skipped.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    })
}

/// Returns a list of the API.
async fn list(api: &ApiClient, path: &str, field: &str) -> Result<Vec<Value>, ClientError> {
    let (status, mut body) = send(api, Method::GET, path, None).await?;
    match (status, body[field].take()) {
        (200, Value::Array(list)) => Ok(list),
        _ => Err(ClientError::Refused(error_text(&body))),
    }
}

fn print_plan(plan: &ImportPlan, is_applied: bool) {
    print_counts(plan, is_applied);
    if plan.is_wrong_key {
        print_line(
            "IMPORT_SECRETS_KEY opens none of the secrets; set it to the SECRETS_KEY of the predecessor",
        );
    }
    let differences: Vec<_> = plan
        .packages
        .iter()
        .flat_map(PackageImport::differences)
        .collect();
    if !differences.is_empty() {
        print_line("with differences:");
    }
    for difference in differences {
        print_line(format_args!("  {difference}"));
    }
    if !plan.skipped.is_empty() {
        print_line("not imported:");
    }
    for sentence in &plan.skipped {
        // A sentence may contain the last lines of npm, pip or a server.
        print_line(format_args!("  {}", sentence.replace('\n', "\n      ")));
    }
    if !is_applied {
        print_line("Nothing was changed. mcp-api import --apply imports the data.");
    }
}

fn print_counts(plan: &ImportPlan, is_applied: bool) {
    let imported = if is_applied { "imported" } else { "to import" };
    let installed = if is_applied {
        "installed"
    } else {
        "to install"
    };
    print_line(format_args!(
        "servers: {} {imported}, {} exist already",
        plan.servers.len(),
        plan.existing_servers
    ));
    print_line(format_args!(
        "packages: {} {installed}, {} exist already",
        plan.packages.len(),
        plan.existing_packages
    ));
    for (kind, count, existing) in [
        ("secrets", plan.secrets.len(), plan.existing_secrets),
        ("OAuth tokens", plan.grants.len(), plan.existing_grants),
    ] {
        if is_applied {
            print_line(format_args!(
                "{kind}: {count} {imported}, {existing} exist already"
            ));
        } else {
            print_line(format_args!(
                "{kind}: {count} {imported}; existing ones stay"
            ));
        }
    }
}
