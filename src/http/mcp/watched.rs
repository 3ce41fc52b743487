//! The resources that one stream watches: the URIs of its client, and the resources of servers behind them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::endpoint::Exchange;
use super::resource_uri::find_resource;
use super::session_memory::ClientUris;
use super::watch_table::{WatchGuard, WatchKey};
use crate::core::catalog::server::Server;
use crate::core::command::watch::WatchedResource;
use crate::core::failure::Failure;
use crate::core::ids::ServerId;
use crate::core::model::upstream_change::{ChangedPart, UpstreamChange, is_part_of};

/// The resources that one stream watches.
pub(super) struct StreamResources {
    entries: Vec<ResourceEntry>,
    /// Keeps the resources in the table of this facade.
    guard: Option<WatchGuard>,
    /// The resources of the client's session. A stream without a session watches the same resources until its end.
    session: Option<watch::Receiver<ClientUris>>,
}

/// A resource of a server, and its URI as the client spells it.
struct ResourceEntry {
    server: ServerId,
    uri: String,
    client_uri: Arc<str>,
}

impl StreamResources {
    /// Returns the resources with these URIs, as far as a server that the caller may use has them and reports their changes.
    ///
    /// # Errors
    /// `unavailable` if this facade watches too many resources.
    pub(super) fn fixed(exchange: &Exchange, uris: &BTreeSet<Arc<str>>) -> Result<Self, Failure> {
        let mut resources = Self {
            entries: vec![],
            guard: None,
            session: None,
        };
        resources.replace(exchange, uris)?;
        Ok(resources)
    }

    /// Returns the resources of a session, which follow the session.
    ///
    /// # Errors
    /// `unavailable` if this facade watches too many resources.
    pub(super) fn of_session(
        exchange: &Exchange,
        mut session: watch::Receiver<ClientUris>,
    ) -> Result<Self, Failure> {
        let uris = session.borrow_and_update().clone();
        let resources = Self::fixed(exchange, &uris)?;
        Ok(Self {
            session: Some(session),
            ..resources
        })
    }

    /// Returns the URIs of the client that are watched.
    pub(super) fn client_uris(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| &*entry.client_uri)
    }

    /// Returns the servers of the watched resources.
    pub(super) fn servers(&self) -> BTreeSet<ServerId> {
        self.entries.iter().map(|entry| entry.server).collect()
    }

    /// Waits until the session watches other resources.
    pub(super) async fn changed(&mut self) {
        if let Some(session) = &mut self.session
            && session.changed().await.is_ok()
        {
            // The caller reads the value.
            session.mark_changed();
            return;
        }
        std::future::pending().await
    }

    /// Reads the resources of the session, if they have changed.
    pub(super) fn refresh(&mut self, exchange: &Exchange) {
        let Some(session) = &mut self.session else {
            return;
        };
        if !session.has_changed().unwrap_or(false) {
            return;
        }
        let uris = session.borrow_and_update().clone();
        if let Err(failure) = self.replace(exchange, &uris) {
            tracing::warn!(
                user = %exchange.user,
                code = failure.code.as_str(),
                "cannot watch the resources of a session"
            );
        }
    }

    fn replace(&mut self, exchange: &Exchange, uris: &BTreeSet<Arc<str>>) -> Result<(), Failure> {
        let found = uris.iter().filter_map(|client_uri| {
            let (server, uri) = find_watchable(exchange, client_uri)?;
            Some(ResourceEntry {
                server: server.id,
                uri,
                client_uri: client_uri.clone(),
            })
        });
        let entries: Vec<_> = found.collect();
        let keys = entries.iter().map(|entry| WatchKey {
            server: entry.server,
            resource: WatchedResource {
                user: exchange.user.clone(),
                uri: entry.uri.clone(),
            },
        });
        let guard = exchange.state.mcp().watched.watch(keys.collect())?;
        self.guard = Some(guard);
        self.entries = entries;
        Ok(())
    }

    /// Returns the URIs, as the client spells them, of the watched resources that a change concerns.
    pub(super) fn updated(&self, change: &UpstreamChange) -> BTreeSet<String> {
        let ChangedPart::Resource(changed) = &change.part else {
            return BTreeSet::new();
        };
        let entries = self.entries.iter();
        entries
            .filter(|entry| entry.server == change.server && is_part_of(changed, &entry.uri))
            .map(|entry| entry.client_uri_of(changed))
            .collect()
    }
}

impl ResourceEntry {
    /// Returns a part of the resource with the prefix that the client uses.
    fn client_uri_of(&self, changed: &str) -> String {
        let prefix = self.client_uri.strip_suffix(&self.uri).unwrap_or_default();
        format!("{prefix}{changed}")
    }
}

/// Returns the server and the URI of a resource whose changes the server reports.
pub(super) fn find_watchable(exchange: &Exchange, uri: &str) -> Option<(Arc<Server>, String)> {
    let (server, uri) = find_resource(exchange, uri)?;
    reports_updates(&server).then_some((server, uri))
}

/// Returns whether a server has declared that it reports changes of resources.
pub(super) fn reports_updates(server: &Server) -> bool {
    let description = server.description.as_ref();
    description.is_some_and(|description| description.declares_feature("resources", "subscribe"))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn entry(client_uri: &str, uri: &str) -> ResourceEntry {
        ResourceEntry {
            server: ServerId(Uuid::nil()),
            uri: uri.to_owned(),
            client_uri: client_uri.into(),
        }
    }

    #[test]
    fn an_update_has_the_uri_of_the_client() {
        let resources = StreamResources {
            entries: vec![
                entry("s+file:///a", "file:///a"),
                entry("file:///b", "file:///b"),
            ],
            guard: None,
            session: None,
        };
        for (changed, expected) in [
            ("file:///a", vec!["s+file:///a"]),
            ("file:///a/part", vec!["s+file:///a/part"]),
            ("file:///b", vec!["file:///b"]),
            ("file:///c", vec![]),
        ] {
            let change = UpstreamChange {
                server: ServerId(Uuid::nil()),
                user: None,
                part: ChangedPart::Resource(changed.into()),
            };
            let updated: Vec<_> = resources.updated(&change).into_iter().collect();
            assert_eq!(updated, expected);
        }
    }
}
