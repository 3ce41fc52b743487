//! Stores the messages of producers that no worker can parse, and retries or discards them.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::ingest;
use crate::core::command::{DiscardDeadLetter, RetryDeadLetter};
use crate::core::decide::dead_letter as decide;
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
use crate::workers::sealed_store::store_unavailable;
use crate::workers::secrets::drop_values;

/// How long the Vault keeps a dead letter.
const LIFETIME: Duration = Duration::from_secs(7 * 86_400);
/// The characters of the id and the command of a message that the log shows.
const MAX_SHOWN: usize = 128;

/// A message as the Vault keeps it. The body is base64, because it may not be text.
#[derive(Serialize, Deserialize)]
struct StoredMessage {
    id: String,
    command: String,
    call: Option<String>,
    reply: Option<String>,
    body: String,
}

impl StoredMessage {
    fn from_message(message: &JobMessage) -> Self {
        Self {
            id: message.id.clone(),
            command: message.command.clone(),
            call: message.call.clone(),
            reply: message.reply.clone(),
            body: BASE64_STANDARD.encode(&message.body),
        }
    }

    fn into_message(self) -> Result<JobMessage, base64::DecodeError> {
        Ok(JobMessage {
            body: Bytes::from(BASE64_STANDARD.decode(self.body)?),
            id: self.id,
            command: self.command,
            call: self.call,
            reply: self.reply,
        })
    }
}

/// Stores a message that no worker can parse, and publishes its reason.
///
/// # Errors
/// Fails if the message cannot be sealed, or if the store is unavailable.
pub(crate) async fn store_dead_letter(
    context: &Context,
    message: &JobMessage,
    reason: &Failure,
) -> Result<(), Failure> {
    let id = ValueId(Uuid::now_v7());
    let stored = StoredMessage::from_message(message);
    let text = Zeroizing::new(serde_json::to_string(&stored).map_err(internal_error)?);
    let sealed = context
        .job_client
        .sealer()
        .seal(message_context(id), &text)
        .map_err(internal_error)?;
    let dead_letter = DeadLetter {
        dead_letter: id,
        id: shown_text(&message.id),
        command: shown_text(&message.command),
        reason: reason.message.clone(),
        size: message.body.len() as u64,
        until: now_ms() + LIFETIME.as_millis() as u64,
    };
    tracing::warn!(
        dead_letter = %id,
        reason = dead_letter.reason,
        size = dead_letter.size,
        "dead letter stored"
    );
    let notice = serde_json::to_vec(&dead_letter).map_err(internal_error)?;
    context
        .appender
        .commit_with_values(
            CommandId(Uuid::now_v7()),
            Actor::worker(),
            vec![VaultValue { id, sealed }],
            move |catalog: &_| Ok(decide::store_dead_letter(catalog, &dead_letter)),
        )
        .await?;
    context
        .bus
        .publish_dead_letter(id.to_string(), notice.into())
        .await;
    Ok(())
}

fn shown_text(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_SHOWN)
        .collect()
}

/// Parses a dead letter again, because a newer program may support its message. A message that can be
/// parsed becomes a job.
///
/// # Errors
/// Fails if the dead letter is unknown, or if it cannot be parsed either now.
pub(crate) async fn retry_dead_letter(
    context: Arc<Context>,
    command: RetryDeadLetter,
) -> Result<(), Failure> {
    let id = command.dead_letter;
    require_dead_letter(&context, id)?;
    let sealed = context
        .vault
        .get(&[id])
        .await
        .map_err(store_unavailable)?
        .pop()
        .flatten()
        .ok_or_else(|| decide::dead_letter_not_found(id))?;
    let opened = context
        .opener
        .open(message_context(id), &sealed)
        .map_err(internal_error)?;
    let text = opened.expose().map_err(internal_error)?;
    let stored: StoredMessage = serde_json::from_str(text).map_err(internal_error)?;
    let message = stored.into_message().map_err(internal_error)?;
    ingest::submit_message(&context, &message).await?;
    remove_dead_letters(&context, vec![id]).await
}

/// Removes a dead letter.
///
/// # Errors
/// Fails if the dead letter is unknown, or if the store is unavailable.
pub(crate) async fn discard_dead_letter(
    context: Arc<Context>,
    command: DiscardDeadLetter,
) -> Result<(), Failure> {
    require_dead_letter(&context, command.dead_letter)?;
    remove_dead_letters(&context, vec![command.dead_letter]).await
}

fn require_dead_letter(context: &Context, id: ValueId) -> Result<(), Failure> {
    match context.projection.catalog().dead_letters.get(id) {
        Some(_) => Ok(()),
        None => Err(decide::dead_letter_not_found(id)),
    }
}

/// Removes dead letters and their messages.
///
/// # Errors
/// Fails if the store is unavailable.
pub(crate) async fn remove_dead_letters(
    context: &Context,
    ids: Vec<ValueId>,
) -> Result<(), Failure> {
    let removed = ids.clone();
    context
        .appender
        .commit(
            CommandId(Uuid::now_v7()),
            Actor::worker(),
            move |catalog: &_| Ok(decide::remove_dead_letters(catalog, &removed)),
        )
        .await?;
    drop_values(context, &ids).await;
    Ok(())
}

fn message_context(id: ValueId) -> JobValueContext {
    JobValueContext {
        job: JobId(id.0),
        part: JobValueKind::DeadLetter,
        value: id,
    }
}
