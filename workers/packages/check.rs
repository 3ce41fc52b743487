//! Asks the registries for the newest versions of packages.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use crate::core::catalog::server::Server;
use crate::core::command::{CheckPackages, PackageCheck};
use crate::core::decide::package::record_latest;
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::CommandId;
use crate::workers::context::Context;
use crate::workers::install::{NoProgress, open_install_context};

/// The registries that a check asks at the same time.
const MAX_CONCURRENT: usize = 4;

/// Asks for the newest versions of the packages of these servers, and records them.
///
/// # Errors
/// Fails if the store is unavailable. A failed question is a part of the result.
pub(crate) async fn check_packages(
    context: Arc<Context>,
    command: CheckPackages,
) -> Result<Vec<PackageCheck>, Failure> {
    let catalog = Arc::clone(&context.projection.catalog());
    let servers: Vec<_> = command
        .servers
        .iter()
        .filter_map(|id| catalog.server_by_id(*id).cloned())
        .collect();
    let questions: Vec<_> = servers
        .into_iter()
        .map(|server| check_package(context.clone(), server).boxed())
        .collect();
    let checks: Vec<PackageCheck> = futures::stream::iter(questions)
        .buffered(MAX_CONCURRENT)
        .collect()
        .await;
    let latest: Vec<_> = checks
        .iter()
        .filter_map(|check| Some((check.server, check.latest.as_ref().ok()?.clone())))
        .collect();
    if !record_latest(&catalog, &latest).is_empty() {
        let id = CommandId(Uuid::now_v7());
        context
            .appender
            .commit(id, Actor::worker(), move |catalog| {
                Ok(record_latest(catalog, &latest))
            })
            .await?;
    }
    Ok(checks)
}

async fn check_package(context: Arc<Context>, server: Arc<Server>) -> PackageCheck {
    PackageCheck {
        server: server.id,
        latest: latest_version(&context, &server).await,
    }
}

async fn latest_version(context: &Context, server: &Server) -> Result<String, Failure> {
    let installed = server.package.as_ref().ok_or_else(|| {
        Failure::new(
            Code::PackageNotFound,
            format!("Package of server {} not found", server.name),
        )
    })?;
    let package = &installed.package;
    let install_context = open_install_context(
        &context.manager.sealed_store,
        server.id,
        &package.source,
        Arc::new(NoProgress),
        Arc::default(),
    )
    .await?;
    context
        .installer
        .latest(&package.name, &package.source, &install_context)
        .await
}
