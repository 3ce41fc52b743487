//! Dead letters: put into the Vault with their reason in the log, tried again, dropped.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::ingest;
use crate::core::command::{DiscardDeadLetter, RetryDeadLetter};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, JobId, ValueId};
use crate::core::model::dead_letter::DeadLetter;
use crate::crypto::context::{JobValueContext, JobValueKind};
use crate::ports::bus::JobMessage;
use crate::ports::vault::VaultValue;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;
use crate::workers::context::Context;
use crate::workers::secrets::{away, drop_values};

/// How long a dead letter is kept.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Characters of a producer's words that are shown.
const WORDS: usize = 128;

/// A message as it lies in the Vault: bytes need not be text.
#[derive(Serialize, Deserialize)]
struct StoredMessage {
    id: String,
    command: String,
    call: Option<String>,
    reply: Option<String>,
    body: String,
}

/// Keeps what nobody can read, and tells producers.
pub async fn store_dead_letter(
    context: &Context,
    job: &JobMessage,
    why: &Failure,
) -> Result<(), Failure> {
    let letter = ValueId(Uuid::now_v7());
    let JobMessage {
        id,
        command,
        call,
        reply,
        body,
    } = job.clone();
    let size = body.len() as u64;
    let stored = StoredMessage {
        id,
        command,
        call,
        reply,
        body: BASE64_STANDARD.encode(&body),
    };
    let text = Zeroizing::new(serde_json::to_string(&stored).map_err(internal_error)?);
    let sealed = context
        .job_client
        .sealer()
        .seal(message_context(letter), &text)
        .map_err(internal_error)?;
    let values = vec![VaultValue { id: letter, sealed }];
    let words = |text: &str| {
        text.chars()
            .filter(|c| !c.is_control())
            .take(WORDS)
            .collect()
    };
    let (id, command) = (words(&job.id), words(&job.command));
    let until = now_ms() + KEPT.as_millis() as u64;
    let dead = DeadLetter {
        letter,
        id,
        command,
        reason: why.message.clone(),
        size,
        until,
    };
    tracing::warn!(%letter, reason = dead.reason, size, "a producer's message was set aside");
    let note = serde_json::to_vec(&dead).map_err(internal_error)?;
    let decide = move |catalog: &_| {
        Ok(crate::core::decide::dead_letter::store_dead_letter(
            catalog, &dead,
        ))
    };
    context
        .appender
        .commit_with_values(CommandId(Uuid::now_v7()), Actor::Worker, values, decide)
        .await?;
    context
        .bus
        .publish_dead_letter(letter.to_string(), note.into())
        .await;
    Ok(())
}

/// Reads a letter once more, perhaps with a newer program. What can be read now is a job like any other.
pub async fn retry_dead_letter(
    context: Arc<Context>,
    RetryDeadLetter { letter }: RetryDeadLetter,
) -> Result<(), Failure> {
    if context.projection.catalog().dead.get(letter).is_none() {
        return Err(crate::core::decide::dead_letter::dead_letter_not_found(
            letter,
        ));
    }
    let found = context
        .vault
        .get(&[letter])
        .await
        .map_err(away)?
        .pop()
        .flatten();
    let opened = context
        .opener
        .open(
            message_context(letter),
            &found
                .ok_or_else(|| crate::core::decide::dead_letter::dead_letter_not_found(letter))?,
        )
        .map_err(internal_error)?;
    let StoredMessage {
        id,
        command,
        call,
        reply,
        body,
    } = serde_json::from_str(opened.expose().map_err(internal_error)?).map_err(internal_error)?;
    let body = Bytes::from(BASE64_STANDARD.decode(body).map_err(internal_error)?);
    let _ = ingest::submit_message(
        &context,
        &JobMessage {
            id,
            command,
            call,
            reply,
            body,
        },
    )
    .await?;
    expire_dead_letters(&context, vec![letter]).await
}

pub async fn discard_dead_letter(
    context: Arc<Context>,
    DiscardDeadLetter { letter }: DiscardDeadLetter,
) -> Result<(), Failure> {
    if context.projection.catalog().dead.get(letter).is_none() {
        return Err(crate::core::decide::dead_letter::dead_letter_not_found(
            letter,
        ));
    }
    expire_dead_letters(&context, vec![letter]).await
}

/// Lets go of letters and of what they hold.
pub async fn expire_dead_letters(context: &Context, letters: Vec<ValueId>) -> Result<(), Failure> {
    let named = letters.clone();
    let decide = move |catalog: &_| {
        Ok(crate::core::decide::dead_letter::remove_dead_letters(
            catalog, &named,
        ))
    };
    context
        .appender
        .commit(CommandId(Uuid::now_v7()), Actor::Worker, decide)
        .await?;
    drop_values(context, &letters).await;
    Ok(())
}

fn message_context(letter: ValueId) -> JobValueContext {
    JobValueContext {
        job: JobId(letter.0),
        part: JobValueKind::Letter,
        value: letter,
    }
}
