//! The MCP endpoints: any MCP client calls tools of the registered servers as one user.
//!
//! `/mcp` serves all servers that the caller may use. `/mcp/servers/{name}/mcp` serves one server with its own names. Both
//! speak the revision 2026-07-28 without sessions and the revisions 2024-11-05 to 2025-11-25 with sessions. The dispatcher
//! finds the era of each message.

mod accept;
mod all_servers;
mod announcer;
mod answer;
mod call;
mod changes;
mod directory;
mod dispatch;
mod endpoint;
mod envelope;
mod error;
mod extract;
mod headers;
mod hidden;
mod input;
mod introduction;
mod introductions;
mod legacy;
mod list;
mod list_cache;
mod listen;
mod modern;
mod notices;
mod receive;
mod request;
mod resource_uri;
mod running;
mod server_request;
mod session;
mod session_memory;
mod session_requests;
mod sign_in;
mod sign_in_waits;
pub(super) mod state;
mod stream;
mod streams;
mod subscribe;
#[cfg(test)]
mod testing;
mod url_error;
mod watch_table;
mod watched;

use axum::extract::Request;
use axum::response::Response;

use self::extract::McpExchange;
use crate::views::failure::ErrorBody;

/// Send one MCP message to all servers that the caller may use (Streamable HTTP).
///
/// The body is a JSON-RPC request or notification. Tools have the names `<server>__<tool>`.
#[utoipa::path(
    post, operation_id = "mcp_post", path = "/mcp", tag = "mcp",
    request_body(content = Object, description = "A JSON-RPC message"),
    responses(
        (status = 200, description = "The JSON-RPC response, as JSON or as an event stream", body = Object),
        (status = 202, description = "The notification is accepted"),
        (status = 400, description = "The message or a header is wrong", body = Object),
        (status = 404, description = "The session or the method is unknown", body = Object),
        (status = 406, description = "The client takes neither JSON nor an event stream", body = ErrorBody),
    )
)]
pub(super) async fn post_all(McpExchange(exchange): McpExchange, request: Request) -> Response {
    receive::post(&exchange, request).await
}

/// Send one MCP message to one server (Streamable HTTP).
///
/// The body is a JSON-RPC request or notification. Tools have the names of the server.
#[utoipa::path(
    post, operation_id = "mcp_server_post", path = "/mcp/servers/{name}/mcp", tag = "mcp",
    params(("name" = String, Path, description = "The name of the server")),
    request_body(content = Object, description = "A JSON-RPC message"),
    responses(
        (status = 200, description = "The JSON-RPC response, as JSON or as an event stream", body = Object),
        (status = 202, description = "The notification is accepted"),
        (status = 400, description = "The message or a header is wrong", body = Object),
        (status = 404, description = "The server, the session or the method is unknown", body = Object),
        (status = 406, description = "The client takes neither JSON nor an event stream", body = ErrorBody),
    )
)]
pub(super) async fn post_server(McpExchange(exchange): McpExchange, request: Request) -> Response {
    receive::post(&exchange, request).await
}

/// Open the event stream of a session with all servers. It carries changes of the tool list.
#[utoipa::path(
    get, operation_id = "mcp_open", path = "/mcp", tag = "mcp",
    responses(
        (status = 200, description = "An event stream", content_type = "text/event-stream", body = String),
        (status = 404, description = "The session is unknown", body = Object),
        (status = 405, description = "The request names no session", body = Object),
    )
)]
pub(super) async fn open_all(McpExchange(exchange): McpExchange, request: Request) -> Response {
    receive::open(&exchange, request.headers())
}

/// Open the event stream of a session with one server. It carries changes of the tool list.
#[utoipa::path(
    get, operation_id = "mcp_server_open", path = "/mcp/servers/{name}/mcp", tag = "mcp",
    params(("name" = String, Path, description = "The name of the server")),
    responses(
        (status = 200, description = "An event stream", content_type = "text/event-stream", body = String),
        (status = 404, description = "The server or the session is unknown", body = Object),
        (status = 405, description = "The request names no session", body = Object),
    )
)]
pub(super) async fn open_server(McpExchange(exchange): McpExchange, request: Request) -> Response {
    receive::open(&exchange, request.headers())
}

/// End a session with all servers.
#[utoipa::path(
    delete, operation_id = "mcp_end", path = "/mcp", tag = "mcp",
    responses(
        (status = 200, description = "The session has ended"),
        (status = 404, description = "The session is unknown", body = Object),
        (status = 405, description = "The request names no session", body = Object),
    )
)]
pub(super) async fn end_all(McpExchange(exchange): McpExchange, request: Request) -> Response {
    receive::end(&exchange, request.headers())
}

/// End a session with one server.
#[utoipa::path(
    delete, operation_id = "mcp_server_end", path = "/mcp/servers/{name}/mcp", tag = "mcp",
    params(("name" = String, Path, description = "The name of the server")),
    responses(
        (status = 200, description = "The session has ended"),
        (status = 404, description = "The session is unknown", body = Object),
        (status = 405, description = "The request names no session", body = Object),
    )
)]
pub(super) async fn end_server(McpExchange(exchange): McpExchange, request: Request) -> Response {
    receive::end(&exchange, request.headers())
}
