//! The notifications of a child without sessions: one request stays open and names the resources that clients watch
//! (MCP 2026-07-28, subscriptions).

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};

use crate::core::mcp::version::Era;
use crate::core::model::upstream_change::ChangedPart;
use crate::workers::mcp::call::ProgressEffects;
use crate::workers::mcp::frame::request;
use crate::workers::mcp::host::{NotificationSink, ProgressListener};
use crate::workers::mcp::mux::{Closed, Mux, PendingRequest};
use crate::workers::mcp::request_meta::{LISTEN, listen_members, params};
use crate::workers::mcp::resource_watch::{ResourceWatch, WatchedUris};
use crate::workers::mcp::tool_list::method_result;

/// How long the child may take until it accepts the request.
const ACCEPT_LIMIT: Duration = Duration::from_secs(5);
/// The pause before the request that follows an ended one. It doubles up to [`MAX_PAUSE`] while requests end at once.
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

/// The end of one request.
enum StreamEnd {
    /// Clients watch other resources. The old request stays open until the next one was accepted.
    OtherResources(PendingRequest),
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
        let stream = open(mux, &uris).await?;
        drop(previous.take());
        watch.record_applied(uris);
        match wait_for_end(stream, &mut wanted).await? {
            StreamEnd::OtherResources(stream) => {
                pause = FIRST_PAUSE;
                previous = Some(stream);
            }
            StreamEnd::Ended => {
                wait_for_next(mux, &mut wanted, pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
                // The child could not report the changes of the pause.
                sink.tools_changed();
                sink.changed(ChangedPart::Prompts);
                sink.changed(ChangedPart::Resources);
            }
            // The child reports no changes, so nobody waits for its subscriptions.
            StreamEnd::Refused => return record_all(mux, watch, wanted).await,
        }
    }
}

/// Sends the request, and waits until the child has accepted it.
async fn open(mux: &Arc<Mux>, uris: &WatchedUris) -> Result<PendingRequest, Closed> {
    let acceptance = Arc::<Acceptance>::default();
    let stream = mux.register_stream(ProgressEffects::of_listener(acceptance.clone()))?;
    let params = params(Era::Modern, &listen_members(uris));
    let frame = request(stream.id, LISTEN, &params);
    let space = stream.reserve(frame.bytes.len()).await?;
    stream.send(frame, space)?;
    let _ = tokio::time::timeout(ACCEPT_LIMIT, acceptance.0.notified()).await;
    Ok(stream)
}

async fn wait_for_end(
    mut stream: PendingRequest,
    wanted: &mut watch::Receiver<WatchedUris>,
) -> Result<StreamEnd, Closed> {
    let changed = async {
        if wanted.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        reply = stream.reply() => Ok(match method_result(LISTEN, reply?) {
            // The child does not know the method.
            Ok(None) => StreamEnd::Refused,
            Ok(Some(_)) | Err(_) => StreamEnd::Ended,
        }),
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
