//! Installs and upgrades packages. A worker starts each version once before it commits the version.

mod answer;
mod check;
mod cleanup;
mod install;
mod on_start;
mod resolve;
mod upgrade;

use std::time::Duration;

use uuid::Uuid;

pub(super) use self::check::check_packages;
pub(super) use self::cleanup::remove_unused_files;
pub(super) use self::install::install;
pub(super) use self::on_start::install_on_start;
pub(super) use self::upgrade::upgrade;
use super::context::Context;
use super::install::{PackageHandle, Resolved};
use super::runtime::probe::probe_server;
use super::secrets;
use crate::core::catalog::Catalog;
use crate::core::decide::credential::starts_without_user;
use crate::core::event::Event;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, ServerId, ValueId};
use crate::core::model::package::{EntryPoint, Package, Recipe};
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::telemetry::error::internal_error;

/// The longest stop of a server, and a little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A version that this worker has built and not yet committed.
struct BuiltVersion {
    version: String,
    recipe: Recipe,
    /// Keeps the folder from being removed before the commit.
    handle: PackageHandle,
}

/// Stores the lockfile of a built version, and returns the version. `values` gets the id of the
/// lockfile.
async fn store_version(
    context: &Context,
    server: ServerId,
    resolved: Resolved,
    entry: Option<EntryPoint>,
    handle: PackageHandle,
    values: &mut Vec<ValueId>,
) -> Result<BuiltVersion, Failure> {
    let lock = store_lockfile(context, server, &resolved.lock).await?;
    values.push(lock);
    Ok(BuiltVersion {
        version: resolved.version,
        recipe: Recipe {
            digest: resolved.digest,
            lock,
            entry,
        },
        handle,
    })
}

async fn store_lockfile(
    context: &Context,
    server: ServerId,
    lockfile: &str,
) -> Result<ValueId, Failure> {
    let value = ValueId(Uuid::now_v7());
    let lock_context = ServerValueContext {
        server,
        kind: ServerValueKind::Lock,
        name: "",
        value,
    };
    let stored = context
        .manager
        .sealed_store
        .put(lock_context, lockfile)
        .await;
    stored.map_err(|error| {
        Failure::unavailable(format!("The package's lock could not be stored: {error}"))
    })?;
    Ok(value)
}

/// Starts the server as it would be after these events, and stops it. A server that needs a value of a user starts for its
/// users only.
async fn probe_version(
    context: &Context,
    server: ServerId,
    events: &[Event],
    package: &Package,
) -> Result<(), Failure> {
    let mut after = Catalog::clone(&context.projection.catalog());
    for event in events {
        after.apply(event);
    }
    let server = after
        .server_by_id(server)
        .cloned()
        .ok_or_else(Failure::internal)?;
    if !starts_without_user(&server) {
        return Ok(());
    }
    let digest = package
        .recipe
        .as_ref()
        .map(|recipe| recipe.digest.as_str())
        .unwrap_or_default();
    let built = context
        .installer
        .built(&package.source, digest)
        .ok_or_else(|| internal_error("a folder in use was removed"))?;
    probe_server(&context.manager, &server, built).await
}

/// Removes what a failed installation has stored and built. If the store was unavailable, the change
/// may be committed, and then the sweep of the Vault decides about the values.
async fn rollback(context: &Context, values: &[ValueId], failure: Option<&Failure>) {
    let may_be_committed = failure.is_some_and(|failure| failure.code == Code::Unavailable);
    if !may_be_committed {
        secrets::drop_values(context, values).await;
    }
    context.installer.sweep(&context.projection).await;
}

/// Returns whether an earlier attempt of this job has committed the command.
async fn already_committed(context: &Context, id: CommandId) -> Result<bool, Failure> {
    let position = context
        .projection
        .log()
        .find_commit(id)
        .await
        .map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    match position {
        Some(position) => Ok(context.projection.wait_for(position, STOP_TIMEOUT).await),
        None => Ok(false),
    }
}
