//! What a supervisor is told, and whether that changes anything for the server that it has started.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::handle::{ServerHandle, SupervisorCommand};
use super::manager::ServerManager;
use crate::core::catalog::server::Server;

/// Whether the order asks for anything but the server as it was started.
pub(super) fn matters(
    order: &SupervisorCommand,
    manager: &ServerManager,
    started: &Server,
) -> bool {
    order.shut_down || has_changed(manager, started)
}

fn has_changed(manager: &ServerManager, started: &Server) -> bool {
    manager
        .projection
        .catalog()
        .server_by_id(started.id)
        .is_none_or(|server| server.changed != started.changed)
}

/// Waits until the catalogue says something else of a server than when it was started.
pub(super) async fn news(handle: &ServerHandle, manager: &ServerManager, started: &Server) {
    loop {
        handle.news.notified().await;
        if has_changed(manager, started) {
            return;
        }
    }
}

/// The next order that the starting server does not already obey; the others wait for its start.
pub(super) async fn next_that_matters(
    inbox: &mut mpsc::Receiver<SupervisorCommand>,
    waiting: &mut Vec<SupervisorCommand>,
    manager: &ServerManager,
    starting: &Server,
) -> SupervisorCommand {
    while let Some(order) = inbox.recv().await {
        if matters(&order, manager, starting) {
            return order;
        }
        waiting.push(order);
    }
    std::future::pending().await
}

/// The server as it is wanted, where nothing matters but that it has another version of its package: that one can be
/// started beside the old one.
pub(super) fn upgraded(manager: &ServerManager, started: &Server) -> Option<Arc<Server>> {
    let digest = |server: &Server| {
        server
            .package
            .as_ref()?
            .package
            .recipe
            .as_ref()
            .map(|recipe| recipe.digest.clone())
    };
    let wanted = manager
        .projection
        .catalog()
        .server_by_id(started.id)
        .cloned()?;
    let another = digest(&wanted).is_some()
        && digest(started).is_some()
        && digest(&wanted) != digest(started);
    let alike = wanted.enabled && wanted.config.replicas == started.config.replicas;
    (another && alike).then_some(wanted)
}
