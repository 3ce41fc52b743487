//! Shortens the event log: the job `log.compact`, and the schedule of `LOG_RETENTION`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;

use super::context::Context;
use super::install::ProgressSink;
use crate::core::command::{CompactLog, CompactionReport};
use crate::core::failure::Failure;
use crate::core::ids::CommandId;
use crate::eventlog::compaction::{CompactionPlan, CompactionStep, compact_log, find_last_before};
use crate::eventlog::reader::{PositionParameter, ReadError};
use crate::eventlog::snapshot::load_beginning_head;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::time::retry::retry_store_call;

/// The time between two looks at the age of the oldest entry.
const CHECK_INTERVAL: Duration = Duration::from_secs(3_600);
const HOUR_MS: u64 = 3_600_000;
/// The schedule shortens the log when the oldest entry is this much older than `LOG_RETENTION`, so that
/// one archive holds the events of at least a day.
const SLACK_MS: u64 = 24 * HOUR_MS;

/// The body of the job's answer over HTTP.
#[derive(Serialize)]
struct CompactionBody {
    success: bool,
    #[serde(flatten)]
    report: CompactionReport,
}

/// Moves the entries that were appended before a time to an archive. Returns the body of the answer.
///
/// # Errors
/// Fails if the store stays unavailable, or if the archive cannot be written.
pub(super) async fn compact(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    command: CompactLog,
) -> Result<Bytes, Failure> {
    let report = retry_store_call(|| run_compaction(&context, &*progress, &command)).await?;
    tracing::info!(?report, "the log was shortened");
    let body = CompactionBody {
        success: true,
        report,
    };
    Ok(serde_json::to_vec(&body).map_err(internal_error)?.into())
}

async fn run_compaction(
    context: &Context,
    progress: &dyn ProgressSink,
    command: &CompactLog,
) -> Result<CompactionReport, Failure> {
    let plan = plan_compaction(context, command.before);
    let on_step = |step| report_step(progress, step);
    compact_log(context.projection.log(), &plan, on_step)
        .await
        .map_err(|error| error.failure())
}

/// Returns the plan. The catalog names the commits that a repeated request may still need.
fn plan_compaction(context: &Context, before: u64) -> CompactionPlan {
    let catalog = context.projection.catalog();
    let now = now_ms();
    let records = catalog.idempotency.all();
    let retained: HashSet<CommandId> = records
        .filter(|record| record.until > now)
        .map(|record| record.command)
        .collect();
    // An interrupted job looks for its commit when it runs again.
    let interrupted = catalog
        .jobs
        .newest_first()
        .filter(|job| job.ended().is_none() && job.attempts() > 0)
        .filter_map(|job| job.id.made_at())
        .min();
    CompactionPlan {
        before: before.min(interrupted.unwrap_or(u64::MAX)),
        head: catalog.position,
        retained,
        folder: context.log_retention.archive.clone(),
    }
}

fn report_step(progress: &dyn ProgressSink, step: CompactionStep) {
    match step {
        CompactionStep::Archiving { position, last } => {
            progress.phase("archiving");
            progress.line(&format!("position {position} of {last}"));
        }
        CompactionStep::Storing => progress.phase("storing the state"),
        CompactionStep::Removing { removed } => {
            progress.phase("removing");
            progress.line(&format!("{removed} entries"));
        }
        CompactionStep::Reclaiming => progress.phase("reclaiming space"),
    }
}

/// Submits a compaction about once a day, if `LOG_RETENTION` is set and the log has older entries. All
/// processes use the hour as key of the job, so one compaction runs, and a failed one is repeated.
pub(super) async fn schedule_compactions(context: Arc<Context>) {
    let Some(keep) = context.log_retention.keep else {
        return;
    };
    loop {
        let now = now_ms();
        let before = now.saturating_sub(keep.as_millis() as u64);
        match has_older_entries(&context, before.saturating_sub(SLACK_MS)).await {
            Ok(false) => {}
            Ok(true) => {
                let hour = (now / HOUR_MS).to_string();
                let command = CompactLog { before };
                let submitted = context.job_client.submit_maintenance(&command, &hour).await;
                if let Err(failure) = submitted {
                    tracing::warn!(%failure, "cannot submit a compaction; retrying in an hour");
                }
            }
            Err(failure) => {
                tracing::warn!(%failure, "cannot read the age of the log; retrying in an hour");
            }
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

async fn has_older_entries(context: &Context, before: u64) -> Result<bool, Failure> {
    let log = context.projection.log();
    let beginning = load_beginning_head(log).await;
    let beginning = beginning
        .map_err(|error| ReadError::from(error).into_failure(PositionParameter::Absent))?;
    let start = beginning.map_or_else(Default::default, |beginning| beginning.position);
    let head = context.projection.position();
    let older = find_last_before(log, start, head, before).await;
    let older = older.map_err(|error| error.into_failure(PositionParameter::Absent))?;
    Ok(older > start)
}
