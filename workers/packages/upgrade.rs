//! Upgrades a package while its old version runs.

use std::sync::Arc;

use bytes::Bytes;

use super::answer::package_answer;
use super::resolve::resolve_package;
use super::{BuiltVersion, already_committed, probe_version, rollback, store_version};
use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::command::{ChangeOrigin, UpgradePackage};
use crate::core::decide::package::{SwitchPackage, find_installed, upgrade_package};
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::package::Package;
use crate::time::clock::now_ms;
use crate::workers::context::Context;
use crate::workers::install::{PackageRequest, ProgressSink, open_install_context};
use crate::workers::secrets;

/// Replaces the installed version of a package. Returns the body of the answer.
///
/// # Errors
/// Fails if the version cannot be built or the server does not start with it. The old version runs on
/// then.
pub(crate) async fn upgrade(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    command: UpgradePackage,
) -> Result<Bytes, Failure> {
    let name = command.name.clone();
    // An earlier attempt may have ended between its commit and its answer.
    if !already_committed(&context, command.origin.id).await? {
        let mut values = Vec::new();
        let upgraded = build_and_switch(&context, &progress, command, &mut values).await;
        if !matches!(upgraded, Ok(Upgrade::Switched)) {
            rollback(&context, &values, upgraded.as_ref().err()).await;
        }
        upgraded?;
    }
    package_answer(&context, &progress, &name).await
}

/// The result of an upgrade.
enum Upgrade {
    Switched,
    /// The requested version was installed already.
    UpToDate,
}

async fn build_and_switch(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    command: UpgradePackage,
    values: &mut Vec<ValueId>,
) -> Result<Upgrade, Failure> {
    let catalog = Arc::clone(&context.projection.catalog());
    let server = find_installed(&catalog, command.name.as_str())?;
    let from = server
        .package
        .as_ref()
        .map(|installed| installed.package.clone())
        .ok_or_else(Failure::internal)?;
    let built = build_version(context, progress, server, &from, &command, values).await?;
    let Some(built) = built else {
        return Ok(Upgrade::UpToDate);
    };
    switch_version(
        context,
        progress,
        &catalog,
        server,
        from,
        built,
        command.origin,
    )
    .await?;
    Ok(Upgrade::Switched)
}

/// Builds the requested version. Returns `None` if it is installed: that version stays as it was
/// proven, even if its dependencies have newer versions.
async fn build_version(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    server: &Server,
    from: &Package,
    command: &UpgradePackage,
    values: &mut Vec<ValueId>,
) -> Result<Option<BuiltVersion>, Failure> {
    let install_context = open_install_context(
        &context.manager.sealed_store,
        server.id,
        &from.source,
        progress.clone(),
        Arc::default(),
    )
    .await?;
    let request = PackageRequest {
        name: &from.name,
        version: command.version.as_ref().map(|version| version.as_str()),
        source: &from.source,
    };
    let resolved = resolve_package(context, &request, &install_context).await?;
    if from.version == resolved.version && from.recipe.is_some() {
        return Ok(None);
    }
    let installer = &context.installer;
    let handle = installer
        .build(
            &from.name,
            &from.source,
            &resolved.digest,
            &resolved.lock,
            &install_context,
        )
        .await?;
    let recipe = from.recipe.as_ref();
    let entry = if recipe.is_some_and(|recipe| recipe.entry.is_some()) {
        Some(installer.entry_point(&from.name, &from.source, &handle)?)
    } else {
        None
    };
    let built = store_version(context, server.id, resolved, entry, handle, values).await?;
    Ok(Some(built))
}

/// Starts the server once with the new version, commits the version, and removes the old lockfile.
async fn switch_version(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    catalog: &Catalog,
    server: &Server,
    from: Package,
    built: BuiltVersion,
    origin: ChangeOrigin,
) -> Result<(), Failure> {
    let package = Package {
        version: built.version,
        recipe: Some(built.recipe),
        ..from.clone()
    };
    let old_lock = from.recipe.as_ref().map(|recipe| recipe.lock);
    let source = from.source.clone();
    let switch = SwitchPackage {
        server: server.id,
        from,
        package,
        at: now_ms(),
    };
    let events = upgrade_package(catalog, &switch)?;
    if server.enabled && server.remote().is_none() {
        progress.phase("starting");
        probe_version(context, server.id, &events, &switch.package).await?;
    }
    context
        .appender
        .commit(origin.id, origin.actor, move |catalog| {
            upgrade_package(catalog, &switch)
        })
        .await?;
    context.installer.link(&source, &server.name, &built.handle);
    secrets::drop_values(context, old_lock.as_slice()).await;
    Ok(())
}
