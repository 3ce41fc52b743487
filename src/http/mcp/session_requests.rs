//! Requests of a session that this facade answers itself: subscriptions to resources, and the log level.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::answer::Outcome;
use super::call::RunningCall;
use super::dispatch::Reply;
use super::endpoint::Exchange;
use super::envelope::Params;
use super::error::RpcError;
use super::legacy::OpenSession;
use super::watch_table::WatchKey;
use super::watched::{find_watchable, reports_updates};
use crate::core::command::watch::WatchedResource;
use crate::core::json_object::text_of;
use crate::core::mcp::log_level::LogLevel;
use crate::core::mcp::version::Era;
use crate::core::model::client_session::{SessionChange, SessionSetting};
use crate::core::model::upstream_change::MAX_WATCHED_URI;
use crate::ports::bus::Hint;

/// The longest wait of a client for the subscription at the server.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(5);

/// Executes a request, or returns `None` if the method is another one.
pub(super) fn handle(
    exchange: &Arc<Exchange>,
    session: OpenSession,
    method: &str,
    params: &Params<'_>,
) -> Option<Result<Reply, RpcError>> {
    match method {
        "resources/subscribe" => Some(subscribe(exchange, session, params)),
        "resources/unsubscribe" => Some(unsubscribe(exchange, session, params)),
        "logging/setLevel" => Some(set_level(exchange, session, params)),
        _ => None,
    }
}

/// Sets the level from which on the client takes log lines.
fn set_level(
    exchange: &Exchange,
    session: OpenSession,
    params: &Params<'_>,
) -> Result<Reply, RpcError> {
    let name = params.level.and_then(text_of);
    let level = name.and_then(|name| LogLevel::parse(&name));
    let level = level.ok_or_else(|| {
        RpcError::wrong_params("level must be a level of RFC 5424, such as info or warning")
    })?;
    let sessions = &exchange.state.mcp().sessions;
    sessions.of_session(session.key).set_level(level);
    publish(exchange, session, SessionSetting::LogLevel(level));
    Ok(Reply::Done(empty_result()))
}

/// Watches a resource. The answer comes after the subscription at the server, if the server answers soon.
fn subscribe(
    exchange: &Arc<Exchange>,
    session: OpenSession,
    params: &Params<'_>,
) -> Result<Reply, RpcError> {
    let uri = watched_uri(exchange, params)?;
    let (server, plain) = find_watchable(exchange, &uri).ok_or_else(|| {
        RpcError::wrong_params(
            "No server that reports changes of its resources has this resource; resources/list shows all URIs",
        )
    })?;
    let mcp = exchange.state.mcp();
    let key = WatchKey {
        server: server.id,
        resource: WatchedResource {
            user: exchange.user.clone(),
            uri: plain,
        },
    };
    let guard = match mcp.watched.watch(vec![key]) {
        Ok(guard) => guard,
        Err(failure) => return Ok(Reply::Failed(failure)),
    };
    if let Err(failure) = mcp.sessions.of_session(session.key).watch(&uri) {
        return Ok(Reply::Failed(failure));
    }
    publish(exchange, session, SessionSetting::Watched(uri));
    let exchange = exchange.clone();
    let subscribed = async move {
        let sending = exchange.state.mcp().watched.send_lists([server.id]);
        // A list that is late is repeated.
        let _ = tokio::time::timeout(SUBSCRIBE_LIMIT, sending).await;
        drop(guard);
        empty_result()
    };
    Ok(Reply::Call(RunningCall::new(Box::pin(subscribed), None)))
}

fn unsubscribe(
    exchange: &Exchange,
    session: OpenSession,
    params: &Params<'_>,
) -> Result<Reply, RpcError> {
    let uri = watched_uri(exchange, params)?;
    exchange
        .state
        .mcp()
        .sessions
        .of_session(session.key)
        .unwatch(&uri);
    publish(exchange, session, SessionSetting::Unwatched(uri));
    Ok(Reply::Done(empty_result()))
}

/// Returns the parameter `uri`.
///
/// # Errors
/// -32601 if no server of the endpoint reports changes of its resources, and -32602 if the parameter is wrong.
fn watched_uri(exchange: &Exchange, params: &Params<'_>) -> Result<String, RpcError> {
    let servers = exchange.servers_with("resources");
    if !servers.iter().any(|server| reports_updates(server)) {
        return Err(RpcError::method_not_found(Era::Legacy));
    }
    let uri = params.uri.and_then(text_of);
    uri.filter(|uri| uri.len() <= MAX_WATCHED_URI)
        .map(Into::into)
        .ok_or_else(|| {
            RpcError::wrong_params(format!(
                "uri must be a string of at most {MAX_WATCHED_URI} bytes"
            ))
        })
}

/// Tells the other facades.
fn publish(exchange: &Exchange, session: OpenSession, setting: SessionSetting) {
    exchange
        .state
        .publish(Hint::McpSessionChanged(SessionChange {
            session: session.key,
            facade: exchange.state.mcp().watched.facade(),
            setting,
        }));
}

fn empty_result() -> Outcome {
    Outcome::Result(Bytes::from_static(b"{}"))
}
