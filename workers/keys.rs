//! Rotates the deployment key: encrypts the wrapping of every sealed value with the current key. Calls
//! continue during the rotation.
//!
//! The job replaces a wrapping only if no other process has changed the wrapping since the job read it.
//! The job can therefore stop at any moment and run again, and it runs beside every change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::context::Context;
use super::install::ProgressSink;
use super::sealed_store::store_unavailable;
use crate::core::command::{KeyUsage, RotateKeys, RotationReport};
use crate::core::failure::Failure;
use crate::core::ids::{ValueId, WorkerId};
use crate::crypto::seal::SealError;
use crate::ports::vault::WrappingChange;
use crate::telemetry::error::internal_error;
use crate::time::retry::retry_store_call;

/// The values of one step. The job reports its progress after each step.
const PAGE_SIZE: usize = 1000;
/// The passes over all values. Another process may store values under an earlier key during a pass.
const MAX_PASSES: u32 = 5;
/// The pause between two passes, and before a job goes to another worker.
const PAUSE: Duration = Duration::from_secs(1);

/// Counts the sealed values by the key of their wrappings.
///
/// # Errors
/// Fails if the store is unavailable.
pub(super) async fn count_keys(context: Arc<Context>) -> Result<KeyUsage, Failure> {
    count_values(&context).await
}

async fn count_values(context: &Context) -> Result<KeyUsage, Failure> {
    let mut usage = KeyUsage {
        alone: accepts_current_key_only(context).await?,
        ..KeyUsage::default()
    };
    let mut after = None;
    loop {
        let page = context
            .vault
            .wrappings(after, PAGE_SIZE)
            .await
            .map_err(store_unavailable)?;
        let Some((last, _)) = page.last() else {
            return Ok(usage);
        };
        after = Some(*last);
        for (id, wrapping) in &page {
            usage.values += 1;
            match context.opener.rewrap(*id, wrapping) {
                Ok(None) => {}
                Ok(Some(_)) => usage.earlier += 1,
                Err(_) => usage.unreadable += 1,
            }
        }
    }
}

/// Returns whether the key record accepts no earlier key.
async fn accepts_current_key_only(context: &Context) -> Result<bool, Failure> {
    let record = context.vault.key_record(None).await;
    let Some(record) = record.map_err(store_unavailable)? else {
        return Ok(true);
    };
    let renewed = context
        .opener
        .renewed_check(&record)
        .map_err(internal_error)?;
    Ok(renewed.is_none())
}

/// The body of the job's answer over HTTP.
#[derive(Serialize)]
struct RotationBody {
    success: bool,
    #[serde(flatten)]
    rotated: RotationReport,
}

/// Returns whether another worker must execute the rotation, because this worker has another key. Waits
/// before it answers, because this worker may claim the job again.
pub(super) async fn must_requeue(context: &Context, command: &RotateKeys) -> bool {
    if context.alone || context.key_id == command.to {
        return false;
    }
    sleep(PAUSE).await;
    let registry = context.commands.registry();
    registry.workers_with_other_key(&command.to).len() < registry.live_workers().len()
}

/// Encrypts every wrapping with the current key. If no earlier key is in use any more, the key record
/// accepts the current key only. Returns the body of the answer.
///
/// # Errors
/// Fails if the store stays unavailable.
pub(super) async fn rotate_keys(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    command: RotateKeys,
) -> Result<Bytes, Failure> {
    progress.phase("rewrapping");
    if context.key_id != command.to {
        let registry = context.commands.registry();
        return rotation_body(RotationReport {
            waits_for: registry.workers_with_other_key(&command.to),
            ..RotationReport::default()
        });
    }
    let usage = retry_store_call(|| count_values(&context)).await?;
    let mut report = RotationReport::default();
    for pass in 0..MAX_PASSES {
        if pass > 0 {
            sleep(PAUSE).await;
        }
        rewrap_all(&context, &*progress, usage.values, &mut report).await?;
        let outcome = retry_store_call(|| finish_rotation(&context)).await?;
        report.finished = outcome.is_finished;
        report.waits_for = outcome.waits_for;
        if report.finished {
            break;
        }
    }
    tracing::info!(?report, "key rotation ended");
    rotation_body(report)
}

fn rotation_body(rotated: RotationReport) -> Result<Bytes, Failure> {
    let body = RotationBody {
        success: true,
        rotated,
    };
    Ok(serde_json::to_vec(&body).map_err(internal_error)?.into())
}

/// Passes once over all values. `total` is their number for the progress.
async fn rewrap_all(
    context: &Context,
    progress: &dyn ProgressSink,
    total: u64,
    report: &mut RotationReport,
) -> Result<(), Failure> {
    let mut after = None;
    let mut seen = 0;
    while let Some(page) = retry_store_call(|| rewrap_page(context, after)).await? {
        after = Some(page.last);
        seen += page.seen;
        report.seen += page.seen;
        report.rewrapped += page.rewrapped;
        progress.line(&format!("{seen} of {} values", total.max(seen)));
    }
    Ok(())
}

/// The result of one step.
struct RewrappedPage {
    last: ValueId,
    seen: u64,
    rewrapped: u64,
}

/// Encrypts the wrappings of the values after `after`. Returns `None` if no values follow.
async fn rewrap_page(
    context: &Context,
    after: Option<ValueId>,
) -> Result<Option<RewrappedPage>, Failure> {
    let page = context
        .vault
        .wrappings(after, PAGE_SIZE)
        .await
        .map_err(store_unavailable)?;
    let Some(&(last, _)) = page.last() else {
        return Ok(None);
    };
    let seen = page.len() as u64;
    let rewrapped = rewrap_values(context, page).await?;
    Ok(Some(RewrappedPage {
        last,
        seen,
        rewrapped,
    }))
}

async fn rewrap_values(context: &Context, page: Vec<(ValueId, Bytes)>) -> Result<u64, Failure> {
    let mut changes = Vec::new();
    for (id, from) in page {
        match context.opener.rewrap(id, &from) {
            Ok(Some(to)) => changes.push(WrappingChange { id, from, to }),
            Ok(None) => {}
            // No configured key opens the value, so it is lost with or without the rotation.
            Err(SealError::UnknownKey | SealError::Damaged) => {
                tracing::warn!(value = %id, "cannot open a sealed value");
            }
            Err(error) => return Err(internal_error(error)),
        }
    }
    if changes.is_empty() {
        return Ok(0);
    }
    let changed = context.vault.rewrap(changes).await;
    Ok(changed.map_err(store_unavailable)? as u64)
}

/// The state of a rotation after a pass.
struct PassOutcome {
    is_finished: bool,
    /// The workers that may still store values under another key.
    waits_for: Vec<WorkerId>,
}

async fn finish_rotation(context: &Context) -> Result<PassOutcome, Failure> {
    if !context.alone {
        let registry = context.commands.registry();
        tokio::time::sleep_until(registry.all_reported_at()).await;
        let waits_for = registry.workers_with_other_key(&context.key_id);
        if !waits_for.is_empty() {
            return Ok(PassOutcome {
                is_finished: false,
                waits_for,
            });
        }
    }
    // No worker stores values under an earlier key any more, so this count misses none.
    let usage = count_values(context).await?;
    let is_finished = usage.earlier == 0 && drop_old_keys(context).await?;
    Ok(PassOutcome {
        is_finished,
        waits_for: vec![],
    })
}

/// Makes the key record accept the current key only. Returns `false` if another process has changed the
/// record since it was read.
async fn drop_old_keys(context: &Context) -> Result<bool, Failure> {
    let record = context.vault.key_record(None).await;
    let Some(record) = record.map_err(store_unavailable)? else {
        return Ok(false);
    };
    match context
        .opener
        .renewed_check(&record)
        .map_err(internal_error)?
    {
        Some(check) => context
            .vault
            .renew_key_record(&record, check)
            .await
            .map_err(store_unavailable),
        None => Ok(true),
    }
}
