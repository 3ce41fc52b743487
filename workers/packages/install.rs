//! Installs a package, and registers its server.

use std::sync::Arc;

use bytes::Bytes;

use super::answer::package_answer;
use super::resolve::resolve_package;
use super::{BuiltVersion, already_committed, probe_version, rollback, store_version};
use crate::core::command::{ChangeOrigin, InstallPackage, RegisterServer};
use crate::core::decide::package::{InstallBuiltPackage, install_package};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::package::{EntryPoint, FOLDER, Package, Source};
use crate::core::model::server::{ServerConfig, Transport};
use crate::core::model::server_json::ServerJson;
use crate::core::names::{PackageName, VersionTag};
use crate::ports::vault::VaultValue;
use crate::time::clock::now_ms;
use crate::workers::context::Context;
use crate::workers::install::{
    InstallContext, PackageHandle, PackageRequest, ProgressSink, Resolved, open_install_context,
};
use crate::workers::sealed_store::store_unavailable;
use crate::workers::servers;

/// Shown for a package that no registry knows.
const UNKNOWN_VERSION: &str = "unknown";

/// Installs a package and registers its server. Returns the body of the answer.
///
/// # Errors
/// Fails if the package cannot be built or its server does not start. Nothing of it stays then.
pub(crate) async fn install(
    context: Arc<Context>,
    progress: Arc<dyn ProgressSink>,
    command: InstallPackage,
) -> Result<Bytes, Failure> {
    let name = command.register.name.clone();
    // An earlier attempt may have ended between its commit and its answer.
    if !already_committed(&context, command.register.origin.id).await? {
        let sealed = command.register.sealed.iter();
        let mut values: Vec<ValueId> = sealed.map(|sealed| sealed.value).collect();
        let installed = build_and_register(&context, &progress, command, &mut values).await;
        if let Err(failure) = installed {
            rollback(&context, &values, Some(&failure)).await;
            return Err(failure);
        }
    }
    package_answer(&context, &progress, &name).await
}

/// Builds the package, starts the server once, and commits both. `values` gets the ids of all stored
/// values.
async fn build_and_register(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    command: InstallPackage,
    values: &mut Vec<ValueId>,
) -> Result<(), Failure> {
    let InstallPackage {
        package: name,
        version,
        source,
        mut register,
        read_server_json,
    } = command;
    require_free_name(context, &register)?;
    store_given_values(context, &register).await?;
    let built = build_version(
        context,
        progress,
        &name,
        version.as_ref(),
        &source,
        &mut register,
        values,
    )
    .await?;
    if let Some(built) = built.as_ref().filter(|_| read_server_json) {
        declare_credentials(context, progress, &name, &source, built, &mut register);
    }
    let package = Package {
        name,
        version: installed_version(built.as_ref(), version),
        source,
        recipe: built.as_ref().map(|built| built.recipe.clone()),
    };
    register_package(context, progress, register, package, built).await
}

fn require_free_name(context: &Context, register: &RegisterServer) -> Result<(), Failure> {
    let catalog = context.projection.catalog();
    if catalog.server(register.name.as_str()).is_some() {
        return Err(Failure::new(
            Code::ServerAlreadyExists,
            format!("Server with name {} already exists", register.name),
        ));
    }
    Ok(())
}

/// Stores the sealed values of the command before the build, because the build reads the credentials
/// of package indexes.
async fn store_given_values(context: &Context, register: &RegisterServer) -> Result<(), Failure> {
    for VaultValue { id, sealed } in servers::vault_values(context, &register.sealed)? {
        context
            .vault
            .put(id, sealed)
            .await
            .map_err(store_unavailable)?;
    }
    Ok(())
}

/// Builds the package, and puts its entry point into the configuration of the server. Returns `None`
/// for a server behind a URL whose package no registry knows.
async fn build_version(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    name: &PackageName,
    version: Option<&VersionTag>,
    source: &Source,
    register: &mut RegisterServer,
    values: &mut Vec<ValueId>,
) -> Result<Option<BuiltVersion>, Failure> {
    let install_context = open_install_context(
        &context.manager.sealed_store,
        register.server,
        source,
        progress.clone(),
        Arc::default(),
    )
    .await?;
    let request = PackageRequest {
        name,
        version: version.map(VersionTag::as_str),
        source,
    };
    let resolved = match resolve_package(context, &request, &install_context).await {
        Ok(resolved) => resolved,
        Err(failure) if failure.code == Code::PackageNotFound && !is_child(register) => {
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    let handle = build_resolved(context, &request, &resolved, &install_context).await?;
    let transport = &mut register.config.transport;
    let entry = set_entry_point(context, name, source, &handle, transport)?;
    let built = store_version(context, register.server, resolved, entry, handle, values).await?;
    Ok(Some(built))
}

async fn build_resolved(
    context: &Context,
    request: &PackageRequest<'_>,
    resolved: &Resolved,
    install_context: &InstallContext,
) -> Result<PackageHandle, Failure> {
    context
        .installer
        .build(
            request.name,
            request.source,
            &resolved.digest,
            &resolved.lock,
            install_context,
        )
        .await
}

fn is_child(register: &RegisterServer) -> bool {
    matches!(register.config.transport, Transport::Stdio { .. })
}

/// Puts the entry point of the package into the configuration, unless the user has named a command.
/// Returns the entry point that the package has chosen.
fn set_entry_point(
    context: &Context,
    name: &PackageName,
    source: &Source,
    handle: &PackageHandle,
    transport: &mut Transport,
) -> Result<Option<EntryPoint>, Failure> {
    let Transport::Stdio { command, args, .. } = transport else {
        return Ok(None);
    };
    if command == FOLDER {
        let entry = context.installer.entry_point(name, source, handle)?;
        command.clone_from(&entry.command);
        args.splice(..0, entry.args.clone());
        return Ok(Some(entry));
    }
    if let Some(program) = context.installer.own_program(source, handle, command) {
        *command = program;
    }
    Ok(None)
}

/// Puts the credentials that the `server.json` of the package declares into the configuration. A package without such a
/// file, or with one that breaks a rule, declares none.
fn declare_credentials(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    name: &PackageName,
    source: &Source,
    built: &BuiltVersion,
    register: &mut RegisterServer,
) {
    let config = &mut register.config;
    let Some(text) = context.installer.server_json(name, source, &built.handle) else {
        return;
    };
    let declared = ServerJson::parse(&text).and_then(|manifest| {
        let credentials = manifest.credentials(name, config);
        let with_credentials = ServerConfig {
            credentials,
            ..config.clone()
        };
        with_credentials.check()?;
        Ok(with_credentials)
    });
    match declared {
        Ok(with_credentials) => *config = with_credentials,
        Err(failure) => {
            let server = register.name.as_str();
            tracing::warn!(server, package = name.as_str(), error = %failure, "ignoring the server.json of a package");
            progress.line(&format!(
                "the server.json of the package is not used: {failure}"
            ));
        }
    }
}

fn installed_version(built: Option<&BuiltVersion>, requested: Option<VersionTag>) -> String {
    match (built, requested) {
        (Some(built), _) => built.version.clone(),
        (None, Some(requested)) => requested.to_string(),
        (None, None) => UNKNOWN_VERSION.into(),
    }
}

/// Starts the server once, and commits the package with its server.
async fn register_package(
    context: &Context,
    progress: &Arc<dyn ProgressSink>,
    register: RegisterServer,
    package: Package,
    built: Option<BuiltVersion>,
) -> Result<(), Failure> {
    let ChangeOrigin { id, actor, .. } = register.origin.clone();
    let name = register.name.clone();
    let source = package.source.clone();
    let must_start = register.enabled && is_child(&register);
    let install = InstallBuiltPackage {
        register,
        package,
        at: now_ms(),
    };
    let events = install_package(&context.projection.catalog(), &install)?;
    if must_start {
        progress.phase("starting");
        let server = install.register.server;
        probe_version(context, server, &events, &install.package).await?;
    }
    context
        .appender
        .commit(id, actor, move |catalog| install_package(catalog, &install))
        .await?;
    if let Some(built) = &built {
        context.installer.link(&source, &name, &built.handle);
    }
    Ok(())
}
