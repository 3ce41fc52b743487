//! The resources that the clients of one facade watch.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::runtime::handle::server_disabled;
use crate::core::command::watch::{MAX_WATCHED, WatchResources};
use crate::core::failure::Failure;
use crate::core::model::upstream_change::MAX_WATCHED_URI;

/// The longest wait for the server.
const LIMIT: Duration = Duration::from_secs(5);

/// Replaces the list of a facade, and waits for the subscriptions at the server for a short time. A server that is not
/// connected gets them later.
///
/// # Errors
/// A failure if the list is too long, if the server is unknown or disabled, or if another worker owns it.
pub(super) async fn watch_resources(
    context: Arc<Context>,
    command: WatchResources,
) -> Result<(), Failure> {
    if command.resources.len() > MAX_WATCHED {
        let sentence = format!("resources has more than {MAX_WATCHED} entries");
        return Err(Failure::invalid(sentence));
    }
    let mut resources = command.resources.iter();
    if resources.any(|resource| resource.uri.len() > MAX_WATCHED_URI) {
        let sentence = format!("A URI is longer than {MAX_WATCHED_URI} bytes");
        return Err(Failure::invalid(sentence));
    }
    let manager = &context.manager;
    let server = context
        .projection
        .catalog()
        .server(command.server.as_str())
        .cloned()
        .ok_or_else(|| Failure::server_not_found(&command.server))?;
    if !server.enabled {
        return Err(server_disabled(&server.name));
    }
    let handle = manager.handle(&server);
    tokio::time::timeout(LIMIT, handle.ensure_owned())
        .await
        .map_err(|_| Failure::unavailable("The server is not started yet; retry in a moment"))??;
    handle.watches.replace(command);
    handle.apply_watches(manager);
    // The list counts, even if the server needs more time.
    let _ = tokio::time::timeout(LIMIT, handle.watches_applied()).await;
    Ok(())
}
