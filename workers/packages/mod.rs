//! Packages: installed, upgraded, looked after. What was built is proven before anybody hears of it.

mod answer;
mod check;
pub mod cleanup;
pub mod on_start;
pub mod resolve;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use self::answer::answer;
pub use self::check::check;
pub use self::cleanup::remove_unused_files;
pub use self::on_start::install_on_start;
use self::resolve::resolve;
use super::context::Context;
use super::install::{PackageRequest, ProgressSink, Resolved, open_install_context};
use super::runtime::probe::probe_server;
use super::{secrets, servers};
use crate::core::catalog::Catalog;
use crate::core::command::{InstallPackage, UpgradePackage};
use crate::core::decide::package::{InstallBuiltPackage, SwitchPackage};
use crate::core::event::{Actor, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{CommandId, ServerId, ValueId};
use crate::core::model::package::{FOLDER, Package, Recipe};
use crate::core::model::server::Transport;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::ports::vault::VaultValue;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;

/// What stopping a server may take, and a little more.
const STOPS: Duration = Duration::from_secs(20);

/// Installs a package and registers the server that it is.
pub async fn install(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    command: InstallPackage,
) -> Result<Bytes, Failure> {
    let context = &*context;
    let name = command.register.name.clone();
    // Whoever was here before has perhaps not got as far as its answer.
    if !already_committed(context, command.register.id).await? {
        let mut kept: Vec<ValueId> = command
            .register
            .sealed
            .iter()
            .map(|sealed| sealed.value)
            .collect();
        if let Err(failure) = build_and_register(context, &progress, command, &mut kept).await {
            rollback(context, &kept, Some(&failure)).await;
            return Err(failure);
        }
    }
    answer(context, &progress, &name).await
}

async fn build_and_register(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    command: InstallPackage,
    kept: &mut Vec<ValueId>,
) -> Result<(), Failure> {
    let InstallPackage {
        package: name,
        version,
        source,
        mut register,
    } = command;
    if context
        .projection
        .catalog()
        .server(register.name.as_str())
        .is_some()
    {
        let taken = format!("Server with name {} already exists", register.name);
        return Err(Failure::new(Code::ServerAlreadyExists, taken));
    }
    // Building reads them: the password of an index is among them.
    for VaultValue { id, sealed } in servers::vault_values(context, &register.sealed)? {
        context.vault.put(id, sealed).await.map_err(secrets::away)?;
    }
    let around = open_install_context(
        &context.manager.sealed_store,
        register.server,
        &source,
        progress.clone(),
        Arc::default(),
    )
    .await?;
    let wanted = PackageRequest {
        name: &name,
        version: version.as_ref().map(|version| version.as_str()),
        source: &source,
    };
    let is_child = matches!(register.config.transport, Transport::Stdio { .. });
    let (recipe, version, built) = match resolve(context, &wanted, &around).await {
        Ok(Resolved {
            version,
            lock,
            digest,
        }) => {
            let built = context
                .installer
                .build(&name, &source, &digest, &lock, &around)
                .await?;
            let entry = match &mut register.config.transport {
                Transport::Stdio { command, args, .. } if command == FOLDER => {
                    let entry = context.installer.entry(&name, &source, &built)?;
                    command.clone_from(&entry.command);
                    args.splice(..0, entry.args.clone());
                    Some(entry)
                }
                Transport::Stdio { command, .. } => {
                    if let Some(own) = context.installer.own_program(&source, &built, command) {
                        *command = own;
                    }
                    None
                }
                Transport::StreamableHttp(_) => None,
            };
            let lock = keep_lock(context, register.server, &lock).await?;
            kept.push(lock);
            (
                Some(Recipe {
                    digest,
                    lock,
                    entry,
                }),
                version,
                Some(built),
            )
        }
        // A server behind a URL is there already, whatever registries know of it.
        Err(failure) if failure.code == Code::PackageNotFound && !is_child => (
            None,
            version.map_or_else(|| "unknown".into(), |version| version.to_string()),
            None,
        ),
        Err(failure) => return Err(failure),
    };
    let package = Package {
        name,
        version,
        source,
        recipe,
    };
    let (id, server) = (register.id, register.name.clone());
    let install = InstallBuiltPackage {
        register,
        package,
        at: now_ms(),
    };
    let events =
        crate::core::decide::package::install_package(&context.projection.catalog(), &install)?;
    if install.register.enabled && is_child {
        progress.phase("starting");
        probe_version(context, install.register.server, &events, &install.package).await?;
    }
    let source = install.package.source.clone();
    context
        .appender
        .commit(id, Actor::Api, move |catalog| {
            crate::core::decide::package::install_package(catalog, &install)
        })
        .await?;
    if let Some(built) = &built {
        context.installer.link(&source, &server, built);
    }
    Ok(())
}

/// Gives a package another version, while the old one runs.
pub async fn upgrade(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    command: UpgradePackage,
) -> Result<Bytes, Failure> {
    let context = &*context;
    let name = command.name.clone();
    if !already_committed(context, command.id).await? {
        let mut kept = Vec::new();
        let upgraded = build_and_switch(context, &progress, command, &mut kept).await;
        if !matches!(upgraded, Ok(true)) {
            rollback(context, &kept, upgraded.as_ref().err()).await;
        }
        upgraded?;
    }
    answer(context, &progress, &name).await
}

/// Whether there was anything to do.
async fn build_and_switch(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    command: UpgradePackage,
    kept: &mut Vec<ValueId>,
) -> Result<bool, Failure> {
    let catalog = Arc::clone(&context.projection.catalog());
    let server = crate::core::decide::package::find_installed(&catalog, command.name.as_str())?;
    let from = server
        .package
        .as_ref()
        .map(|installed| installed.package.clone())
        .ok_or_else(Failure::internal)?;
    let around = open_install_context(
        &context.manager.sealed_store,
        server.id,
        &from.source,
        progress.clone(),
        Arc::default(),
    )
    .await?;
    let version = command.version.as_ref().map(|version| version.as_str());
    let wanted = PackageRequest {
        name: &from.name,
        version,
        source: &from.source,
    };
    let Resolved {
        version,
        lock,
        digest,
    } = resolve(context, &wanted, &around).await?;
    // The version that is there stays as it was proven, whatever has become of its dependencies.
    if from.version == version && from.recipe.is_some() {
        return Ok(false);
    }
    let built = context
        .installer
        .build(&from.name, &from.source, &digest, &lock, &around)
        .await?;
    let found = from
        .recipe
        .as_ref()
        .is_some_and(|recipe| recipe.entry.is_some());
    let entry = if found {
        Some(context.installer.entry(&from.name, &from.source, &built)?)
    } else {
        None
    };
    let lock = keep_lock(context, server.id, &lock).await?;
    kept.push(lock);
    let package = Package {
        version,
        recipe: Some(Recipe {
            digest,
            lock,
            entry,
        }),
        ..from.clone()
    };
    let upgrade = SwitchPackage {
        server: server.id,
        from: from.clone(),
        package,
        at: now_ms(),
    };
    let events = crate::core::decide::package::upgrade_package(&catalog, &upgrade)?;
    if server.enabled && server.remote().is_none() {
        progress.phase("starting");
        probe_version(context, server.id, &events, &upgrade.package).await?;
    }
    let package = upgrade.package.clone();
    context
        .appender
        .commit(command.id, Actor::Api, move |catalog| {
            crate::core::decide::package::upgrade_package(catalog, &upgrade)
        })
        .await?;
    context
        .installer
        .link(&package.source, &command.name, &built);
    let old: Vec<_> = from.recipe.iter().map(|recipe| recipe.lock).collect();
    secrets::drop_values(context, &old).await;
    Ok(true)
}

/// Leaves nothing behind. Where a store was away it may have got a change that names the values: then they are left to
/// the sweep of what nothing names.
async fn rollback(context: &Context, kept: &[ValueId], failure: Option<&Failure>) {
    if failure.is_none_or(|failure| failure.code != Code::Unavailable) {
        secrets::drop_values(context, kept).await;
    }
    context.installer.sweep(&context.projection).await;
}

async fn keep_lock(context: &Context, server: ServerId, lock: &str) -> Result<ValueId, Failure> {
    let value = ValueId(Uuid::now_v7());
    let place = ServerValueContext {
        server,
        kind: ServerValueKind::Lock,
        name: "",
        value,
    };
    let kept = context.manager.sealed_store.put(place, lock).await;
    kept.map_err(|error| {
        Failure::unavailable(format!("The package's lock could not be kept: {error}"))
    })?;
    Ok(value)
}

/// Starts the server as it would be after these events.
async fn probe_version(
    context: &Context,
    server: ServerId,
    events: &[Event],
    package: &Package,
) -> Result<(), Failure> {
    let mut after = Catalog::clone(&context.projection.catalog());
    events.iter().for_each(|event| after.apply(event));
    let server = after
        .server_by_id(server)
        .cloned()
        .ok_or_else(Failure::internal)?;
    let digest = package
        .recipe
        .as_ref()
        .map(|recipe| recipe.digest.as_str())
        .unwrap_or_default();
    let gone = || internal_error("what was just built is gone");
    let built = context
        .installer
        .built(&package.source, digest)
        .ok_or_else(gone)?;
    probe_server(&context.manager, &server, built).await
}

/// Whether the command was carried out already.
async fn already_committed(context: &Context, id: CommandId) -> Result<bool, Failure> {
    let found = context
        .projection
        .log()
        .find_commit(id)
        .await
        .map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    match found {
        Some(position) => Ok(context.projection.wait_for(position, STOPS).await),
        None => Ok(false),
    }
}
