//! Resolves a package. If another server has the same version, its recipe is used again, so that one
//! version means the same files.

use std::sync::Arc;

use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::model::package::Source;
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::workers::context::Context;
use crate::workers::install::{InstallContext, PackageRequest, Resolved};

/// Returns the recipe of the requested version: the recipe of another server, otherwise a new recipe.
///
/// # Errors
/// Fails if the registry cannot resolve the package.
pub(super) async fn resolve_package(
    context: &Context,
    request: &PackageRequest<'_>,
    install_context: &InstallContext,
) -> Result<Resolved, Failure> {
    let catalog = Arc::clone(&context.projection.catalog());
    let servers: Vec<_> = catalog
        .servers()
        .into_iter()
        .filter(|server| has_same_files(server, request))
        .collect();
    if !servers.is_empty()
        && let Some(version) = requested_version(context, request, install_context).await
    {
        for server in servers {
            if let Some(resolved) = existing_recipe(context, server, &version).await {
                return Ok(resolved);
            }
        }
    }
    context.installer.resolve(request, install_context).await
}

/// Returns whether one version of the package means the same files for this server.
fn has_same_files(server: &Server, request: &PackageRequest<'_>) -> bool {
    server.package.as_ref().is_some_and(|installed| {
        let package = &installed.package;
        package.name == *request.name && is_same_source(&package.source, request.source)
    })
}

/// Returns whether two sources offer the same files. Sources with credentials are different, because
/// their owners may see different packages.
fn is_same_source(first: &Source, second: &Source) -> bool {
    match (first, second) {
        (Source::Node, Source::Node) => true,
        (Source::Python(first), Source::Python(second)) => {
            let have_no_credentials = first
                .indexes()
                .chain(second.indexes())
                .all(|(_, index)| index.user_info.is_none());
            have_no_credentials
                && first.index_url == second.index_url
                && first.extra_index_url == second.extra_index_url
                && first.dependencies == second.dependencies
        }
        _ => false,
    }
}

/// Returns the exact version of a request, if it can be found out quickly.
async fn requested_version(
    context: &Context,
    request: &PackageRequest<'_>,
    install_context: &InstallContext,
) -> Option<String> {
    match request.version {
        Some(version) if version.starts_with(|first: char| first.is_ascii_digit()) => {
            Some(version.to_owned())
        }
        None | Some("latest") => context
            .installer
            .latest(request.name, request.source, install_context)
            .await
            .ok(),
        Some(_) => None,
    }
}

async fn existing_recipe(context: &Context, server: &Server, version: &str) -> Option<Resolved> {
    let package = &server.package.as_ref()?.package;
    let recipe = package.recipe.as_ref()?;
    if package.version != version {
        return None;
    }
    let lock_context = ServerValueContext {
        server: server.id,
        kind: ServerValueKind::Lock,
        name: "",
        value: recipe.lock,
    };
    let lock = context.manager.sealed_store.open(lock_context).await.ok()?;
    Some(Resolved {
        version: package.version.clone(),
        lock: lock.expose().ok()?.to_owned(),
        digest: recipe.digest.clone(),
    })
}
