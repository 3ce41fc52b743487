//! Servers behind a URL that answer anything to the MCP client.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderMap;
use proptest::prelude::*;

use super::{check, like, run_async};
use mcp_api::core::mcp::capabilities::ClientCapabilities;
use mcp_api::core::mcp::input_required::ClientMethod;
use mcp_api::core::model::remote::{ProtocolMode, ReconnectionOptions, StoredSession};
use mcp_api::core::model::upstream_change::ChangedPart;
use mcp_api::time::clock::monotonic;
use mcp_api::workers::mcp::host::CredentialError;
use mcp_api::workers::mcp::{
    ClientOptions, Connection, Credentials, HttpTarget, LogSource, LogText, NotificationSink,
    RedactionGuard, RequestParams, SessionStore, UserRequest,
};

/// The caller of the client limits its time in the same way.
const START_LIMIT: Duration = Duration::from_secs(10);

/// A server that sends its answers in their order, again and again. It closes the connection after each one.
pub struct AnyServer {
    pub url: String,
    address: std::net::SocketAddr,
    is_stopped: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AnyServer {
    /// Starts the server. `URL` in an answer becomes its URL.
    pub fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let url = format!("http://{address}/mcp");
        let is_stopped = Arc::<AtomicBool>::default();
        let stop = is_stopped.clone();
        let own = url.clone();
        let thread = std::thread::spawn(move || {
            let answers = answers.iter().map(|answer| with_url(answer, &own));
            let answers: Vec<_> = answers.collect();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept() else {
                    return;
                };
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // The client may close the connection at any time.
                let _ = answer(stream, &answers[number % answers.len()]);
            }
        });
        Self {
            url,
            address,
            is_stopped,
            thread: Some(thread),
        }
    }
}

impl Drop for AnyServer {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn with_url(answer: &[u8], url: &str) -> Vec<u8> {
    let mut answer = answer.to_vec();
    while let Some(at) = memchr::memmem::find(&answer, b"URL") {
        answer.splice(at..at + 3, url.bytes());
    }
    answer
}

fn answer(mut stream: TcpStream, answer: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut request = [0; 16 * 1024];
    let _ = stream.read(&mut request)?;
    stream.write_all(answer)
}

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: s1\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{},\"serverInfo\":{\"name\":\"x\",\"version\":\"1\"}}}",
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"tools\":[]}}\n\n",
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nevent: endpoint\ndata: /messages\n\n",
    "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32000,\"message\":\"no session\"}}",
    "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer resource_metadata=\"URL\"\r\n\r\n",
    "HTTP/1.1 404 Not Found\r\n\r\n<html>none</html>",
    "HTTP/1.1 307 Temporary Redirect\r\nlocation: /other\r\n\r\n",
    "HTTP/1.1 202 Accepted\r\n\r\n",
    "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-encoding: gzip\r\n\r\nxx",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
];

struct Nothing;

#[async_trait::async_trait]
impl NotificationSink for Nothing {
    fn tools_changed(&self) {}
    fn started_again(&self) {}
    fn client_not_found(&self, _: ClientMethod) {}

    fn changed(&self, _: ChangedPart) {}
    fn log(&self, _: LogSource, _: LogText<'_>) {}
    fn excerpt(&self, text: &[u8], limit: usize) -> String {
        String::from_utf8_lossy(&text[..text.len().min(limit)]).into_owned()
    }
    async fn protocol_detected(&self, _: ProtocolMode) {}
}

#[async_trait::async_trait]
impl SessionStore for Nothing {
    async fn load(&self) -> Option<StoredSession> {
        None
    }
    fn show(&self, _: Option<&str>) {}
    async fn store(&self, _: &StoredSession) {}
    async fn end(&self) {}
}

impl Credentials for Nothing {
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

fn target(url: &str, protocol: Option<ProtocolMode>) -> HttpTarget {
    HttpTarget {
        name: "any".parse().expect("a name"),
        url: url.parse().expect("a URL"),
        headers: HeaderMap::new(),
        credentials: Arc::new(Nothing),
        tokens: None,
        sessions: Arc::new(Nothing),
        listen: true,
        protocol,
        reconnection_options: ReconnectionOptions {
            initial_reconnection_delay: 1,
            max_reconnection_delay: 2,
            ..ReconnectionOptions::default()
        },
    }
}

/// Connects and makes one call, if the connection is made. Each has the time that the program gives it.
async fn connect_and_call(url: &str, protocol: Option<ProtocolMode>) {
    let options = ClientOptions {
        sink: Arc::new(Nothing),
        watch: Arc::default(),
        result_limit: 10_000,
    };
    let connecting = Connection::connect_http(target(url, protocol), options);
    if let Ok(Ok((connection, _))) = tokio::time::timeout(START_LIMIT, connecting).await {
        let call = UserRequest {
            method: "tools/call",
            params: RequestParams::Named {
                name: "t",
                args: "{}",
                secrets: &[],
            },
            input: "",
            capabilities: ClientCapabilities::default(),
            asker: None,
            name: Some("t"),
            traceparent: None,
            meta: None,
            deadline: monotonic() + Duration::from_millis(200),
            limit: Duration::from_millis(200),
            reset_on_progress: false,
            log: None,
            progress: None,
        };
        let called = tokio::time::timeout(START_LIMIT, connection.call(&call)).await;
        assert!(called.is_ok(), "the call outlives its own limit");
        connection.stop().await;
    }
}

#[test]
fn any_answers_end_in_a_connection_or_an_error() {
    let input = || {
        let modes = vec![
            None,
            Some(ProtocolMode::Session),
            Some(ProtocolMode::Sse),
            Some(ProtocolMode::Stateless),
        ];
        let answers = prop::collection::vec(like(ANSWERS), 1..6);
        (answers, prop::sample::select(modes))
    };
    check(
        input,
        |(answers, protocol): (Vec<Vec<u8>>, Option<ProtocolMode>)| {
            let server = AnyServer::start(answers);
            run_async(connect_and_call(&server.url, protocol));
        },
    );
}
