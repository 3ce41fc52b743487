//! Changes of secrets, and the sweep of what nothing names any more.

use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;

use super::context::Context;
use super::idempotency;
use crate::core::arguments::merge::ArgumentForm;
use crate::core::catalog::server::{SecretRef, Server};
use crate::core::command::{DeleteSecret, SetSecret, SweepVault};
use crate::core::event::Event;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::names::{SecretName, UserName};
use crate::crypto::context::SecretContext;
use crate::crypto::seal::{Plaintext, SealError};
use crate::ports::error::StoreError;
use crate::ports::vault::{Sealed, VaultValue};
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;

/// A user's secret, opened for one call.
pub struct OpenedSecret {
    pub name: SecretName,
    pub id: ValueId,
    pub value: Plaintext,
    pub form: ArgumentForm,
}

/// A value is put before the event that names it: until then, and for a while, nothing may sweep it.
const UNNAMED: Duration = Duration::from_secs(3600);
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Append, drop the old: at every moment what the log names is there.
pub async fn set(context: Arc<Context>, command: SetSecret) -> Result<(), Failure> {
    if command.if_absent && command.key.is_none() {
        // Where one is there already, nothing need be put. A key has to find what it has made before.
        crate::core::decide::secret::set_secret(&context.projection.catalog(), &command)?;
    }
    let values = vec![current(&context, command.value, &command.sealed)?];
    let (server, user, name) = (command.server, command.user.clone(), command.name.clone());
    let (id, key) = (command.id, command.key);
    let done = idempotency::commit_once_with_values(&context, id, key, values, move |catalog| {
        crate::core::decide::secret::set_secret(catalog, &command)
    })
    .await?;
    let before = done
        .before
        .and_then(|before| before.server_by_id(server).cloned());
    let old = before
        .iter()
        .flat_map(|server| server.secrets_of(user.as_str()))
        .find(|secret| secret.name == name);
    if let Some(SecretRef { value, .. }) = old {
        drop_values(&context, &[*value]).await;
    }
    Ok(())
}

/// What was sealed at the door, for the Vault.
pub fn current(context: &Context, id: ValueId, sealed: &str) -> Result<VaultValue, Failure> {
    let sealed = BASE64_STANDARD
        .decode(sealed)
        .map_err(|_| Failure::invalid("sealed must be base64"))?;
    // A facade that was not started anew yet seals with the key before, or with one that nobody here has.
    let sealed = context.opener.rewrap_value(id, Sealed(Bytes::from(sealed))).map_err(|error| match error {
        SealError::UnknownKey => Failure::unavailable(
            "The facade seals with a key that the worker does not have; list it in the worker's SECRETS_KEYS_OLD",
        ),
        other => internal_error(other),
    })?;
    Ok(VaultValue { id, sealed })
}

/// Append, drop, then answer: whoever is told that it is gone, it is gone.
pub async fn delete(context: Arc<Context>, command: DeleteSecret) -> Result<(), Failure> {
    let done = idempotency::commit_once(&context, command.id, command.key, move |catalog| {
        crate::core::decide::secret::delete_secret(catalog, &command)
    })
    .await?;
    let values: Vec<ValueId> = done.events.iter().filter_map(deleted).collect();
    context.vault.remove(&values).await.map_err(away)?;
    values
        .iter()
        .for_each(|value| drop(context.sealed.remove(value)));
    Ok(())
}

fn deleted(event: &Event) -> Option<ValueId> {
    match event {
        Event::SecretDeleted(event) => Some(event.value),
        _ => None,
    }
}

/// Removes what has lain in the Vault for an hour and is named by nothing.
pub async fn sweep(context: &Context) -> Result<(), Failure> {
    let unnamed = unnamed(context).await?;
    tracing::info!(values = unnamed.len(), "sweeping values that nothing names");
    context.vault.remove(&unnamed).await.map_err(away)
}

async fn unnamed(context: &Context) -> Result<Vec<ValueId>, Failure> {
    // The old ones first, the catalogue after: what was named in between is kept.
    let old = context.vault.older_than(UNNAMED).await.map_err(away)?;
    if old.is_empty() {
        return Ok(old);
    }
    if !context
        .projection
        .wait_for(
            context.projection.log().head().await.map_err(away)?,
            UNNAMED,
        )
        .await
    {
        return Err(Failure::unavailable("the log could not be read"));
    }
    let named = context.projection.catalog().values();
    Ok(old.into_iter().filter(|id| !named.contains(id)).collect())
}

/// Has a sweep made now and every hour, where there is something to sweep. Of many processes one has its way: the
/// job's key is the hour.
pub async fn schedule(context: Arc<Context>) {
    loop {
        match unnamed(&context).await {
            Ok(unnamed) if unnamed.is_empty() => {}
            Ok(_) => {
                let hour = (now_ms() / SWEEP_EVERY.as_millis() as u64).to_string();
                let submitted = context
                    .job_client
                    .submit_maintenance(&SweepVault {}, &hour)
                    .await;
                if let Err(failure) = submitted {
                    tracing::warn!(%failure, "a sweep could not be begun; the next one will be");
                }
            }
            Err(failure) => tracing::warn!(%failure, "what is to be swept is not to be found out"),
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Drops what no event names any more; what cannot be dropped now is left to the sweep.
pub async fn drop_values(context: &Context, values: &[ValueId]) {
    values
        .iter()
        .for_each(|value| drop(context.sealed.remove(value)));
    if let Err(error) = context.vault.remove(values).await {
        tracing::warn!(%error, "old values are left to the sweep");
    }
}

pub fn away(error: StoreError) -> Failure {
    tracing::warn!(%error, "the Vault failed");
    Failure::unavailable("The store cannot be reached")
}

/// The user's secrets for a server, opened for one call.
pub async fn open(
    context: &Context,
    server: &Server,
    user: &UserName,
) -> Result<Vec<OpenedSecret>, Failure> {
    if let Some(secrets) = try_open(context, server, user).await? {
        return Ok(secrets);
    }
    // A value was dropped after this catalogue was read: a newer one names its successor.
    let newer = context
        .projection
        .catalog()
        .server_by_id(server.id)
        .cloned();
    let newer = newer.ok_or_else(|| Failure::server_not_found(&server.name))?;
    let secrets = try_open(context, &newer, user).await?;
    secrets.ok_or_else(|| Failure::unavailable("A secret was being changed; ask again"))
}

/// `None`: a value that this catalogue names is gone.
async fn try_open(
    context: &Context,
    server: &Server,
    user: &UserName,
) -> Result<Option<Vec<OpenedSecret>>, Failure> {
    let refs = server
        .secrets_of(user.as_str())
        .iter()
        .filter(|secret| server.config.takes(&secret.name));
    let mut secrets = Vec::new();
    for SecretRef { name, value } in refs {
        let Some(sealed) = sealed(context, *value).await? else {
            return Ok(None);
        };
        let place = SecretContext {
            server: server.id,
            user,
            name,
            value: *value,
        };
        let opened = context
            .opener
            .open(place, &sealed)
            .map_err(internal_error)?;
        context.metrics.secrets_opened.inc();
        secrets.push(OpenedSecret {
            name: name.clone(),
            id: *value,
            value: opened,
            form: ArgumentForm::Text,
        });
    }
    Ok(Some(secrets))
}

/// A sealed value, from memory where it was needed before. `None`: it is gone.
pub async fn sealed(context: &Context, value: ValueId) -> Result<Option<Sealed>, Failure> {
    if let Some(sealed) = context.sealed.get(&value) {
        return Ok(Some(sealed));
    }
    let found = context
        .vault
        .get(&[value])
        .await
        .map_err(away)?
        .pop()
        .flatten();
    if let Some(sealed) = &found {
        context.sealed.insert(value, sealed.clone());
    }
    Ok(found)
}
