//! Handlers of the commands on servers: each change is decided and appended, then the supervisor makes it true.

use std::collections::HashSet;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::context::Context;
use super::permits::ChangePermit;
use super::{guard, idempotency, secrets};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{
    DeleteServer, DeletedServer, DisableServer, EnableServer, ReadServerLogs, ReconcileServer,
    ReconciledServer, RegisterServer, ServerLogs, UpdateServer,
};
use crate::core::decide::server as decide;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::remote::SealedValue;
use crate::core::model::server::ServerStatus;
use crate::core::model::update::Update;
use crate::core::names::ServerName;
use crate::eventlog::appender::Committed;
use crate::ports::vault::{Sealed, VaultValue};

/// Registers a server, and returns its status after the first start.
pub(super) async fn register(
    context: Arc<Context>,
    command: RegisterServer,
    permit: ChangePermit,
) -> Result<ServerStatus, Failure> {
    let name = command.name.clone();
    let origin = command.origin.clone();
    let values = vault_values(&context, &command.sealed)?;
    idempotency::commit_once_with_values(&context, &origin, values, move |catalog| {
        decide::register_server(catalog, &command)
    })
    .await?;
    drop(permit);
    settle(&context, &name).await
}

/// Updates a server, and returns its status after the restart that the update needs.
pub(super) async fn update(
    context: Arc<Context>,
    mut command: UpdateServer,
    permit: ChangePermit,
) -> Result<ServerStatus, Failure> {
    let origin = command.origin.clone();
    let name = command.name.clone();
    ignore_present_session(&context, &mut command).await;
    let values = vault_values(&context, &command.sealed)?;
    let change = move |catalog: &Catalog| decide::update_server(catalog, &command);
    let done = idempotency::commit_once_with_values(&context, &origin, values, change).await?;
    drop_replaced(&context, &name, &done).await;
    drop(permit);
    settle(&context, &name).await
}

/// Enables a server, and returns its status after its start. A server that runs is restarted. While a server starts,
/// another enable waits for the same start.
pub(super) async fn enable(
    context: Arc<Context>,
    command: EnableServer,
    permit: ChangePermit,
) -> Result<ServerStatus, Failure> {
    let name = command.name.clone();
    let origin = command.origin.clone();
    let joins_start = is_starting(&context, &name);
    idempotency::commit_once(&context, &origin, move |catalog| {
        let events = decide::enable_server(catalog, &command)?;
        let is_enabled = catalog
            .server(command.name.as_str())
            .is_some_and(|server| server.enabled);
        Ok(if joins_start && is_enabled {
            vec![]
        } else {
            events
        })
    })
    .await?;
    drop(permit);
    settle(&context, &name).await
}

/// Disables a server, and returns its status after its stop.
pub(super) async fn disable(
    context: Arc<Context>,
    command: DisableServer,
    permit: ChangePermit,
) -> Result<ServerStatus, Failure> {
    let name = command.name.clone();
    let origin = command.origin.clone();
    idempotency::commit_once(&context, &origin, move |catalog| {
        decide::disable_server(catalog, &command)
    })
    .await?;
    drop(permit);
    settle(&context, &name).await
}

/// Deletes a server, stops it and removes its values from the Vault. Returns what is left of it.
pub(super) async fn delete(
    context: Arc<Context>,
    command: DeleteServer,
    permit: ChangePermit,
) -> Result<DeletedServer, Failure> {
    let name = command.name.clone();
    let origin = command.origin.clone();
    let done = idempotency::commit_once(&context, &origin, move |catalog| {
        decide::delete_server(catalog, &command)
    })
    .await?;
    drop(permit);
    // A repeated command finds its commit, and the server is deleted already.
    let deleted = done
        .before
        .and_then(|before| before.server(name.as_str()).cloned());
    let Some(deleted) = deleted else {
        return Ok(DeletedServer::default());
    };
    context.manager.reconcile(&deleted).await;
    context.metrics.remove_server(&deleted.name);
    let values: Vec<_> = deleted.values().collect();
    secrets::drop_values(&context, &values).await;
    Ok(DeletedServer {
        processes_left: guard::processes_left(),
    })
}

/// Makes a server as another process has changed it, and returns its status and logs.
pub(super) async fn reconcile(
    context: Arc<Context>,
    command: ReconcileServer,
    permit: ChangePermit,
) -> Result<ReconciledServer, Failure> {
    drop(permit);
    let live = settle(&context, &command.name).await?;
    let catalog = context.projection.catalog();
    let server = catalog.server(command.name.as_str());
    let server = server.map(|server| server.id);
    let logs = context.manager.logs(server.as_slice()).pop();
    let logs = logs.map(|report| report.logs).unwrap_or_default();
    Ok(ReconciledServer { live, logs })
}

pub(super) async fn logs(
    context: Arc<Context>,
    command: ReadServerLogs,
) -> Result<Vec<ServerLogs>, Failure> {
    Ok(context.manager.logs(&command.servers))
}

/// Converts the values that a facade sealed into values of the Vault.
///
/// # Errors
/// A failure if a value is no base64, or if its key is unknown here.
pub(super) fn vault_values(
    context: &Context,
    values: &[SealedValue],
) -> Result<Vec<VaultValue>, Failure> {
    let values = values.iter();
    values
        .map(|SealedValue { value, sealed }| secrets::current(context, *value, sealed))
        .collect()
}

fn is_starting(context: &Context, name: &ServerName) -> bool {
    let catalog = context.projection.catalog();
    let server = catalog.server(name.as_str());
    server
        .and_then(|server| context.manager.existing_handle(server.id))
        .is_some_and(|handle| handle.is_starting())
}

/// Removes the session from an update if it is the present one, because answers of the API contain it and clients send
/// it back.
async fn ignore_present_session(context: &Context, command: &mut UpdateServer) {
    let Update::Set(value) = command.change.remote.session else {
        return;
    };
    let server = context
        .projection
        .catalog()
        .server(command.name.as_str())
        .cloned();
    let Some(server) = server else { return };
    let Some(stored) = server.session else { return };
    let given = command
        .sealed
        .iter()
        .find(|sealed| sealed.value == value)
        .and_then(|sealed| BASE64_STANDARD.decode(&sealed.sealed).ok());
    let Some(given) = given else { return };
    let sealed_store = &context.manager.sealed_store;
    let given = sealed_store.open_session(server.id, value, &Sealed(given.into()));
    let present = sealed_store.session(server.id, stored).await;
    let given = given.map(|session| session.id);
    if given.is_some() && given == present.map(|session| session.id) {
        command.change.remote.session = Update::Keep;
        command.sealed.retain(|sealed| sealed.value != value);
    }
}

/// Removes the values that an update has replaced. Only the values of this server are compared, because no other object
/// of the catalog names them.
pub(super) async fn drop_replaced(context: &Context, name: &ServerName, done: &Committed) {
    let before = done.before.as_ref();
    let Some(before) = before.and_then(|before| before.server(name.as_str())) else {
        return;
    };
    let present: HashSet<ValueId> = {
        let catalog = context.projection.catalog();
        let server = catalog.server_by_id(before.id);
        server
            .into_iter()
            .flat_map(|server| server.values())
            .collect()
    };
    let replaced = before.values().filter(|value| !present.contains(value));
    let replaced: Vec<_> = replaced.collect();
    if !replaced.is_empty() {
        secrets::drop_values(context, &replaced).await;
    }
}

/// Makes a server as the catalog says, and returns its status.
///
/// # Errors
/// `server_not_found`, and a failure if another worker owns the server.
pub(super) async fn settle(context: &Context, name: &ServerName) -> Result<ServerStatus, Failure> {
    let server: Arc<Server> = context
        .projection
        .catalog()
        .server(name.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(name))?;
    context
        .manager
        .reconcile(&server)
        .await
        .ok_or_else(|| Failure::elsewhere(name))
}
