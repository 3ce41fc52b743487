//! Finds the server of a resource by the URI that a client names.

use std::sync::Arc;

use super::endpoint::Exchange;
use crate::core::catalog::server::Server;
use crate::core::mcp::uris::{split_uri, uri_prefix};

/// Returns the server of a URI, and the URI as the server knows it. At the endpoint of all servers, a raw URI belongs to the
/// only server with resources.
pub(super) fn find_resource(exchange: &Exchange, uri: &str) -> Option<(Arc<Server>, String)> {
    let servers = exchange.servers_with("resources");
    if exchange.endpoint.is_all()
        && let Some((prefix, plain)) = split_uri(uri)
    {
        let has_prefix = |server: &&Arc<Server>| uri_prefix(server.name.as_str()) == prefix;
        if let Some(server) = servers.iter().find(has_prefix) {
            return Some((server.clone(), plain.to_owned()));
        }
        let catalog = exchange.state.catalog();
        if catalog.servers().iter().any(has_prefix) {
            return None;
        }
    }
    match &servers[..] {
        [server] => Some((server.clone(), uri.to_owned())),
        _ => None,
    }
}
