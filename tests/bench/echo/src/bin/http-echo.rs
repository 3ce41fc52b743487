//! A tiny MCP server over Streamable HTTP: `echo`, answered as JSON. `http-echo PORT`.
use axum::{body::Bytes, http::StatusCode, response::{IntoResponse, Response}, routing::post, Router};
use serde_json::{json, Value};

async fn answer(body: Bytes) -> Response {
    let m: Value = match serde_json::from_slice(&body) { Ok(m) => m, Err(_) => return StatusCode::BAD_REQUEST.into_response() };
    let result = match m["method"].as_str() {
        Some("initialize") => json!({"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"0"}}),
        Some("tools/list") => json!({"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}),
        Some("tools/call") => json!({"content":[{"type":"text","text":m["params"]["arguments"]["message"]}],"isError":false}),
        Some("server/discover") => return StatusCode::BAD_REQUEST.into_response(),
        _ => return StatusCode::ACCEPTED.into_response(),
    };
    let body = serde_json::to_vec(&json!({"jsonrpc":"2.0","id":m["id"],"result":result})).unwrap();
    ([("content-type", "application/json"), ("mcp-session-id", "s")], body).into_response()
}

#[tokio::main]
async fn main() {
    let port: u16 = std::env::args().nth(1).unwrap().parse().unwrap();
    let l = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    use axum::serve::ListenerExt;
    let l = l.tap_io(|s| { let _ = s.set_nodelay(true); });
    axum::serve(l, Router::new().route("/mcp", post(answer))).await.unwrap();
}
