//! Changes of servers: decided and appended, then made true in the world.

use std::collections::HashSet;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::context::Context;
use super::{idempotency, secrets};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{
    DeleteServer, DisableServer, EnableServer, ReadServerLogs, ReconcileServer, ReconciledServer,
    RegisterServer, ServerLogs, UpdateServer,
};
use crate::core::failure::Failure;
use crate::core::model::remote::SealedValue;
use crate::core::model::server::ServerStatus;
use crate::core::model::update::Update;
use crate::core::names::ServerName;
use crate::eventlog::appender::Committed;
use crate::ports::vault::{Sealed, VaultValue};

/// Registers a server and answers after its first attempt to connect, whatever came of that.
pub async fn register(
    context: Arc<Context>,
    command: RegisterServer,
) -> Result<ServerStatus, Failure> {
    let name = command.name.clone();
    let (id, key, values) = (
        command.id,
        command.key,
        all_current(&context, &command.sealed)?,
    );
    idempotency::commit_once_with_values(&context, id, key, values, move |catalog| {
        crate::core::decide::server::register_server(catalog, &command)
    })
    .await?;
    settle(&context, &name).await
}

pub async fn update(
    context: Arc<Context>,
    mut command: UpdateServer,
) -> Result<ServerStatus, Failure> {
    let (id, key) = (command.id, command.key);
    let name = command.name.clone();
    keep_session(&context, &mut command).await;
    let values = all_current(&context, &command.sealed)?;
    let change =
        move |catalog: &Catalog| crate::core::decide::server::update_server(catalog, &command);
    let done = idempotency::commit_once_with_values(&context, id, key, values, change).await?;
    drop_replaced(&context, &name, &done).await;
    settle(&context, &name).await
}

/// Enabling a server that is enabled restarts it.
pub async fn enable(context: Arc<Context>, command: EnableServer) -> Result<ServerStatus, Failure> {
    let name = command.name.clone();
    idempotency::commit_once(&context, command.id, command.key, move |catalog| {
        crate::core::decide::server::enable_server(catalog, &command)
    })
    .await?;
    settle(&context, &name).await
}

pub async fn disable(
    context: Arc<Context>,
    command: DisableServer,
) -> Result<ServerStatus, Failure> {
    let name = command.name.clone();
    idempotency::commit_once(&context, command.id, command.key, move |catalog| {
        crate::core::decide::server::disable_server(catalog, &command)
    })
    .await?;
    settle(&context, &name).await
}

/// Deletes a server: stops it, and drops its secrets from the Vault.
pub async fn delete(context: Arc<Context>, command: DeleteServer) -> Result<(), Failure> {
    let name = command.name.clone();
    let done = idempotency::commit_once(&context, command.id, command.key, move |catalog| {
        crate::core::decide::server::delete_server(catalog, &command)
    })
    .await?;
    // The same command a second time finds its commit, and nothing is left to be done.
    let Some(gone) = done
        .before
        .and_then(|before| before.server(name.as_str()).cloned())
    else {
        return Ok(());
    };
    context.manager.reconcile(&gone).await;
    context.metrics.remove_server(&gone.name);
    let values: Vec<_> = gone.values().collect();
    secrets::drop_values(&context, &values).await;
    Ok(())
}

/// What others have changed is made true here, and told.
pub async fn settled(
    context: Arc<Context>,
    command: ReconcileServer,
) -> Result<ReconciledServer, Failure> {
    let live = settle(&context, &command.name).await?;
    let server = context
        .projection
        .catalog()
        .server(command.name.as_str())
        .map(|server| server.id);
    let logs = context
        .manager
        .logs(server.as_slice())
        .pop()
        .map(|told| told.logs)
        .unwrap_or_default();
    Ok(ReconciledServer { live, logs })
}

pub async fn logs(
    context: Arc<Context>,
    command: ReadServerLogs,
) -> Result<Vec<ServerLogs>, Failure> {
    Ok(context.manager.logs(&command.servers))
}

/// What was sealed at the door, for the Vault.
pub fn all_current(context: &Context, values: &[SealedValue]) -> Result<Vec<VaultValue>, Failure> {
    values
        .iter()
        .map(|SealedValue { value, sealed }| secrets::current(context, *value, sealed))
        .collect()
}

/// The session that a server has already is no other one: its answers show it, and it is put back with them.
async fn keep_session(context: &Context, command: &mut UpdateServer) {
    let Update::Set(value) = command.change.remote.session else {
        return;
    };
    let Some(server) = context
        .projection
        .catalog()
        .server(command.name.as_str())
        .cloned()
    else {
        return;
    };
    let Some(given) = command.sealed.iter().find(|sealed| sealed.value == value) else {
        return;
    };
    let Ok(given) = BASE64_STANDARD.decode(&given.sealed) else {
        return;
    };
    let sealed_store = &context.manager.sealed_store;
    let given = sealed_store
        .open_session(server.id, value, &Sealed(given.into()))
        .map(|session| session.id);
    let Some(stored) = server.session else { return };
    let has = sealed_store
        .session(server.id, stored)
        .await
        .map(|session| session.id);
    if has.is_some() && has == given {
        command.change.remote.session = Update::Keep;
        command.sealed.retain(|sealed| sealed.value != value);
    }
}

/// What an update has replaced is not needed any more.
pub(super) async fn drop_replaced(context: &Context, name: &ServerName, done: &Committed) {
    let Some(before) = done
        .before
        .as_ref()
        .and_then(|before| before.server(name.as_str()))
    else {
        return;
    };
    let now: HashSet<_> = context.projection.catalog().values();
    let replaced: Vec<_> = before
        .values()
        .filter(|value| !now.contains(value))
        .collect();
    if !replaced.is_empty() {
        secrets::drop_values(context, &replaced).await;
    }
}

/// Makes the world follow the catalogue for one server.
pub(super) async fn settle(context: &Context, name: &ServerName) -> Result<ServerStatus, Failure> {
    let server: Arc<Server> = context
        .projection
        .catalog()
        .server(name.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(name))?;
    // The same command again, where the server runs, finds itself done and sees what came of it.
    context
        .manager
        .reconcile(&server)
        .await
        .ok_or_else(|| Failure::elsewhere(name))
}
