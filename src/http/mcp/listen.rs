//! Streams without an end: GET of the legacy era and `subscriptions/listen` of the modern era. They carry
//! `notifications/tools/list_changed` and keep-alive comments.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::announcer::Notice;
use super::answer::{event, event_stream};
use super::endpoint::Exchange;
use super::list::list_key;
use super::streams::StreamPermit;
use crate::core::ids::Position;
use crate::core::mcp::version::Era;
use crate::telemetry::metrics::StreamGuard;

/// The texts of one stream.
pub(super) struct StreamTexts {
    /// The first event, if the stream has one.
    pub opening: Option<Bytes>,
    /// The notification about a changed tool list, or `None` if the client wants none.
    pub list_changed: Option<Bytes>,
    /// The last event, when the process ends the stream.
    pub closing: Option<Bytes>,
}

struct Listener {
    exchange: Arc<Exchange>,
    era: Era,
    texts: StreamTexts,
    notices: Receiver<Notice>,
    /// The key of the list that the client knows.
    list: [u8; 32],
    /// The position of the newest change that `list` contains.
    tools_changed: Position,
    permit: StreamPermit,
    has_ended: bool,
    _counted: StreamGuard,
}

/// Opens a stream.
pub(super) fn open(
    exchange: Arc<Exchange>,
    era: Era,
    texts: StreamTexts,
    permit: StreamPermit,
) -> Response {
    let notices = exchange.state.mcp().announcer.subscribe();
    let catalog = exchange.state.catalog().clone();
    let servers = exchange.visible_servers(&catalog);
    let list = list_key(&servers, &exchange.user, &exchange.endpoint, era);
    let counted = StreamGuard::new(&exchange.state.metrics().mcp_streams);
    let listener = Box::new(Listener {
        exchange,
        era,
        texts,
        notices,
        list,
        tools_changed: catalog.tools_changed,
        permit,
        has_ended: false,
        _counted: counted,
    });
    let texts = stream::unfold(listener, async |mut listener| {
        let text = listener.next_text().await?;
        Some((Ok::<_, Infallible>(text), listener))
    });
    event_stream(Body::from_stream(texts))
}

impl Listener {
    /// Returns the next text, or `None` at the end.
    async fn next_text(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        if let Some(opening) = self.texts.opening.take() {
            return Some(opening);
        }
        loop {
            let notice = tokio::select! {
                () = self.permit.replaced.cancelled() => return None,
                notice = self.notices.recv() => notice,
            };
            let text = match notice {
                Ok(Notice::KeepAlive) => Some(Bytes::from_static(b":\n\n")),
                Ok(Notice::LogMoved { tools_changed }) => self.changed_list(tools_changed),
                Err(RecvError::Lagged(_)) => {
                    let newest = self.exchange.state.catalog().tools_changed;
                    self.changed_list(newest)
                }
                // The process ends.
                Err(RecvError::Closed) => {
                    self.has_ended = true;
                    return self.texts.closing.take();
                }
            };
            self.exchange
                .state
                .check_still_valid(&self.exchange.caller)
                .ok()?;
            if text.is_some() {
                return text;
            }
        }
    }

    /// Returns the notification if the list that this caller sees has changed.
    fn changed_list(&mut self, tools_changed: Position) -> Option<Bytes> {
        let notification = self.texts.list_changed.as_ref()?;
        if tools_changed <= self.tools_changed {
            return None;
        }
        self.tools_changed = tools_changed;
        let exchange = &self.exchange;
        let servers = exchange.visible_servers(&exchange.state.catalog());
        let list = list_key(&servers, &exchange.user, &exchange.endpoint, self.era);
        if list == self.list {
            return None;
        }
        self.list = list;
        Some(notification.clone())
    }
}

/// Returns `notifications/tools/list_changed` as an event. A modern client gets the id of its subscription.
pub(super) fn list_changed(subscription: Option<&str>) -> Bytes {
    let params = subscription.map_or(String::new(), |id| {
        format!(r#","params":{{"_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}"#)
    });
    event(
        format!(r#"{{"jsonrpc":"2.0","method":"notifications/tools/list_changed"{params}}}"#)
            .as_bytes(),
    )
}
