//! Handlers of the commands on secrets, and the sweep of the Vault.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;

use super::context::Context;
use super::idempotency;
use crate::core::catalog::server::SecretRef;
use crate::core::command::{DeleteSecret, Disconnect, SetSecret, SweepVault};
use crate::core::event::Event;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::crypto::seal::SealError;
use crate::ports::vault::{Sealed, VaultValue};
use crate::telemetry::error::{error_chain, internal_error};
use crate::time::clock::now_ms;
use crate::workers::sealed_store::store_unavailable;

/// Age of a value that the sweep may remove. A value is stored before the event that names it, so a young value may be
/// unnamed.
const MIN_AGE: Duration = Duration::from_secs(3600);
/// Time between two sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);

/// Sets a secret: stores the value, appends the event, removes the old value. The Vault contains every value that the
/// event log names at any moment.
pub(super) async fn set(context: Arc<Context>, command: SetSecret) -> Result<(), Failure> {
    if command.if_absent && command.origin.key.is_none() {
        // If the secret exists, no value is stored. With an idempotency key the command may be a repeat that succeeded.
        crate::core::decide::secret::set_secret(&context.projection.catalog(), &command)?;
    }
    let values = vec![current(&context, command.value, &command.sealed)?];
    let server = command.server;
    let user = command.user.clone();
    let name = command.name.clone();
    let origin = command.origin.clone();
    let done = idempotency::commit_once_with_values(&context, &origin, values, move |catalog| {
        crate::core::decide::secret::set_secret(catalog, &command)
    })
    .await?;
    let before = done
        .before
        .and_then(|before| before.server_by_id(server).cloned());
    let old = before
        .iter()
        .flat_map(|server| match &user {
            Some(user) => server.secrets_of(user.as_str()),
            None => &server.shared_secrets,
        })
        .find(|secret| secret.name == name);
    if let Some(SecretRef { value, .. }) = old {
        drop_values(&context, &[*value]).await;
    }
    Ok(())
}

/// Converts a value that a facade sealed into a value of the Vault.
///
/// # Errors
/// A failure if the value is no base64, or if no key of this worker opens it.
pub(super) fn current(context: &Context, id: ValueId, sealed: &str) -> Result<VaultValue, Failure> {
    let sealed = BASE64_STANDARD
        .decode(sealed)
        .map_err(|_| Failure::invalid("sealed must be base64"))?;
    // A facade that was not restarted yet seals with the old key, or with a key that this worker does not have.
    let sealed = context.opener.rewrap_value(id, Sealed(Bytes::from(sealed))).map_err(|error| match error {
        SealError::UnknownKey => Failure::unavailable(
            "The facade seals with a key that the worker does not have; list it in the worker's SECRETS_KEYS_OLD",
        ),
        other => internal_error(other),
    })?;
    Ok(VaultValue { id, sealed })
}

/// Deletes a secret: appends the event, removes the value, then replies. A client with a reply knows that the value is
/// gone.
pub(super) async fn delete(context: Arc<Context>, command: DeleteSecret) -> Result<(), Failure> {
    let origin = command.origin.clone();
    let done = idempotency::commit_once(&context, &origin, move |catalog| {
        crate::core::decide::secret::delete_secret(catalog, &command)
    })
    .await?;
    let values: Vec<ValueId> = done.events.iter().flat_map(removed_values).collect();
    remove_values(&context, &values).await
}

/// Removes all that a user has stored for a server, then replies. A client with a reply knows that the values are gone.
pub(super) async fn disconnect(context: Arc<Context>, command: Disconnect) -> Result<(), Failure> {
    let origin = command.origin.clone();
    let done = idempotency::commit_once(&context, &origin, move |catalog| {
        crate::core::decide::credential::disconnect(catalog, &command)
    })
    .await?;
    let values: Vec<ValueId> = done.events.iter().flat_map(removed_values).collect();
    remove_values(&context, &values).await
}

fn removed_values(event: &Event) -> Vec<ValueId> {
    match event {
        Event::SecretDeleted(event) => vec![event.value],
        Event::GrantRemoved(event) => vec![event.tokens.access, event.tokens.renewal],
        Event::GoogleDisconnected(event) => vec![event.value],
        _ => vec![],
    }
}

async fn remove_values(context: &Context, values: &[ValueId]) -> Result<(), Failure> {
    context
        .vault
        .remove(values)
        .await
        .map_err(store_unavailable)?;
    context.manager.sealed_store.forget(values);
    Ok(())
}

/// Removes the values that are older than an hour and that the catalog does not name.
pub(super) async fn sweep(context: &Context) -> Result<(), Failure> {
    let unnamed = unnamed_values(context).await?;
    tracing::info!(
        values = unnamed.len(),
        "the sweep removes values that the catalog does not name"
    );
    context
        .vault
        .remove(&unnamed)
        .await
        .map_err(store_unavailable)
}

async fn unnamed_values(context: &Context) -> Result<Vec<ValueId>, Failure> {
    // The catalog is read after the Vault, so a value that an event named in between stays.
    let old = context
        .vault
        .older_than(MIN_AGE)
        .await
        .map_err(store_unavailable)?;
    if old.is_empty() {
        return Ok(old);
    }
    if !context
        .projection
        .wait_for(
            context
                .projection
                .log()
                .head()
                .await
                .map_err(store_unavailable)?,
            MIN_AGE,
        )
        .await
    {
        return Err(Failure::unavailable("The event log could not be read"));
    }
    let named = context.projection.catalog().values();
    Ok(old.into_iter().filter(|id| !named.contains(id)).collect())
}

/// Submits a sweep now and every hour, if there are unnamed values. All processes use the hour as key of the job, so one
/// sweep runs.
pub(super) async fn schedule_sweeps(context: Arc<Context>) {
    loop {
        match unnamed_values(&context).await {
            Ok(unnamed) if unnamed.is_empty() => {}
            Ok(_) => {
                let hour = (now_ms() / SWEEP_INTERVAL.as_millis() as u64).to_string();
                let submitted = context
                    .job_client
                    .submit_maintenance(&SweepVault {}, &hour)
                    .await;
                if let Err(failure) = submitted {
                    tracing::warn!(%failure, "a sweep could not be submitted; the next one will be");
                }
            }
            Err(failure) => {
                tracing::warn!(%failure, "cannot look for values to sweep; the next sweep will")
            }
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

/// Removes values that the catalog does not name any more. If that fails, the sweep removes them.
pub(super) async fn drop_values(context: &Context, values: &[ValueId]) {
    context.manager.sealed_store.forget(values);
    if let Err(error) = context.vault.remove(values).await {
        tracing::warn!(
            error = error_chain(&error),
            "old values could not be removed; the sweep will remove them"
        );
    }
}
