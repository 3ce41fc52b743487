//! The notifications of a child without sessions: one request stays open and names the resources that clients watch
//! (MCP 2026-07-28, subscriptions).

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use crate::core::mcp::version::Era;
use crate::core::model::upstream_change::ChangedPart;
use crate::time::clock::monotonic;
use crate::workers::mcp::call::ProgressEffects;
use crate::workers::mcp::frame;
use crate::workers::mcp::host::{NotificationSink, ProgressListener};
use crate::workers::mcp::mux::{Closed, Mux, PendingRequest, RpcReply};
use crate::workers::mcp::request_meta::{LISTEN, listen_members, params};
use crate::workers::mcp::resource_watch::{ResourceWatch, WatchedUris};
use crate::workers::mcp::tool_list::method_result;

/// How long the child may take until it accepts the request.
const ACCEPT_LIMIT: Duration = Duration::from_secs(5);
/// The pause before the request that follows an ended one. It doubles up to [`MAX_PAUSE`], and begins again after a request
/// that has lasted for this time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Notified when the child accepts the request.
#[derive(Default)]
struct Acceptance(Notify);

/// The reader passes the acknowledgement of a stream on like the progress of its request.
impl ProgressListener for Acceptance {
    fn on_progress(&self, _: &RawValue) {
        self.0.notify_one();
    }
}

/// One request that stays open.
struct Stream {
    request: PendingRequest,
    acceptance: Arc<Acceptance>,
}

/// The end of one request.
enum StreamEnd {
    /// Clients watch other resources. The old request stays open until the child has accepted the next one.
    OtherResources(Stream),
    /// The child has ended the stream.
    Ended,
    /// The child has no such request.
    Refused,
}

/// Keeps a request open until the connection ends.
pub(super) async fn listen(
    mux: Arc<Mux>,
    sink: Arc<dyn NotificationSink>,
    watch: Arc<ResourceWatch>,
) {
    // The connection has ended, which ends the request too.
    let _: Result<(), Closed> = follow(&mux, &*sink, &watch).await;
}

async fn follow(
    mux: &Arc<Mux>,
    sink: &dyn NotificationSink,
    watch: &ResourceWatch,
) -> Result<(), Closed> {
    let mut wanted = watch.subscribe();
    let mut pause = FIRST_PAUSE;
    let mut previous = None;
    loop {
        let uris = wanted.borrow_and_update().clone();
        let mut stream = open(mux, &uris).await?;
        let opened_at = monotonic();
        let early_end = wait_for_acceptance(&mut stream).await?;
        drop(previous.take());
        watch.record_applied(uris);
        let end = match early_end {
            Some(end) => end,
            None => wait_for_end(stream, &mut wanted).await?,
        };
        match end {
            StreamEnd::OtherResources(stream) => {
                pause = FIRST_PAUSE;
                previous = Some(stream);
            }
            StreamEnd::Ended => {
                if opened_at.elapsed() >= MAX_PAUSE {
                    pause = FIRST_PAUSE;
                }
                wait_for_next(mux, &mut wanted, pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                // The child could not report the changes of the pause.
                sink.tools_changed();
                sink.changed(ChangedPart::Prompts);
                sink.changed(ChangedPart::Resources);
            }
            // The child reports no changes. A client that watches a resource gets its answer at once.
            StreamEnd::Refused => return record_all(mux, watch, wanted).await,
        }
    }
}

/// Sends the request.
async fn open(mux: &Arc<Mux>, uris: &WatchedUris) -> Result<Stream, Closed> {
    let acceptance = Arc::<Acceptance>::default();
    let request = mux.register_stream(ProgressEffects::of_listener(acceptance.clone()))?;
    let params = params(Era::Modern, &listen_members(uris));
    let frame = frame::request(request.id, LISTEN, &params);
    let space = request.reserve(frame.bytes.len()).await?;
    request.send(frame, space)?;
    Ok(Stream {
        request,
        acceptance,
    })
}

/// Waits until the child has accepted the request, for a limited time. Returns the end of a request that ends before.
async fn wait_for_acceptance(stream: &mut Stream) -> Result<Option<StreamEnd>, Closed> {
    let acceptance = tokio::time::timeout(ACCEPT_LIMIT, stream.acceptance.0.notified());
    tokio::select! {
        biased;
        _ = acceptance => Ok(None),
        reply = stream.request.reply() => Ok(Some(end_of(reply?))),
    }
}

/// Returns the meaning of the reply to the request.
fn end_of(reply: RpcReply) -> StreamEnd {
    match method_result(LISTEN, reply) {
        // The child does not know the method.
        Ok(None) => StreamEnd::Refused,
        Ok(Some(_)) | Err(_) => StreamEnd::Ended,
    }
}

async fn wait_for_end(
    mut stream: Stream,
    wanted: &mut watch::Receiver<WatchedUris>,
) -> Result<StreamEnd, Closed> {
    let changed = async {
        if wanted.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        reply = stream.request.reply() => Ok(end_of(reply?)),
        () = changed => Ok(StreamEnd::OtherResources(stream)),
    }
}

/// Waits for a pause, for the end of the connection, or until clients watch other resources.
async fn wait_for_next(mux: &Mux, wanted: &mut watch::Receiver<WatchedUris>, pause: Duration) {
    let next = async {
        tokio::select! {
            () = mux.closed() => {}
            // The watch lives as long as its connection.
            Ok(()) = wanted.changed() => {}
        }
    };
    let _ = tokio::time::timeout(pause, next).await;
}

async fn record_all(
    mux: &Mux,
    watch: &ResourceWatch,
    mut wanted: watch::Receiver<WatchedUris>,
) -> Result<(), Closed> {
    loop {
        watch.record_applied(wanted.borrow_and_update().clone());
        tokio::select! {
            changed = wanted.changed() => changed.map_err(|_| Closed)?,
            () = mux.closed() => return Err(Closed),
        }
    }
}
