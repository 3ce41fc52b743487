//! What the transport itself costs: `POST /mcp/tool/call` passed to one stdio child, replies matched
//! by id, and nothing else. `pass-through PORT COMMAND`.
use axum::{body::Bytes, extract::State, http::StatusCode, response::{IntoResponse, Response}, routing::post, Router};
use mcp_echo::child::{spawn, Child};
use serde_json::json;

async fn h(State(child): State<Child>, body: Bytes) -> Response {
    match child.tool(&body).await {
        Some(v) if !v.is_empty() => ([("content-type", "application/json")], v).into_response(),
        _ => (StatusCode::BAD_GATEWAY, json!({"error":"upstream"}).to_string()).into_response(),
    }
}

#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let child = spawn(&a[2]).await;
    let app = Router::new().route("/mcp/tool/call", post(h)).layer(axum::extract::DefaultBodyLimit::max(16 << 20)).with_state(child);
    let l = tokio::net::TcpListener::bind(("127.0.0.1", a[1].parse::<u16>().unwrap())).await.unwrap();
    axum::serve(l, app).await.unwrap();
}
