//! `mcp-api jobs [show|cancel]`: lists the jobs of a user, shows a job with its answer, and cancels a job.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::client::{ApiArgs, block_on, path_segment, query, send_for_success};
use super::error::CommandResult;
use super::output::{print_line, printable};
use crate::time::rfc3339::format_ms;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct JobsArgs {
    #[command(subcommand)]
    command: Option<JobCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Args)]
struct ListArgs {
    /// The user of the jobs; without it, the caller, or `default` for an administrator
    #[arg(long)]
    user: Option<String>,
    /// Only jobs in this state: waiting, running, succeeded, failed, cancelled or unknown; may be repeated
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<String>,
    /// The most jobs, 1 to 1000; without it, 100
    #[arg(long, value_name = "NUMBER")]
    limit: Option<String>,
    /// Only jobs that were accepted before this job
    #[arg(long, value_name = "ID")]
    before: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Subcommand)]
enum JobCommand {
    /// Show a job as JSON, with its answer if it has ended
    Show(JobArgs),
    /// Cancel a job; a waiting job never runs, and a running job gets a request to stop
    Cancel(JobArgs),
}

#[derive(Args)]
struct JobArgs {
    /// The first column of `jobs`
    id: String,
    /// The user of the job; without it, the caller, or `default` for an administrator
    #[arg(long)]
    user: Option<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub fn run(args: &JobsArgs) -> CommandResult {
    match &args.command {
        None => list(&args.list),
        Some(JobCommand::Show(job)) => show(job),
        Some(JobCommand::Cancel(job)) => cancel(job),
    }
}

/// Prints one line per job, the newest first.
fn list(args: &ListArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let states = Some(args.states.join(",")).filter(|states| !states.is_empty());
        let parameters = query(&[
            ("username", args.user.as_deref()),
            ("state", states.as_deref()),
            ("limit", args.limit.as_deref()),
            ("before", args.before.as_deref()),
        ]);
        let path = format!("/jobs{parameters}");
        let body = send_for_success(&api, Method::GET, &path, None).await?;
        let jobs = body["jobs"].as_array().map_or(&[][..], Vec::as_slice);
        for job in jobs {
            print_line(job_line(job));
        }
        if jobs.is_empty() {
            eprintln!("There are no such jobs.");
        }
        if let Some(next) = body["next"].as_str() {
            eprintln!("There are more jobs; `--before {next}` shows them.");
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn job_line(job: &Value) -> String {
    let text = |field: &str| job[field].as_str().unwrap_or_default();
    let at = job["at"].as_u64().map(format_ms).unwrap_or_default();
    let id = text("id");
    let state = state_text(job);
    let command = text("command");
    let server = text("serverName");
    let tool = text("methodName");
    let line = format!("{id}  {state:9}  {at}  {command}  {server} {tool}");
    printable(line.trim_end())
}

/// Returns the state of a job, and `stopping` for a running job that was cancelled.
fn state_text(job: &Value) -> &str {
    if job["cancelling"] == true {
        "stopping"
    } else {
        job["state"].as_str().unwrap_or_default()
    }
}

fn show(args: &JobArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let body = send_for_success(&api, Method::GET, &args.path(), None).await?;
        print_line(format_args!("{:#}", body["job"]));
        Ok(ExitCode::SUCCESS)
    })
}

fn cancel(args: &JobArgs) -> CommandResult {
    let api = args.api.api()?;
    block_on(async {
        let body = send_for_success(&api, Method::DELETE, &args.path(), None).await?;
        print_line(job_line(&body["job"]));
        Ok(ExitCode::SUCCESS)
    })
}

impl JobArgs {
    fn path(&self) -> String {
        let id = path_segment(&self.id);
        format!("/jobs/{id}{}", query(&[("username", self.user.as_deref())]))
    }
}
