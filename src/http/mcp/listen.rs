//! Streams without an end: GET of the legacy era and `subscriptions/listen` of the modern era. They carry notifications of
//! changed lists and keep-alive comments.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::announcer::Notice;
use super::answer::event_stream;
use super::changes::ChangeBatch;
use super::endpoint::{Endpoint, Exchange};
use super::list::list_key;
use super::list_cache::ListKey;
use super::notices::{ListKind, NoticeWriter, WantedLists};
use super::streams::StreamPermit;
use super::watched::StreamResources;
use crate::core::catalog::Catalog;
use crate::core::ids::{Position, ServerId};
use crate::core::mcp::version::Era;
use crate::core::model::description::ServerDescription;
use crate::core::model::upstream_change::UpstreamChange;
use crate::http::respond::endless::Endless;
use crate::telemetry::metrics::StreamGuard;

/// The content of one stream.
pub(super) struct StreamContent {
    /// The first event, if the stream has one.
    pub opening: Option<Bytes>,
    /// The lists whose changes the client wants to know.
    pub lists: WantedLists,
    /// The resources whose changes the client wants to know.
    pub resources: StreamResources,
    pub writer: NoticeWriter,
    /// The last event, when the process ends the stream.
    pub closing: Option<Bytes>,
}

/// The longest wait for the servers of the watched resources.
const WATCH_LIMIT: Duration = Duration::from_secs(5);

struct Listener {
    exchange: Arc<Exchange>,
    era: Era,
    content: StreamContent,
    notices: Receiver<Notice>,
    changes: Receiver<ChangeBatch>,
    known: KnownLists,
    permit: StreamPermit,
    has_ended: bool,
    _counted: StreamGuard,
}

/// The lists that the client knows.
struct KnownLists {
    /// The position of the newest change of the catalog that the keys contain.
    position: Position,
    tools: ListKey,
    /// The servers with prompts and those with resources, in the order of [`ListKind::OF_SERVERS`].
    servers: [Vec<ServerKey>; 2],
}

/// A server and the digest of its description.
type ServerKey = (ServerId, String);

/// The reason why a stream wakes.
enum Wake {
    Notice(Result<Notice, RecvError>),
    Changes(Result<ChangeBatch, RecvError>),
    /// The session watches other resources.
    ResourcesChanged,
}

/// Opens a stream.
pub(super) fn open(
    exchange: Arc<Exchange>,
    era: Era,
    content: StreamContent,
    permit: StreamPermit,
) -> Response {
    let mcp = exchange.state.mcp();
    let notices = mcp.announcer.subscribe();
    let changes = mcp.changes.subscribe();
    let known = KnownLists::read(&exchange, era);
    let counted = StreamGuard::new(&exchange.state.metrics().mcp_streams);
    let listener = Box::new(Listener {
        exchange,
        era,
        content,
        notices,
        changes,
        known,
        permit,
        has_ended: false,
        _counted: counted,
    });
    let texts = stream::unfold(listener, async |mut listener| {
        let text = listener.next_text().await?;
        Some((Ok::<_, Infallible>(text), listener))
    });
    Endless::mark(event_stream(Body::from_stream(texts)))
}

impl KnownLists {
    fn read(exchange: &Exchange, era: Era) -> Self {
        let position = exchange.state.catalog().tools_changed;
        Self {
            position,
            tools: tools_key(exchange, era),
            servers: server_keys(exchange),
        }
    }
}

/// Returns the digest of the list of tools.
fn tools_key(exchange: &Exchange, era: Era) -> ListKey {
    let servers = exchange.visible_servers(&exchange.state.catalog());
    list_key(&servers, &exchange.user, &exchange.endpoint, era)
}

fn server_keys(exchange: &Exchange) -> [Vec<ServerKey>; 2] {
    ListKind::OF_SERVERS.map(|kind| {
        let servers = exchange.servers_with(kind.capability());
        let digest = |description: &ServerDescription| description.digest.clone();
        let keys = servers.iter().map(|server| {
            let description = server.description.as_deref();
            (server.id, description.map(digest).unwrap_or_default())
        });
        keys.collect()
    })
}

impl Listener {
    /// Returns the next text, or `None` at the end.
    async fn next_text(&mut self) -> Option<Bytes> {
        if self.has_ended {
            return None;
        }
        if let Some(opening) = self.content.opening.take() {
            self.begin_watching().await;
            return Some(opening);
        }
        loop {
            let wake = tokio::select! {
                () = self.permit.replaced.cancelled() => return None,
                notice = self.notices.recv() => Wake::Notice(notice),
                changes = self.changes.recv() => Wake::Changes(changes),
                () = self.content.resources.changed() => Wake::ResourcesChanged,
            };
            self.content.resources.refresh(&self.exchange);
            let text = match wake {
                Wake::ResourcesChanged => Bytes::new(),
                Wake::Notice(Ok(Notice::KeepAlive)) => Bytes::from_static(b":\n\n"),
                Wake::Notice(Ok(Notice::LogMoved { lists_changed })) => {
                    self.changed_lists(lists_changed)
                }
                Wake::Notice(Err(RecvError::Lagged(_))) => {
                    let newest = self.exchange.state.catalog().position;
                    self.changed_lists(newest)
                }
                Wake::Changes(Ok(changes)) => self.reported_changes(&changes),
                Wake::Changes(Err(RecvError::Lagged(_))) => self.all_changes(),
                // The process ends.
                Wake::Notice(Err(RecvError::Closed)) | Wake::Changes(Err(RecvError::Closed)) => {
                    self.has_ended = true;
                    return self.content.closing.take();
                }
            };
            self.exchange
                .state
                .check_still_valid(&self.exchange.caller)
                .ok()?;
            if !text.is_empty() {
                return Some(text);
            }
        }
    }

    /// Waits a short time until the servers know the resources of a new stream, so that no change after the first event is
    /// missed.
    async fn begin_watching(&self) {
        let servers = self.content.resources.servers();
        if !servers.is_empty() {
            let watched = &self.exchange.state.mcp().watched;
            let sending = watched.send_lists(servers);
            let _ = tokio::time::timeout(WATCH_LIMIT, sending).await;
        }
    }

    /// Returns the notifications of the lists that the catalog has changed for this caller.
    fn changed_lists(&mut self, position: Position) -> Bytes {
        let mut text = BytesMut::new();
        if position <= self.known.position {
            return text.freeze();
        }
        self.known.position = position;
        let tools = tools_key(&self.exchange, self.era);
        // The key of the tools contains the servers and their descriptions, so no other list has changed either.
        if tools == self.known.tools {
            return text.freeze();
        }
        self.known.tools = tools;
        self.add_list(&mut text, ListKind::Tools);
        let servers = server_keys(&self.exchange);
        let known = std::mem::replace(&mut self.known.servers, servers.clone());
        for (index, kind) in ListKind::OF_SERVERS.into_iter().enumerate() {
            if servers[index] != known[index] {
                self.add_list(&mut text, kind);
            }
        }
        text.freeze()
    }

    /// Returns the notifications of changes that servers have reported, as far as they concern this caller.
    fn reported_changes(&self, changes: &[UpstreamChange]) -> Bytes {
        let catalog = self.exchange.state.catalog();
        let mut text = BytesMut::new();
        let concerning: Vec<_> = changes
            .iter()
            .filter(|change| change.concerns(&self.exchange.user))
            .filter(|change| self.has_server(&catalog, change.server))
            .collect();
        for kind in ListKind::OF_SERVERS {
            if concerning
                .iter()
                .any(|change| kind.is_changed_by(&change.part))
            {
                self.add_list(&mut text, kind);
            }
        }
        let updated = concerning
            .iter()
            .flat_map(|change| self.content.resources.updated(change));
        let updated: BTreeSet<_> = updated.collect();
        self.add_resources(&mut text, updated.iter().map(String::as_str));
        text.freeze()
    }

    /// Returns a notification of every change that the client wants to know, because some changes were missed.
    fn all_changes(&self) -> Bytes {
        let mut text = BytesMut::new();
        for kind in ListKind::OF_SERVERS {
            self.add_list(&mut text, kind);
        }
        self.add_resources(&mut text, self.content.resources.client_uris());
        text.freeze()
    }

    fn add_resources<'a>(&self, text: &mut BytesMut, uris: impl Iterator<Item = &'a str>) {
        for uri in uris {
            text.extend_from_slice(&self.content.writer.updated(uri));
        }
    }

    fn add_list(&self, text: &mut BytesMut, kind: ListKind) {
        if self.content.lists.has(kind) {
            text.extend_from_slice(&self.content.writer.list_changed(kind));
        }
    }

    /// Returns whether a server belongs to the endpoint and the caller may use it.
    fn has_server(&self, catalog: &Catalog, server: ServerId) -> bool {
        let belongs = match &self.exchange.endpoint {
            Endpoint::All => true,
            Endpoint::Server(name) => {
                let found = catalog.server(name.as_str());
                found.is_some_and(|found| found.id == server)
            }
        };
        belongs && self.exchange.may_use(catalog, server)
    }
}
