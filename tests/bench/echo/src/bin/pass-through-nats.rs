//! Measures what HTTP over NATS to a child costs. This program passes each `POST /mcp/tool/call` on as one NATS request.
//! `pass-through-nats PORT COMMAND NATS_URL` is gateway and worker in one process. `pass-through-nats PORT - NATS_URL` is
//! the gateway alone, and `pass-through-nats - COMMAND NATS_URL` the worker alone.
use axum::{body::Bytes, extract::State, http::StatusCode, response::{IntoResponse, Response}, routing::post, Router};
use futures_util::StreamExt;
use mcp_echo::child::spawn;
use serde_json::json;

async fn h(State(nats): State<async_nats::Client>, body: Bytes) -> Response {
    match nats.request("mcp.call.echo", body).await {
        Ok(reply) if !reply.payload.is_empty() => ([("content-type", "application/json")], reply.payload).into_response(),
        _ => (StatusCode::BAD_GATEWAY, json!({"error":"upstream"}).to_string()).into_response(),
    }
}

async fn work(command: String, nats: async_nats::Client) {
    let child = spawn(&command).await;
    let mut calls = nats.queue_subscribe("mcp.call.*", "workers".to_string()).await.unwrap();
    while let Some(call) = calls.next().await {
        let (child, nats) = (child.clone(), nats.clone());
        tokio::spawn(async move {
            let result = child.tool(&call.payload).await.unwrap_or_default();
            if let Some(reply) = call.reply { let _ = nats.publish(reply, result.into()).await; }
        });
    }
}

#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    // Every call crosses the NATS server, in one process too.
    if a[2] != "-" {
        let worker = work(a[2].clone(), async_nats::connect(&a[3]).await.unwrap());
        if a[1] == "-" { return worker.await; }
        tokio::spawn(worker);
    }
    let nats = async_nats::connect(&a[3]).await.unwrap();
    let app = Router::new().route("/mcp/tool/call", post(h)).layer(axum::extract::DefaultBodyLimit::max(16 << 20)).with_state(nats);
    let l = tokio::net::TcpListener::bind(("127.0.0.1", a[1].parse::<u16>().unwrap())).await.unwrap();
    axum::serve(l, app).await.unwrap();
}
