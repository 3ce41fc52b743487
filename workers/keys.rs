//! Another key for what is sealed: value by value, while calls go on.
//!
//! A part looks at the values after an id for two seconds and gives the new key to those that lie under an
//! earlier one. Each is replaced only as it was read, so parts may be repeated, cut short, and run beside each
//! other and beside every change.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::context::Context;
use super::secrets::away;
use crate::core::command::{KeyUse, Rewrap, Rewrapped};
use crate::core::failure::Failure;
use crate::core::names::ValueId;
use crate::ports;
use crate::seal::SealError;
use crate::telemetry::bug;

/// How long one part goes on.
const PART: Duration = Duration::from_secs(2);
/// Values looked at between two looks at the clock.
const PAGE: usize = 1000;

/// Goes through everything that is sealed and counts.
pub async fn count(context: Arc<Context>) -> Result<KeyUse, Failure> {
    counted(&context).await
}

async fn counted(context: &Context) -> Result<KeyUse, Failure> {
    let record = context.vault.key_record(None).await.map_err(away)?;
    let alone = match &record {
        Some(record) => context.opener.new_check(record).map_err(bug)?.is_none(),
        None => true,
    };
    let mut found = KeyUse { alone, ..KeyUse::default() };
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

/// One part; at the end the key record, where nothing is left under an earlier key.
pub async fn rewrap(context: Arc<Context>, command: Rewrap) -> Result<Rewrapped, Failure> {
    let until = Instant::now() + PART;
    let mut part = Rewrapped { next: command.after, ..Rewrapped::default() };
    loop {
        let page = context.vault.wrappings(part.next, PAGE).await.map_err(away)?;
        let Some((last, _)) = page.last() else {
            part.next = None;
            return finish(&context, part).await;
        };
        part.next = Some(*last);
        part.seen += page.len() as u64;
        part.rewrapped += put_anew(&context, page).await?;
        if Instant::now() >= until {
            return Ok(part);
        }
    }
}

async fn put_anew(context: &Context, page: Vec<(ValueId, Bytes)>) -> Result<u64, Failure> {
    let mut changes = Vec::new();
    for (id, from) in page {
        match context.opener.rewrap(id, &from) {
            Ok(Some(to)) => changes.push(ports::Rewrap { id, from, to }),
            Ok(None) => {}
            // Under none of the keys, it is lost already, whatever becomes of the earlier ones.
            Err(SealError::UnknownKey | SealError::Damaged) => tracing::warn!(value = %id, "a value cannot be opened"),
            Err(error) => return Err(bug(error)),
        }
    }
    if changes.is_empty() {
        return Ok(0);
    }
    Ok(context.vault.rewrap(changes).await.map_err(away)? as u64)
}

/// From here on the new key is enough, unless somebody may still put what is sealed with another one.
async fn finish(context: &Context, mut part: Rewrapped) -> Result<Rewrapped, Failure> {
    let board = &context.asker.board;
    if !context.alone {
        tokio::time::sleep_until(board.complete_at().into()).await;
        part.waits_for = board.sealing_otherwise(&context.key_id);
        if !part.waits_for.is_empty() {
            return Ok(part);
        }
    }
    // Only now, when nobody puts such values any more, can none be missed.
    if counted(context).await?.earlier > 0 {
        return Ok(part);
    }
    let Some(record) = context.vault.key_record(None).await.map_err(away)? else { return Ok(part) };
    part.finished = match context.opener.new_check(&record).map_err(bug)? {
        Some(check) => context.vault.renew_key_record(&record, check).await.map_err(away)?,
        None => true,
    };
    Ok(part)
}
