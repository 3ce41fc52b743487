//! HTTP and an event stream, as it was in 2024-11-05: one stream says where to post, and brings every answer.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use rmcp::model::ClientConfig;
use rmcp::service::{RoleClient, RunningService};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::endpoint::{EndpointUrl, RedactionGuard};
use super::protocol::ProtocolContext;
use super::sse::{SseError, SseReader};
use super::transport::{HttpTransport, TransportError};
use crate::core::model::tool::Tools;
use crate::workers::mcp::connection::{CallError, ConnectError, ToolCall, call_over};
use crate::workers::mcp::frame::Frame;
use crate::workers::mcp::mux::Mux;
use crate::workers::mcp::rmcp_bridge::{LineReader, new_bridge};
use crate::workers::mcp::stdio::client;
use crate::workers::mcp::tool_list::list_over;

/// Messages that are posted at once.
const POSTS: usize = 64;

pub struct HttpSseConnection {
    mux: Arc<Mux>,
    reason: Arc<OnceLock<String>>,
    tasks: Vec<JoinHandle<()>>,
    /// Answers pings and whatever else the server asks.
    _session: RunningService<RoleClient, ClientConfig>,
    result_limit: usize,
}

/// Tasks that end when nobody wants them any more.
struct Tasks(Vec<JoinHandle<()>>, Arc<Mux>);

impl Drop for Tasks {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            self.1.close();
        }
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl HttpSseConnection {
    pub async fn connect(wire: &Arc<HttpTransport>) -> Result<(Self, Tools), ConnectError> {
        let opened = wire.open_stream(&ProtocolContext::default(), None).await;
        let (mut events, hidden) = opened.map_err(|trouble| match trouble {
            TransportError::Wrong { reason, .. } => {
                format!("its event stream was not opened: {reason}").into()
            }
            trouble => ConnectError::from(trouble),
        })?;
        let endpoint = loop {
            match events.next().await {
                Ok(Some(event)) if event.name == "endpoint" => break event.data,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    return Err("its event stream ended before it said where to post".into());
                }
            }
        };
        let endpoint = std::str::from_utf8(&endpoint)
            .ok()
            .and_then(|to| wire.endpoint.place.url.join(to.trim()).ok());
        let endpoint = endpoint.ok_or("its endpoint event has no URL")?;
        if endpoint.origin() != wire.endpoint.place.url.origin() {
            return Err("its endpoint event points to another origin, which is refused".into());
        }
        let (mux, frames) = Mux::new();
        let reason = Arc::new(OnceLock::new());
        let (tap, reader) = new_bridge(mux.clone(), wire.hearing.clone(), wire.result_limit);
        let posting = Posting {
            wire: wire.clone(),
            endpoint: EndpointUrl::new(endpoint)?,
            mux: mux.clone(),
            reason: reason.clone(),
        };
        let tasks = vec![
            tokio::spawn(read_all(events, hidden, reader, reason.clone())),
            tokio::spawn(Arc::new(posting).post_all(frames)),
        ];
        let mut tasks = Tasks(tasks, mux.clone());
        let why = |error: String| reason.get().cloned().unwrap_or(error);
        let session = rmcp::serve_client(client(), tap)
            .await
            .map_err(|error| format!("its session was not opened: {}", why(error.to_string())))?;
        let tools = list_over(&mux, wire.result_limit).await.map_err(why)?;
        let tasks = std::mem::take(&mut tasks.0);
        Ok((
            Self {
                mux,
                reason,
                tasks,
                _session: session,
                result_limit: wire.result_limit,
            },
            tools,
        ))
    }

    pub async fn call(&self, call: ToolCall<'_>) -> Result<Bytes, CallError> {
        call_over(&self.mux, call).await
    }

    pub async fn list_tools(&self) -> Result<Tools, String> {
        list_over(&self.mux, self.result_limit).await
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
        self.reason
            .get()
            .cloned()
            .unwrap_or_else(|| "it was closed".into())
    }

    pub fn stop(&self) {
        self.mux.close();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for HttpSseConnection {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads the stream until it ends: then every call has ended.
async fn read_all(
    mut events: SseReader,
    hidden: RedactionGuard,
    reader: LineReader,
    reason: Arc<OnceLock<String>>,
) {
    let why = loop {
        match events.next().await {
            Ok(Some(event)) if event.name == "message" => reader.take(event.data.into()),
            Ok(Some(_)) => {}
            Ok(None) => break "it closed its event stream".to_owned(),
            Err(SseError::TooLong) => {
                break "it sent an event that is larger than RESULT_LIMIT".to_owned();
            }
            Err(SseError::Cut(why)) => break format!("its event stream was cut off: {why}"),
        }
    };
    let _ = reason.set(why);
    reader.mux.close();
    drop(hidden);
}

struct Posting {
    wire: Arc<HttpTransport>,
    endpoint: EndpointUrl,
    mux: Arc<Mux>,
    reason: Arc<OnceLock<String>>,
}

impl Posting {
    /// Posts what is to be said. The protocol's own messages keep their order; calls need none.
    async fn post_all(self: Arc<Self>, mut frames: mpsc::Receiver<Frame>) {
        let posts = Arc::new(Semaphore::new(POSTS));
        while let Some(frame) = frames.recv().await {
            let mut batch = vec![frame];
            self.mux.keep_wanted(&mut batch);
            let Some(frame) = batch.pop() else { continue };
            if frame.call.is_none() {
                self.post(frame).await;
                continue;
            }
            let Ok(permit) = posts.clone().acquire_owned().await else {
                return;
            };
            let posting = self.clone();
            tokio::spawn(async move {
                let _permit = permit;
                tokio::select! {
                    () = posting.post(frame) => {}
                    () = posting.mux.closed() => {}
                }
            });
        }
    }

    /// A message that cannot be delivered ends the connection: its answer would never come.
    async fn post(&self, frame: Frame) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Bytes::from_owner(frame);
        let why = match self
            .wire
            .endpoint
            .send(Method::POST, &self.endpoint, &headers, body)
            .await
        {
            Ok((response, _)) if response.status().is_success() => return,
            Ok((response, _)) => format!("it answered a message with HTTP {}", response.status()),
            Err(unsent) => TransportError::from(unsent).reason(),
        };
        let _ = self.reason.set(why);
        self.mux.close();
    }
}
