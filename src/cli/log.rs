//! `mcp-api log compact` and `mcp-api log show`: shorten the event log, and print an archive.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::{ApiArgs, block_on, error_text, send_as_job};
use super::error::{CliError, CommandResult};
use super::follow::{JobEnd, follow_job};
use super::output::print_line;
use super::retry::retry_for_success;
use crate::app::archive;

#[derive(Subcommand)]
pub enum LogCommand {
    /// Move events to an archive file of the worker, and remove them from the log
    Compact {
        /// The age of the events, such as 90d; at least 1d
        #[arg(long)]
        before: String,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Print the entries of an archive as JSON lines, and check the whole file
    Show {
        /// The archive file
        file: PathBuf,
    },
}

pub(super) fn run(command: &LogCommand) -> CommandResult {
    match command {
        LogCommand::Compact { before, api } => compact(api, before),
        LogCommand::Show { file } => show(file),
    }
}

/// Starts a compaction, or finds the running one, and follows it to its end.
fn compact(api: &ApiArgs, before: &str) -> CommandResult {
    let api = api.api()?;
    block_on(async {
        let body = json!({ "before": before });
        // A repeated request returns the same job.
        let start = async || send_as_job(&api, "/log/compact", &body, None).await;
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

fn report(answer: &Value) -> CommandResult {
    if answer["success"] != true {
        return Err(CliError::Failed(error_text(answer)));
    }
    let oldest = &answer["oldest"];
    match answer["archive"].as_str() {
        Some(archive) => print_line(format_args!(
            "{} events are in {archive} of the worker; the log begins at position {oldest}.",
            answer["events"]
        )),
        None => print_line(format_args!(
            "No event is old enough; the log begins at position {oldest}."
        )),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(file: &Path) -> CommandResult {
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    archive::read_archive(file, |line| writeln!(output, "{line}"))?;
    output
        .flush()
        .map_err(|error| CliError::Failed(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}
