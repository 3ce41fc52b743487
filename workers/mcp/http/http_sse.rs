//! HTTP+SSE (2024-11-05): an event stream names the URL for messages and brings every reply.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use rmcp::model::ClientConfig;
use rmcp::service::{RoleClient, RunningService};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use url::Url;

use super::endpoint::{EndpointUrl, HttpRequest, RedactionGuards, SendError};
use super::protocol::ProtocolContext;
use super::sse::{SseError, SseReader};
use super::transport::{HttpTransport, TransportError};
use crate::core::mcp::version::Era;
use crate::core::model::tool::Tools;
use crate::workers::mcp::call::{CallError, ConnectError, UserRequest, call_over};
use crate::workers::mcp::frame::Frame;
use crate::workers::mcp::handshake::Handshake;
use crate::workers::mcp::line_reader::LineReader;
use crate::workers::mcp::mux::{Mux, QueuedFrame};
use crate::workers::mcp::resource_watch::{ResourceWatch, subscribe_over};
use crate::workers::mcp::rmcp_bridge::{client_config, new_bridge};
use crate::workers::mcp::tool_list::list_over;

/// Calls that are posted at once.
const MAX_POSTS: usize = 64;
/// The longest time for the post of a message that is no call. A server that exceeds it accepts no messages any more.
const POST_TIMEOUT: Duration = Duration::from_secs(20);
/// The interval in which an unfinished post checks whether its call has ended.
const CALL_CHECK: Duration = Duration::from_secs(1);

pub struct HttpSseConnection {
    mux: Arc<Mux>,
    transport: Arc<HttpTransport>,
    tasks: Vec<JoinHandle<()>>,
    /// Answers requests of the server.
    _session: RunningService<RoleClient, ClientConfig>,
    initialize: Arc<OnceLock<Bytes>>,
}

/// Ends the tasks of a connection that was not opened.
struct StartingTasks {
    tasks: Vec<JoinHandle<()>>,
    mux: Arc<Mux>,
}

impl Drop for StartingTasks {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.mux.close("it was not opened");
        }
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl HttpSseConnection {
    pub async fn connect(
        transport: &Arc<HttpTransport>,
        watch: &Arc<ResourceWatch>,
    ) -> Result<(Self, Tools), ConnectError> {
        let (mut events, redaction) = open_events(transport).await?;
        let endpoint = read_endpoint(&mut events, &transport.endpoint.url.url).await?;
        let mux = Mux::new();
        let (bridge, rmcp) = new_bridge(mux.clone());
        let initialize = rmcp.initialize_result();
        let reader = LineReader {
            mux: mux.clone(),
            sink: transport.sink.clone(),
            result_limit: transport.result_limit,
            rmcp,
            exclusive: None,
        };
        let poster = Arc::new(Poster {
            transport: transport.clone(),
            endpoint: EndpointUrl::new(endpoint)
                .map_err(|error| ConnectError::from(error.to_string()))?,
            mux: mux.clone(),
            timeout: POST_TIMEOUT,
        });
        let mut starting = StartingTasks {
            tasks: vec![
                tokio::spawn(read_events(events, redaction, reader)),
                tokio::spawn(poster.post_all()),
            ],
            mux: mux.clone(),
        };
        let reason = |error: String| mux.close_reason().unwrap_or(error);
        let session = rmcp::serve_client(client_config(false), bridge)
            .await
            .map_err(|error| {
                format!("its session was not opened: {}", reason(error.to_string()))
            })?;
        let tools = list_over(&mux, Era::Legacy, &*transport.sink, transport.result_limit)
            .await
            .map_err(|error| reason(error.to_string()))?;
        let subscribing = subscribe_over(mux.clone(), transport.sink.clone(), watch.clone());
        starting.tasks.push(tokio::spawn(subscribing));
        let connection = Self {
            mux: mux.clone(),
            transport: transport.clone(),
            tasks: std::mem::take(&mut starting.tasks),
            _session: session,
            initialize,
        };
        Ok((connection, tools))
    }

    pub async fn call(&self, call: &UserRequest<'_>) -> Result<Bytes, CallError> {
        call_over(&self.mux, Era::Legacy, call).await
    }

    pub async fn list_tools(&self) -> Result<Tools, ConnectError> {
        let HttpTransport {
            sink, result_limit, ..
        } = &*self.transport;
        Ok(list_over(&self.mux, Era::Legacy, &**sink, *result_limit).await?)
    }

    pub fn handshake(&self) -> Option<Handshake> {
        self.initialize.get().cloned().map(Handshake::Initialize)
    }

    pub fn is_closed(&self) -> bool {
        self.mux.is_closed()
    }

    pub async fn closed(&self) {
        self.mux.closed().await;
    }

    /// Waits until no call is running.
    pub async fn idle(&self) {
        self.mux.idle().await;
    }

    pub fn why_it_ended(&self) -> String {
        self.mux
            .close_reason()
            .unwrap_or_else(|| "it was closed".into())
    }

    pub fn stop(&self) {
        self.mux.close("it was stopped");
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for HttpSseConnection {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn open_events(
    transport: &Arc<HttpTransport>,
) -> Result<(SseReader, RedactionGuards), ConnectError> {
    let context = ProtocolContext::default();
    let opened = transport.open_stream(&context, None);
    opened.await.map_err(|error| match error {
        TransportError::Protocol { reason, .. } => {
            format!("its event stream was not opened: {reason}").into()
        }
        error => ConnectError::from(error),
    })
}

/// Returns the URL for messages, which the first event names.
async fn read_endpoint(events: &mut SseReader, stream: &Url) -> Result<Url, ConnectError> {
    let endpoint = loop {
        match events.next().await {
            Ok(Some(event)) if event.name == "endpoint" => break event.data,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                return Err("its event stream ended before it named the URL for messages".into());
            }
        }
    };
    let endpoint = std::str::from_utf8(&endpoint)
        .ok()
        .and_then(|endpoint| stream.join(endpoint.trim()).ok())
        .ok_or("its endpoint event has no URL")?;
    if endpoint.origin() != stream.origin() {
        return Err("its endpoint event points to another origin, which is refused".into());
    }
    Ok(endpoint)
}

/// Reads the stream until it ends, and then ends the connection.
async fn read_events(mut events: SseReader, redaction: RedactionGuards, reader: LineReader) {
    let reason = loop {
        match events.next().await {
            Ok(Some(event)) if event.name == "message" => reader.on_line(event.data),
            Ok(Some(_)) => {}
            Ok(None) => break "it closed its event stream".to_owned(),
            Err(SseError::TooLong) => {
                break "it sent an event that is larger than RESULT_LIMIT".to_owned();
            }
            Err(SseError::Cut(reason)) => break format!("its event stream was cut off: {reason}"),
        }
    };
    reader.mux.close(reason);
    drop(redaction);
}

/// Posts messages to the server.
struct Poster {
    transport: Arc<HttpTransport>,
    endpoint: EndpointUrl,
    mux: Arc<Mux>,
    timeout: Duration,
}

impl Poster {
    /// Posts all frames until the connection ends. Messages of the protocol keep their order; calls do not.
    async fn post_all(self: Arc<Self>) {
        let permits = Arc::new(Semaphore::new(MAX_POSTS));
        let mut batch = Vec::new();
        while self.mux.next_batch(&mut batch).await.is_ok() {
            for queued in batch.drain(..) {
                let Some(id) = queued.frame.request else {
                    self.post_message(queued).await;
                    continue;
                };
                let Ok(permit) = permits.clone().acquire_owned().await else {
                    return;
                };
                let poster = self.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    poster.post_call(id, queued).await;
                });
            }
        }
    }

    /// Posts a message that is no call. A server that does not accept it in time accepts nothing any more.
    async fn post_message(&self, queued: QueuedFrame) {
        match tokio::time::timeout(self.timeout, self.post(queued.frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => self.mux.close(reason),
            Err(_) => self.mux.close(format!(
                "it did not accept a message within {} ms",
                self.timeout.as_millis()
            )),
        }
    }

    /// Posts a call. The server may answer the post only when the call ends, so the post lasts as long as the call.
    async fn post_call(&self, id: u64, queued: QueuedFrame) {
        let mut post = std::pin::pin!(self.post(queued.frame));
        loop {
            tokio::select! {
                posted = &mut post => {
                    if let Err(reason) = posted {
                        self.mux.close(reason);
                    }
                    return;
                }
                () = self.mux.closed() => return,
                () = tokio::time::sleep(CALL_CHECK) => {
                    if !self.mux.is_waiting(id) {
                        return;
                    }
                }
            }
        }
    }

    /// Posts a frame. Returns the reason if the server did not accept it, because then no reply will come.
    async fn post(&self, frame: Frame) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let message = HttpRequest {
            method: Method::POST,
            url: &self.endpoint,
            headers: &headers,
            body: Bytes::from_owner(frame),
            token_is_fresh: false,
        };
        let sent: Result<_, SendError> = self.transport.endpoint.send(message).await;
        match sent {
            Ok((response, _)) if response.status().is_success() => Ok(()),
            Ok((response, _)) => Err(format!(
                "it answered a message with HTTP {}",
                response.status()
            )),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scripted_server::{ScriptedResponse, ScriptedServer};
    use super::*;
    use crate::workers::mcp::frame::{plain, request};
    use crate::workers::mcp::host::tests::RecordingSink;

    fn poster(server: &ScriptedServer) -> Arc<Poster> {
        Arc::new(Poster {
            transport: server.transport(Arc::<RecordingSink>::default()),
            endpoint: EndpointUrl::new(server.url.parse().expect("a URL")).expect("usable"),
            mux: Mux::new(),
            timeout: Duration::from_millis(50),
        })
    }

    #[tokio::test]
    async fn a_message_that_is_not_accepted_in_time_ends_the_connection() {
        let server = ScriptedServer::start(|_| Some(ScriptedResponse::hanging())).await;
        let poster = poster(&server);
        let mux = poster.mux.clone();
        tokio::spawn(poster.post_all());
        mux.send(plain(b"{}".to_vec())).await.expect("open");
        mux.closed().await;
        let reason = mux.close_reason().expect("a reason");
        assert!(
            reason.contains("did not accept a message within 50 ms"),
            "{reason}"
        );
    }

    #[tokio::test]
    async fn the_post_of_a_call_may_last_as_long_as_the_call() {
        let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
        let server = ScriptedServer::start(move |request| {
            let _ = seen.send(());
            let is_call = request.method() == "tools/call";
            Some(if is_call {
                ScriptedResponse::hanging()
            } else {
                ScriptedResponse::new(202, "")
            })
        })
        .await;
        let poster = poster(&server);
        let mux = poster.mux.clone();
        tokio::spawn(poster.post_all());
        let pending = mux.register(None).expect("open");
        let frame = request(pending.id, "tools/call", "{}");
        let space = pending.reserve(frame.bytes.len()).await.expect("open");
        pending.send(frame, space).expect("open");
        mux.send(plain(b"{}".to_vec())).await.expect("open");
        for _ in 0..2 {
            requests.recv().await.expect("the call and the message");
        }
        assert!(!mux.is_closed());
    }
}
