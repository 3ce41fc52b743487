//! What was resolved for one server is not resolved again for another: the same version is the same files.

use std::sync::Arc;

use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::model::package::{Package, Source};
use crate::crypto::context::{ServerValueContext, ServerValueKind};
use crate::workers::context::Context;
use crate::workers::install::{InstallContext, PackageRequest, Resolved};

/// The recipe of that version: another server's, where one has it, or else what the registry says.
pub async fn resolve(
    context: &Context,
    wanted: &PackageRequest<'_>,
    around: &InstallContext,
) -> Result<Resolved, Failure> {
    let catalog = Arc::clone(&context.projection.catalog());
    let servers: Vec<_> = catalog
        .servers()
        .into_iter()
        .filter(|server| is_alike(server, wanted))
        .collect();
    if !servers.is_empty()
        && let Some(version) = version(context, wanted, around).await
    {
        for server in servers {
            if let Some(resolved) = recipe(context, server, &version).await {
                return Ok(resolved);
            }
        }
    }
    context.installer.resolve(wanted, around).await
}

fn is_alike(server: &Server, wanted: &PackageRequest<'_>) -> bool {
    let package = server.package.as_ref().map(|installed| &installed.package);
    package.is_some_and(|package| {
        package.name == *wanted.name && same_files(&package.source, wanted.source)
    })
}

/// Whether the same version from both is the same. Who has credentials may see something else.
fn same_files(one: &Source, other: &Source) -> bool {
    match (one, other) {
        (Source::Node, Source::Node) => true,
        (Source::Python(one), Source::Python(other)) => {
            let open = one
                .indexes()
                .chain(other.indexes())
                .all(|(_, index)| index.user_info.is_none());
            let indexes = (&one.index_url, &one.extra_index_url)
                == (&other.index_url, &other.extra_index_url);
            open && indexes && one.dependencies == other.dependencies
        }
        _ => false,
    }
}

/// The version that is meant, as far as that is to be found out quickly.
async fn version(
    context: &Context,
    wanted: &PackageRequest<'_>,
    around: &InstallContext,
) -> Option<String> {
    match wanted.version {
        Some(version) if version.starts_with(|c: char| c.is_ascii_digit()) => {
            Some(version.to_owned())
        }
        None | Some("latest") => context
            .installer
            .latest(wanted.name, wanted.source, around)
            .await
            .ok(),
        Some(_) => None,
    }
}

async fn recipe(context: &Context, server: &Server, wanted: &str) -> Option<Resolved> {
    let Package {
        version, recipe, ..
    } = &server.package.as_ref()?.package;
    let recipe = recipe.as_ref().filter(|_| version == wanted)?;
    let place = ServerValueContext {
        server: server.id,
        kind: ServerValueKind::Lock,
        name: "",
        value: recipe.lock,
    };
    let lock = context.manager.sealed_store.open(place).await.ok()?;
    let lock = lock.expose().ok()?.to_owned();
    Some(Resolved {
        version: version.clone(),
        lock,
        digest: recipe.digest.clone(),
    })
}
