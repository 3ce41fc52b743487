//! Asks the registries what is new.

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use crate::core::catalog::server::Server;
use crate::core::command::{CheckPackages, PackageCheck};
use crate::core::event::Actor;
use crate::core::failure::{Code, Failure};
use crate::core::ids::CommandId;
use crate::workers::context::Context;
use crate::workers::install::{InstallContext, NoProgress, open_install_context};
use crate::workers::redact::Redactor;

/// Registries asked at once.
const AT_ONCE: usize = 4;

/// Asks the registries for the newest versions, and tells the log what is news.
pub async fn check(
    context: Arc<Context>,
    command: CheckPackages,
) -> Result<Vec<PackageCheck>, Failure> {
    let catalog = Arc::clone(&context.projection.catalog());
    let servers: Vec<_> = command
        .servers
        .iter()
        .filter_map(|id| catalog.server_by_id(*id).cloned())
        .collect();
    let checks = servers.into_iter().map(|server| {
        let context = context.clone();
        async move {
            PackageCheck {
                server: server.id,
                latest: latest(&context, &server).await,
            }
        }
        .boxed()
    });
    let checks: Vec<_> = checks.collect();
    let checked: Vec<PackageCheck> = futures::stream::iter(checks)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let found = checked
        .iter()
        .filter_map(|checked| Some((checked.server, checked.latest.as_ref().ok()?.clone())));
    let found: Vec<_> = found.collect();
    if !crate::core::decide::package::record_latest(&catalog, &found).is_empty() {
        let id = CommandId(Uuid::now_v7());
        context
            .appender
            .commit(id, Actor::Worker, move |catalog| {
                Ok(crate::core::decide::package::record_latest(catalog, &found))
            })
            .await?;
    }
    Ok(checked)
}

async fn latest(context: &Context, server: &Server) -> Result<String, Failure> {
    let gone = || {
        Failure::new(
            Code::PackageNotFound,
            format!("Package of server {} not found", server.name),
        )
    };
    let package = &server.package.as_ref().ok_or_else(gone)?.package;
    let redactor = Arc::<Redactor>::default();
    let around: InstallContext = open_install_context(
        &context.manager.sealed_store,
        server.id,
        &package.source,
        Arc::new(NoProgress),
        redactor,
    )
    .await?;
    context
        .installer
        .latest(&package.name, &package.source, &around)
        .await
}
