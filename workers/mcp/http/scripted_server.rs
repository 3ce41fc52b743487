//! A scripted HTTP server for unit tests. Each test says how the server answers.

use std::sync::Arc;

use hyper::Uri;
use hyper::header::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::HttpTarget;
use super::endpoint::HttpEndpoint;
use super::transport::HttpTransport;
use crate::core::model::remote::{ReconnectionOptions, StoredSession};
use crate::workers::mcp::call::ClientOptions;
use crate::workers::mcp::host::tests::RecordingSink;
use crate::workers::mcp::host::{CredentialError, Credentials, RedactionGuard, SessionStore};

/// One request as the server received it.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    pub http_method: String,
    /// Header names are lower case.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl SeenRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns the JSON-RPC method, or the HTTP method of a request without one.
    pub fn method(&self) -> &str {
        self.body["method"].as_str().unwrap_or(&self.http_method)
    }

    /// Returns the response with this result.
    pub fn result(&self, result: Value) -> ScriptedResponse {
        let reply = json!({ "jsonrpc": "2.0", "id": self.body["id"], "result": result });
        ScriptedResponse::json(200, &reply.to_string())
    }
}

pub struct ScriptedResponse {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    hangs: bool,
}

impl ScriptedResponse {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: vec![],
            body: body.into(),
            hangs: false,
        }
    }

    /// Never answers.
    pub fn hanging() -> Self {
        Self {
            hangs: true,
            ..Self::new(200, "")
        }
    }

    pub fn json(status: u16, body: &str) -> Self {
        Self::new(status, body).with("content-type", "application/json")
    }

    pub fn stream(body: &str) -> Self {
        Self::new(200, body).with("content-type", "text/event-stream")
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

type Script = dyn Fn(&SeenRequest) -> Option<ScriptedResponse> + Send + Sync;

/// A running server. If the script returns `None`, the server replies as a correct server with sessions does.
#[derive(Clone)]
pub struct ScriptedServer {
    pub url: String,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
}

impl ScriptedServer {
    pub async fn start(
        script: impl Fn(&SeenRequest) -> Option<ScriptedResponse> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = Self {
            url: format!("http://{}/mcp", listener.local_addr().expect("an address")),
            seen: Arc::default(),
        };
        let script: Arc<Script> = Arc::new(script);
        let seen = server.seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone(), seen.clone()));
            }
        });
        server
    }

    /// Returns how many requests had that method.
    pub fn count(&self, method: &str) -> usize {
        let seen = self.seen.lock();
        seen.iter()
            .filter(|request| request.method() == method)
            .count()
    }

    pub fn seen(&self) -> Vec<SeenRequest> {
        self.seen.lock().clone()
    }

    pub fn target(&self, sessions: Arc<RecordingStore>) -> HttpTarget {
        HttpTarget {
            name: "scripted".parse().expect("a name"),
            url: self.url.parse().expect("a URL"),
            headers: HeaderMap::new(),
            credentials: Arc::new(NoCredentials),
            tokens: None,
            sessions,
            listen: false,
            protocol: None,
            reconnection_options: ReconnectionOptions {
                initial_reconnection_delay: 20,
                ..ReconnectionOptions::default()
            },
        }
    }

    /// Returns a transport to the server, with a result limit of 10,000 bytes.
    pub fn transport(&self, sink: Arc<RecordingSink>) -> Arc<HttpTransport> {
        let target = self.target(Arc::default());
        let endpoint = HttpEndpoint::new(&target).expect("a usable URL");
        HttpTransport::new(endpoint, sink, 10_000, target.reconnection_options)
    }
}

pub fn options(sink: Arc<RecordingSink>) -> ClientOptions {
    ClientOptions {
        sink,
        watch: Arc::default(),
        result_limit: 10_000,
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<SeenRequest>>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        seen.lock().push(request.clone());
        let response = script(&request).unwrap_or_else(|| usual_response(&request));
        if response.hangs {
            std::future::pending::<()>().await;
        }
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", response.status);
        for (name, value) in &response.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", response.body.len()));
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&response.body);
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<SeenRequest> {
    let head_end = loop {
        if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let http_method = lines.next()?.split(' ').next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .iter()
        .find(|(name, _)| name == "content-length")
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(0);
    while buffer.len() < head_end + 4 + length {
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
    let body = buffer[head_end + 4..head_end + 4 + length].to_vec();
    buffer.drain(..head_end + 4 + length);
    Some(SeenRequest {
        http_method,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

/// Answers as a correct server with sessions does: one tool, `echo`, and the session `first`.
fn usual_response(request: &SeenRequest) -> ScriptedResponse {
    match request.method() {
        "initialize" => session_response(request, "first"),
        "tools/list" => request.result(json!({ "tools": [{ "name": "echo" }] })),
        "tools/call" => request.result(json!({ "content": [] })),
        "ping" => request.result(json!({})),
        "GET" => ScriptedResponse::new(405, ""),
        "server/discover" => ScriptedResponse::new(400, "no such version"),
        _ => ScriptedResponse::new(202, ""),
    }
}

/// Returns the response to `initialize` that opens a session.
pub fn session_response(request: &SeenRequest, id: impl ToString) -> ScriptedResponse {
    let result = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": { "tools": {} },
        "serverInfo": { "name": "scripted", "version": "1" },
    });
    request.result(result).with("mcp-session-id", id)
}

struct NoCredentials;

impl Credentials for NoCredentials {
    fn can_authenticate(&self) -> bool {
        false
    }

    fn apply(
        &self,
        _: &mut HeaderMap,
        _: Option<&mut Uri>,
    ) -> Result<RedactionGuard, CredentialError> {
        Ok(RedactionGuard::default())
    }
}

/// Keeps sessions in memory.
#[derive(Default)]
pub struct RecordingStore {
    pub stored: Mutex<Option<StoredSession>>,
    pub shown: Mutex<Option<String>>,
    pub writes: Mutex<usize>,
}

impl RecordingStore {
    /// Returns a store with a session of an earlier connection.
    pub fn with_session(id: &str) -> Arc<Self> {
        let store = Self::default();
        *store.stored.lock() = Some(StoredSession {
            id: id.to_owned(),
            initialize: None,
        });
        Arc::new(store)
    }
}

#[async_trait::async_trait]
impl SessionStore for RecordingStore {
    async fn load(&self) -> Option<StoredSession> {
        self.stored.lock().clone()
    }

    fn show(&self, session_id: Option<&str>) {
        *self.shown.lock() = session_id.map(str::to_owned);
    }

    async fn store(&self, session: &StoredSession) {
        *self.writes.lock() += 1;
        *self.stored.lock() = Some(session.clone());
    }

    async fn end(&self) {
        *self.writes.lock() += 1;
        *self.stored.lock() = None;
    }
}
