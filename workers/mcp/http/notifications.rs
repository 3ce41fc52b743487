//! Reads the server's own stream, which brings notifications such as `tools/list_changed`. Without sessions, the request for
//! the stream names the resources that clients watch.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode};
use tokio::sync::watch;

use super::endpoint::{HttpRequest, RedactionGuards};
use super::protocol::ProtocolContext;
use super::session::HttpSession;
use super::sse::SseReader;
use super::transport::TransportError;
use crate::time::clock::monotonic;
use crate::workers::mcp::jsonrpc::note;
use crate::workers::mcp::request_meta::{LISTEN, listen_members};
use crate::workers::mcp::resource_watch::{ResourceWatch, WatchedUris};

/// A stream that lasted for this time was no failed attempt.
const USEFUL_STREAM: Duration = Duration::from_secs(5);
/// How long the next stream may take until the server accepts it. Then it replaces the open stream anyway.
const ACCEPT_LIMIT: Duration = Duration::from_secs(5);

/// The facts about earlier attempts that the next attempt needs.
#[derive(Default)]
struct Attempts {
    /// Attempts in a row that brought nothing.
    failed: u32,
    last_event: Option<String>,
    /// The pause that the server asks for, in milliseconds.
    retry: Option<u64>,
}

/// The end of one attempt.
enum StreamEnd {
    /// The session was replaced, so the next stream starts with a new session.
    SessionReplaced,
    /// The server has no such stream.
    Unsupported,
    /// The connection has ended.
    Lost,
    Closed(String),
}

/// Reads the stream until the connection ends.
pub(super) async fn listen(session: Arc<HttpSession>, watch: Arc<ResourceWatch>) {
    read_streams(&session, &watch).await;
    if !session.context().stateless {
        return;
    }
    // Without the stream nothing more can be done for the watched resources.
    let mut wanted = watch.subscribe();
    while !session.is_lost() {
        watch.record_applied(wanted.borrow_and_update().clone());
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = session.lost() => return,
        }
    }
}

/// Reads streams until the connection ends, or until the server does not offer the stream any more. A stream that ends at
/// once is opened again after growing pauses, and given up after `maxRetries` of them.
async fn read_streams(session: &Arc<HttpSession>, watch: &ResourceWatch) {
    let mut attempts = Attempts::default();
    loop {
        let reason = match read_one_stream(session, watch, &mut attempts).await {
            StreamEnd::SessionReplaced => {
                attempts = Attempts::default();
                continue;
            }
            StreamEnd::Unsupported | StreamEnd::Lost => return,
            StreamEnd::Closed(reason) => reason,
        };
        let transport = &session.transport;
        if attempts.failed >= transport.options.max_retries {
            return note(
                &*transport.sink,
                &format!("the client reads the server's own stream no longer: {reason}"),
            );
        }
        let pause = transport.pause(attempts.failed, attempts.retry);
        attempts.failed += 1;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = session.reopened.notified() => {}
        }
    }
}

async fn read_one_stream(
    session: &Arc<HttpSession>,
    watch: &ResourceWatch,
    attempts: &mut Attempts,
) -> StreamEnd {
    let context = session.context();
    let reopened = session.reopened.notified();
    let mut wanted = watch.subscribe();
    let uris = wanted.borrow_and_update().clone();
    let opened = if context.stateless {
        subscribe(session, &context, &uris).await
    } else {
        session
            .transport
            .open_stream(&context, attempts.last_event.as_deref())
            .await
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) => return open_error(session, &context, attempts, error).await,
    };
    let opened_at = monotonic();
    let has_message = if context.stateless {
        let stream = WatchingStream {
            session,
            context: &context,
            watch,
            wanted,
            uris,
        };
        stream.read(&mut opened).await
    } else {
        tokio::select! {
            has_message = read_events(session, &context, &mut opened.0, || {}) => has_message,
            () = reopened => return StreamEnd::SessionReplaced,
        }
    };
    let events = opened.0;
    if let Some(id) = events.last_id() {
        attempts.last_event = Some(id.to_owned());
    }
    attempts.retry = events.retry().or(attempts.retry);
    if has_message || opened_at.elapsed() >= USEFUL_STREAM {
        attempts.failed = 0;
    }
    StreamEnd::Closed("it closed its stream".into())
}

async fn open_error(
    session: &Arc<HttpSession>,
    context: &ProtocolContext,
    attempts: &Attempts,
    error: TransportError,
) -> StreamEnd {
    match error {
        TransportError::Protocol {
            status: Some(StatusCode::METHOD_NOT_ALLOWED),
            ..
        } => StreamEnd::Unsupported,
        TransportError::Protocol {
            status: Some(status),
            ..
        } if status.is_client_error() => {
            // The server has no such stream, or it does not know the session. A ping shows which.
            if context.has_session() {
                let _ = session.request("ping", "").await;
            }
            if session.context().number == context.number {
                StreamEnd::Unsupported
            } else {
                StreamEnd::SessionReplaced
            }
        }
        TransportError::Unreachable(_)
            if attempts.failed >= session.transport.options.max_retries =>
        {
            session.mark_lost(&error.to_string());
            StreamEnd::Lost
        }
        error => StreamEnd::Closed(error.to_string()),
    }
}

/// Reads events until the stream ends. Returns whether one of them was a message, and calls `on_message` after each message.
async fn read_events(
    session: &HttpSession,
    context: &ProtocolContext,
    events: &mut SseReader,
    mut on_message: impl FnMut(),
) -> bool {
    let mut has_message = false;
    while let Ok(Some(event)) = events.next().await {
        if event.name == "message" {
            has_message |= !event.data.trim_ascii().is_empty();
            let _ = session.transport.on_event(context, &event.data, None);
            on_message();
        }
    }
    has_message
}

/// The stream of a server without sessions, which follows the watched resources.
struct WatchingStream<'a> {
    session: &'a HttpSession,
    context: &'a ProtocolContext,
    watch: &'a ResourceWatch,
    wanted: watch::Receiver<WatchedUris>,
    /// The resources that the open stream brings.
    uris: WatchedUris,
}

impl WatchingStream<'_> {
    /// Reads events until the stream ends. If clients watch other resources, another stream replaces this one without a gap.
    /// Returns whether an event was a message.
    async fn read(mut self, opened: &mut (SseReader, RedactionGuards)) -> bool {
        loop {
            let wanted = &mut self.wanted;
            let next = async {
                if wanted.changed().await.is_err() {
                    return std::future::pending().await;
                }
                let uris = wanted.borrow_and_update().clone();
                let opened = open_next(self.session, self.context, &uris).await;
                (uris, opened)
            };
            // The first message says that the server has accepted the request.
            let accepted = || self.watch.record_applied(self.uris.clone());
            let reading = read_events(self.session, self.context, &mut opened.0, accepted);
            let (uris, next) = tokio::select! {
                has_message = reading => return has_message,
                next = next => next,
            };
            match next {
                Ok(next) => *opened = next,
                // The stream is opened again after a pause.
                Err(_) => return true,
            }
            self.watch.record_applied(uris.clone());
            self.uris = uris;
        }
    }
}

/// Opens a stream, and waits until the server has accepted it.
async fn open_next(
    session: &HttpSession,
    context: &ProtocolContext,
    uris: &WatchedUris,
) -> Result<(SseReader, RedactionGuards), TransportError> {
    let (mut events, redaction) = subscribe(session, context, uris).await?;
    let first = tokio::time::timeout(ACCEPT_LIMIT, events.next()).await;
    if let Ok(Ok(Some(event))) = first {
        let _ = session.transport.on_event(context, &event.data, None);
    }
    Ok((events, redaction))
}

/// Opens the stream of a server without sessions, which is the reply to a request (MCP 2026-07-28, subscriptions).
async fn subscribe(
    session: &HttpSession,
    context: &ProtocolContext,
    uris: &WatchedUris,
) -> Result<(SseReader, RedactionGuards), TransportError> {
    let params = context.params(&listen_members(uris));
    let request = session.message(LISTEN, &params);
    let transport = &session.transport;
    let message = HttpRequest {
        method: Method::POST,
        url: &transport.endpoint.url,
        headers: &context.headers(request.method, None),
        body: request.body,
        token_is_fresh: false,
    };
    let (response, redaction) = transport.endpoint.send(message).await?;
    let events = transport.stream_of(response)?;
    Ok((events, redaction))
}

#[cfg(test)]
mod tests {
    use super::super::open::OpenedSession;
    use super::super::scripted_server::{RecordingStore, ScriptedResponse, ScriptedServer};
    use super::*;
    use crate::workers::mcp::host::tests::RecordingSink;

    /// Opens a session and reads the server's own stream to its end.
    async fn listen_to(server: &ScriptedServer) -> Arc<RecordingSink> {
        let sink = Arc::<RecordingSink>::default();
        let transport = server.transport(sink.clone());
        let session = HttpSession::new(transport, Arc::<RecordingStore>::default());
        let opened = session.initialize(false).await;
        let OpenedSession { context, .. } =
            opened.map_err(|error| error.to_string()).expect("opened");
        session.use_context(context);
        listen(session, Arc::default()).await;
        sink
    }

    #[tokio::test]
    async fn a_stream_that_ends_at_once_is_given_up() {
        let server = ScriptedServer::start(|request| {
            let is_stream = request.method() == "GET";
            is_stream.then(|| ScriptedResponse::stream("id: 1\nretry: 20\ndata:\n\n"))
        })
        .await;
        let sink = listen_to(&server).await;
        assert_eq!(server.count("GET"), 3, "the first attempt and two more");
        let lines = sink.lines();
        assert!(
            lines.iter().any(|text| text.contains("no longer")),
            "{lines:?}"
        );
    }

    #[tokio::test]
    async fn a_server_without_such_a_stream_is_asked_once() {
        let server = ScriptedServer::start(|_| None).await;
        let sink = listen_to(&server).await;
        assert_eq!(server.count("GET"), 1);
        assert!(sink.lines().is_empty());
    }
}
