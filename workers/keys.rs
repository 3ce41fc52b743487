//! Another key for what is sealed: value by value, while calls go on.
//!
//! The job looks at all values, some at a time, and gives the new key to those that lie under an earlier one. Each is
//! replaced only as it was read, so it may be stopped anywhere, begun again, and go on beside every change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::sleep;

use super::context::Context;
use super::install::ProgressSink;
use super::secrets::away;
use crate::core::command::{KeyUsage, RotateKeys, RotationReport};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{ValueId, WorkerId};
use crate::crypto::seal::SealError;
use crate::telemetry::error::internal_error;

/// Values looked at between two words on how far it is.
const PAGE: usize = 1000;
/// Times through everything: others may put values under an earlier key meanwhile.
const PASSES: u32 = 5;
/// How often a store is asked that does not answer.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Goes through everything that is sealed and counts.
pub async fn count_keys(context: Arc<Context>) -> Result<KeyUsage, Failure> {
    count_values(&context).await
}

async fn count_values(context: &Context) -> Result<KeyUsage, Failure> {
    let record = context.vault.key_record(None).await.map_err(away)?;
    let alone = match &record {
        Some(record) => context
            .opener
            .new_check(record)
            .map_err(internal_error)?
            .is_none(),
        None => true,
    };
    let mut found = KeyUsage {
        alone,
        ..KeyUsage::default()
    };
    let mut after = None;
    loop {
        let page = context.vault.wrappings(after, PAGE).await.map_err(away)?;
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        for (id, wrapping) in &page {
            found.values += 1;
            match context.opener.rewrap(*id, wrapping) {
                Ok(None) => {}
                Ok(Some(_)) => found.earlier += 1,
                Err(_) => found.unreadable += 1,
            }
        }
    }
    Ok(found)
}

/// The body of its answer over HTTP.
#[derive(Serialize)]
struct RotationBody {
    success: bool,
    #[serde(flatten)]
    rotated: RotationReport,
}

/// Whether others have to do it, since they seal with that key and this worker does not. Decided slowly: it may well
/// come back.
pub async fn must_requeue(context: &Context, RotateKeys { to }: &RotateKeys) -> bool {
    if context.alone || context.key_id == *to {
        return false;
    }
    sleep(PAUSE).await;
    let registry = context.commands.registry();
    registry.workers_with_other_key(to).len() < registry.live_workers().len()
}

/// Puts everything under the key that seals; at the end the key record, where nothing is left under an earlier key.
pub async fn rotate_keys(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    RotateKeys { to }: RotateKeys,
) -> Result<Bytes, Failure> {
    let context = &*context;
    progress.phase("rewrapping");
    if context.key_id != to {
        let waits_for = context.commands.registry().workers_with_other_key(&to);
        return rotation_body(RotationReport {
            waits_for,
            ..RotationReport::default()
        });
    }
    let values = retry_store(|| count_values(context)).await?.values;
    let mut rotated = RotationReport::default();
    for pass in 0..PASSES {
        if pass > 0 {
            sleep(PAUSE).await;
        }
        single_pass(context, &*progress, values, &mut rotated).await?;
        (rotated.finished, rotated.waits_for) = retry_store(|| finish_rotation(context)).await?;
        if rotated.finished {
            break;
        }
    }
    tracing::info!(?rotated, "everything sealed was looked at");
    rotation_body(rotated)
}

fn rotation_body(rotated: RotationReport) -> Result<Bytes, Failure> {
    Ok(serde_json::to_vec(&RotationBody {
        success: true,
        rotated,
    })
    .map_err(internal_error)?
    .into())
}

async fn single_pass(
    context: &Context,
    progress: &dyn ProgressSink,
    values: u64,
    rotated: &mut RotationReport,
) -> Result<(), Failure> {
    let (mut after, mut seen) = (None, 0);
    while let Some(some) = retry_store(|| rewrap_page(context, after)).await? {
        after = Some(some.last);
        seen += some.seen;
        rotated.seen += some.seen;
        rotated.rewrapped += some.rewrapped;
        progress.line(&format!("{seen} of {} values", values.max(seen)));
    }
    Ok(())
}

/// What the store does not do now it may do in a moment.
async fn retry_store<T, F: Future<Output = Result<T, Failure>>>(
    mut work: impl FnMut() -> F,
) -> Result<T, Failure> {
    let mut tried = 1;
    loop {
        match work().await {
            Err(failure) if failure.code == Code::Unavailable && tried < TRIES => {
                sleep(PAUSE).await
            }
            done => return done,
        }
        tried += 1;
    }
}

/// Some values that were looked at.
struct RewrapPage {
    last: ValueId,
    seen: u64,
    rewrapped: u64,
}

/// Gives the new key to the values after this one, as many as are looked at at once. `None`: there are no more.
async fn rewrap_page(
    context: &Context,
    after: Option<ValueId>,
) -> Result<Option<RewrapPage>, Failure> {
    let page = context.vault.wrappings(after, PAGE).await.map_err(away)?;
    let Some(&(last, _)) = page.last() else {
        return Ok(None);
    };
    let seen = page.len() as u64;
    Ok(Some(RewrapPage {
        last,
        seen,
        rewrapped: rewrap_values(context, page).await?,
    }))
}

async fn rewrap_values(context: &Context, page: Vec<(ValueId, Bytes)>) -> Result<u64, Failure> {
    let mut changes = Vec::new();
    for (id, from) in page {
        match context.opener.rewrap(id, &from) {
            Ok(Some(to)) => changes.push(crate::ports::vault::WrappingChange { id, from, to }),
            Ok(None) => {}
            // Under none of the keys, it is lost already, whatever becomes of the earlier ones.
            Err(SealError::UnknownKey | SealError::Damaged) => {
                tracing::warn!(value = %id, "a value cannot be opened")
            }
            Err(error) => return Err(internal_error(error)),
        }
    }
    if changes.is_empty() {
        return Ok(0);
    }
    Ok(context.vault.rewrap(changes).await.map_err(away)? as u64)
}

/// Whether from here on the new key is enough, and the workers that may still put what is sealed with another one.
async fn finish_rotation(context: &Context) -> Result<(bool, Vec<WorkerId>), Failure> {
    let registry = context.commands.registry();
    if !context.alone {
        tokio::time::sleep_until(registry.all_reported_at().into()).await;
        let waits_for = registry.workers_with_other_key(&context.key_id);
        if !waits_for.is_empty() {
            return Ok((false, waits_for));
        }
    }
    // Only now, when nobody puts such values any more, can none be missed.
    let finished = count_values(context).await?.earlier == 0 && drop_old_keys(context).await?;
    Ok((finished, vec![]))
}

/// Has the key record accept the new key alone. False: somebody else has changed it meanwhile.
async fn drop_old_keys(context: &Context) -> Result<bool, Failure> {
    let Some(record) = context.vault.key_record(None).await.map_err(away)? else {
        return Ok(false);
    };
    match context.opener.new_check(&record).map_err(internal_error)? {
        Some(check) => context
            .vault
            .renew_key_record(&record, check)
            .await
            .map_err(away),
        None => Ok(true),
    }
}
