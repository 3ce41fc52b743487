//! Comparison of a started server with the catalog.

use std::sync::Arc;

use super::handle::ServerHandle;
use super::manager::ServerManager;
use crate::core::catalog::server::Server;

/// Whether the catalog has another version of the server than the one that was started.
pub(super) fn catalog_differs(manager: &ServerManager, started: &Server) -> bool {
    let catalog = manager.projection.catalog();
    let server = catalog.server_by_id(started.id);
    server.is_none_or(|server| server.changed != started.changed)
}

/// Waits until the catalog has another version of the server than the one that was started.
pub(super) async fn wait_for_change(
    handle: &ServerHandle,
    manager: &ServerManager,
    started: &Server,
) {
    loop {
        handle.catalog_changed.notified().await;
        if catalog_differs(manager, started) {
            return;
        }
    }
}

/// Returns the server of the catalog if only the version of its package is new, so that the new version can start
/// beside the old version.
pub(super) fn newer_version(manager: &ServerManager, started: &Server) -> Option<Arc<Server>> {
    let catalog = manager.projection.catalog();
    let server = catalog.server_by_id(started.id)?;
    let new_digest = recipe_digest(server)?;
    let old_digest = recipe_digest(started)?;
    let is_upgrade = new_digest != old_digest
        && server.enabled
        && server.config.replicas == started.config.replicas;
    is_upgrade.then(|| server.clone())
}

fn recipe_digest(server: &Server) -> Option<&str> {
    let recipe = server.package.as_ref()?.package.recipe.as_ref()?;
    Some(recipe.digest.as_str())
}
