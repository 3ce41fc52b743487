//! Starts a server that only its users can start, so that the catalog gets its tools and its description.
//!
//! The program knows the tools and the capabilities of a server once a connection to it has opened. A server whose values or
//! grants belong to users has no connection before the first request of a user. An MCP client sends no such request, because
//! it sees nothing that it could ask for. So its first `initialize` or list sends one.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use futures::StreamExt as _;

use super::dispatch::require_session;
use super::endpoint::Exchange;
use super::envelope::{Message, Meta};
use super::error::INTERNAL_ERROR;
use super::modern;
use super::request::ClientRequest;
use crate::core::catalog::server::Server;
use crate::core::decide::credential::is_introduced_by;
use crate::core::mcp::version::Era;
use crate::core::model::upstream_request::RequestMethod;

/// The requests whose answers depend on what the servers said of themselves.
const METHODS: [&str; 6] = [
    "initialize",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "server/discover",
    "tools/list",
];
/// The number of servers that start at the same time for one request.
const MAX_STARTS: usize = 16;
/// The longest wait of one request for all starts. They go on after that, and a later request finds the servers.
const START_LIMIT: Duration = Duration::from_secs(5);
/// The longest wait until this process has read what the worker recorded of a started server.
const RECORD_LIMIT: Duration = Duration::from_secs(1);
/// Starts the servers for the user of a request that only users start and that have not described themselves yet. Returns
/// when they are known or a limit has passed, and never fails: the request is answered from what is known then.
pub(super) async fn introduce_servers(
    exchange: &Arc<Exchange>,
    headers: &HeaderMap,
    message: &Message<'_>,
) {
    let Message::Request { method, params, .. } = message else {
        return;
    };
    if !METHODS.contains(&method.as_ref()) || !begins_well(exchange, headers, method, &params.meta)
    {
        return;
    }
    // The box keeps the future of other requests small.
    Box::pin(introduce_all(exchange)).await;
}

/// Starts all servers that this user introduces.
async fn introduce_all(exchange: &Arc<Exchange>) {
    let mut servers = exchange.visible_servers(&exchange.state.catalog());
    servers.retain(|server| {
        is_introduced_by(server, &exchange.user)
            && exchange
                .state
                .mcp()
                .introductions
                .begin(server, &exchange.user)
    });
    if servers.is_empty() {
        return;
    }
    let starts = servers
        .into_iter()
        .map(|server| introduce(exchange.clone(), server));
    let starts = futures::stream::iter(starts).for_each_concurrent(MAX_STARTS, |start| start);
    let _ = tokio::time::timeout(START_LIMIT + RECORD_LIMIT, starts).await;
}

/// Returns whether a request belongs to an era and has the session that the era requires.
fn begins_well(
    exchange: &Arc<Exchange>,
    headers: &HeaderMap,
    method: &str,
    meta: &Meta<'_>,
) -> bool {
    method == "initialize"
        || modern::is_modern(headers, meta)
        || require_session(exchange, headers).is_ok()
}

/// Sends a request that every server answers, be it with an error, and waits until the server is known.
async fn introduce(exchange: Arc<Exchange>, server: Arc<Server>) {
    let mut moved = exchange.state.projection().subscribe();
    if !answers(&exchange, &server).await {
        return;
    }
    let is_known = || {
        let catalog = exchange.state.catalog();
        catalog
            .server_by_id(server.id)
            .is_none_or(|server| server.description.is_some())
    };
    let recorded = async { while !is_known() && moved.changed().await.is_ok() {} };
    let _ = tokio::time::timeout(RECORD_LIMIT, recorded).await;
}

/// Sends the request to the server. Returns whether the server answered, be it with an error of its own.
async fn answers(exchange: &Arc<Exchange>, server: &Arc<Server>) -> bool {
    let method = RequestMethod::ListPrompts;
    let Ok(request) = ClientRequest::without_params(exchange.clone(), Era::Modern, method) else {
        return false;
    };
    let sent = request.send(server, request.params.clone());
    match tokio::time::timeout(START_LIMIT, sent).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => error.code != INTERNAL_ERROR,
        Err(_) => false,
    }
}
