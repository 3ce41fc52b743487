//! A server that answers as a test says, and records its requests.

use std::future::IntoFuture;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// One request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: Option<String>,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Seen {
    /// Returns the JSON-RPC method, or the HTTP method of a request without one.
    pub fn about(&self) -> &str {
        self.body["method"].as_str().unwrap_or(self.method.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

type Answering = Arc<dyn Fn(&Seen) -> Option<Response> + Send + Sync>;

#[derive(Clone)]
pub struct Script {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    answering: Answering,
}

impl Script {
    /// Answers as `answering` says. Where that returns `None`, the server answers as a correct server with sessions does.
    pub async fn start(
        answering: impl Fn(&Seen) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("an address"));
        let script = Self {
            url,
            seen: Arc::default(),
            answering: Arc::new(answering),
        };
        let router = Router::new().fallback(answer).with_state(script.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        script
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("what was seen").clone()
    }

    /// Returns how many requests had that method.
    pub fn times(&self, about: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.about() == about)
            .count()
    }
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let seen = Seen {
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().map(str::to_owned),
        method: parts.method,
        headers: parts.headers,
        body,
    };
    script
        .seen
        .lock()
        .expect("what was seen")
        .push(seen.clone());
    (script.answering)(&seen).unwrap_or_else(|| usual(&seen))
}

/// Answers as a correct server does: one tool, `echo`, and a session.
fn usual(seen: &Seen) -> Response {
    match seen.about() {
        "initialize" => session_of(seen, "the-session"),
        "tools/list" => result_of(
            seen,
            json!({ "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] }),
        ),
        "tools/call" => result_of(seen, text("echoed")),
        "ping" => result_of(seen, json!({})),
        "GET" => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        "server/discover" => (StatusCode::BAD_REQUEST, "no such version").into_response(),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

/// Returns the response to `initialize` that opens a session.
pub fn session_of(seen: &Seen, id: impl ToString) -> Response {
    let server = json!({ "name": "script", "version": "1" });
    let result = json!({ "protocolVersion": "2025-06-18", "capabilities": { "tools": {} }, "serverInfo": server });
    let mut response = result_of(seen, result);
    response
        .headers_mut()
        .insert("mcp-session-id", id.to_string().parse().expect("a header"));
    response
}

pub fn text(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

pub fn result_of(seen: &Seen, result: Value) -> Response {
    axum::Json(json!({ "jsonrpc": "2.0", "id": seen.body["id"], "result": result })).into_response()
}

/// Returns an event stream that ends after these bytes.
pub fn stream(bytes: impl Into<Body>) -> Response {
    ([("content-type", "text/event-stream")], bytes.into()).into_response()
}

/// Returns a body that is cut off after these bytes.
pub fn cut_off(text: &str) -> Body {
    let chunks = [Ok(text.to_owned()), Err(std::io::Error::other("cut"))];
    // Without a pause between the two, the first chunk is never sent.
    let chunks = futures::stream::unfold(
        (chunks.into_iter(), false),
        |(mut chunks, late)| async move {
            if late {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            chunks.next().map(|chunk| (chunk, (chunks, true)))
        },
    );
    Body::from_stream(chunks)
}
