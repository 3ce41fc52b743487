//! What HTTP to HTTP itself costs: `POST /mcp/tool/call` passed to one MCP server over pooled connections, and
//! nothing else. `pass-through-http PORT URL`.
use axum::{body::Bytes, extract::State, response::{IntoResponse, Response}, routing::post, Router};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::{connect::HttpConnector, Client};
use serde::Deserialize;
use serde_json::{value::RawValue, Value};
use std::sync::{atomic::{AtomicU64, Ordering}, Arc};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Req<'a> { method_name: &'a str, #[serde(borrow)] args: &'a RawValue }
type Shared = (Arc<AtomicU64>, Client<HttpConnector, Full<Bytes>>, hyper::Uri);

async fn h(State((next, client, uri)): State<Shared>, body: Bytes) -> Response {
    let r: Req = serde_json::from_slice(&body).unwrap();
    let id = next.fetch_add(1, Ordering::Relaxed);
    let m = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{{\"name\":{},\"arguments\":{}}}}}", Value::from(r.method_name), r.args.get());
    let request = hyper::Request::post(uri).header("content-type", "application/json").header("accept", "application/json, text/event-stream").body(Full::from(m)).unwrap();
    let body = client.request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    #[derive(Deserialize)] struct R<'a> { #[serde(borrow)] result: &'a RawValue }
    let x: R = serde_json::from_slice(&body).unwrap();
    ([("content-type", "application/json")], x.result.get().to_owned()).into_response()
}

#[tokio::main]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector);
    let app = Router::new().route("/mcp/tool/call", post(h)).with_state((Arc::new(AtomicU64::new(1)), client, a[2].parse::<hyper::Uri>().unwrap()));
    let l = tokio::net::TcpListener::bind(("127.0.0.1", a[1].parse::<u16>().unwrap())).await.unwrap();
    use axum::serve::ListenerExt;
    let l = l.tap_io(|s| { let _ = s.set_nodelay(true); });
    axum::serve(l, app).await.unwrap();
}
