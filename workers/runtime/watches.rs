//! The resources of one server that the clients of all facades watch. A facade repeats its list; without a repeat the worker
//! drops it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::handle::ServerHandle;
use super::manager::ServerManager;
use super::user_connections::UserConnections;
use crate::core::command::watch::WatchResources;
use crate::core::ids::FacadeId;
use crate::core::names::UserName;
use crate::time::clock::monotonic;
use crate::workers::mcp::ResourceWatch;

/// The time after which a list without a repeat ends.
const LIFETIME: Duration = Duration::from_secs(60);
/// Facades whose lists one server keeps.
const MAX_FACADES: usize = 64;

/// The watched resources of one server.
#[derive(Default)]
pub struct ResourceWatches {
    facades: Mutex<HashMap<FacadeId, FacadeList>>,
    /// The resources of the users that share the connection of the server.
    pub shared: Arc<ResourceWatch>,
}

/// The resources that the streams of one facade watch.
struct FacadeList {
    number: u64,
    resources: Vec<(UserName, Arc<str>)>,
    expires: Instant,
}

impl ResourceWatches {
    /// Replaces the list of a facade. An older list, and a list of too many facades, changes nothing.
    pub fn replace(&self, command: WatchResources) {
        let mut facades = self.facades.lock();
        let known = facades.get(&command.facade);
        let is_old = known.is_some_and(|list| list.number > command.number);
        let is_full = known.is_none() && facades.len() >= MAX_FACADES;
        if is_old || is_full {
            return;
        }
        if command.resources.is_empty() {
            facades.remove(&command.facade);
            return;
        }
        let resources = command.resources.into_iter();
        let list = FacadeList {
            number: command.number,
            resources: resources
                .map(|resource| (resource.user, resource.uri.into()))
                .collect(),
            expires: monotonic() + LIFETIME,
        };
        facades.insert(command.facade, list);
    }

    /// Removes the lists without a repeat. Returns whether there were any.
    fn expire(&self, now: Instant) -> bool {
        let mut facades = self.facades.lock();
        let before = facades.len();
        facades.retain(|_, list| list.expires > now);
        facades.len() < before
    }

    /// Returns the resources of the users of which `is_meant` holds.
    fn uris(&self, is_meant: impl Fn(&UserName) -> bool) -> BTreeSet<Arc<str>> {
        let facades = self.facades.lock();
        let resources = facades.values().flat_map(|list| &list.resources);
        resources
            .filter(|(user, _)| is_meant(user))
            .map(|(_, uri)| uri.clone())
            .collect()
    }

    /// Returns the resources of one user.
    pub(super) fn uris_of(&self, user: &UserName) -> BTreeSet<Arc<str>> {
        self.uris(|other| other == user)
    }
}

impl ServerHandle {
    /// Passes the watched resources on to the connections: to those of single users, and to the shared one.
    pub fn apply_watches(&self, manager: &ServerManager) {
        let catalog = manager.projection.catalog();
        let Some(server) = catalog.server_by_id(self.id) else {
            return;
        };
        let has_own = |user: &UserName| UserConnections::serve(server, user);
        self.watches
            .shared
            .set(self.watches.uris(|user| !has_own(user)));
        for (user, watch) in self.users.watches() {
            watch.set(self.watches.uris_of(&user));
        }
    }

    /// Drops the watched resources of facades that are gone.
    pub(super) fn expire_watches(&self, manager: &ServerManager) {
        if self.watches.expire(monotonic()) {
            self.apply_watches(manager);
        }
    }

    /// Waits until the open connections have subscribed to the watched resources. The caller limits the time.
    pub async fn watches_applied(&self) {
        if self.connection.load().is_some() {
            self.watches.shared.applied().await;
        }
        for watch in self.users.open_watches() {
            watch.applied().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::command::watch::WatchedResource;

    fn list(facade: u128, number: u64, resources: &[(&str, &str)]) -> WatchResources {
        let resources = resources.iter().map(|(user, uri)| WatchedResource {
            user: user.parse().expect("a name"),
            uri: (*uri).to_owned(),
        });
        WatchResources {
            facade: FacadeId(Uuid::from_u128(facade)),
            number,
            server: "s".parse().expect("a name"),
            resources: resources.collect(),
        }
    }

    fn all(watches: &ResourceWatches) -> Vec<String> {
        let uris = watches.uris(|_| true);
        uris.iter().map(|uri| uri.to_string()).collect()
    }

    #[test]
    fn the_lists_of_all_facades_count_until_they_are_replaced_or_expire() {
        let watches = ResourceWatches::default();
        watches.replace(list(1, 2, &[("ana", "a"), ("ben", "b")]));
        watches.replace(list(2, 1, &[("ana", "c")]));
        assert_eq!(all(&watches), ["a", "b", "c"]);
        let ana = "ana".parse().expect("a name");
        assert_eq!(watches.uris_of(&ana).len(), 2);
        watches.replace(list(1, 1, &[("ana", "old")]));
        assert_eq!(all(&watches), ["a", "b", "c"]);
        watches.replace(list(1, 3, &[]));
        assert_eq!(all(&watches), ["c"]);
        assert!(!watches.expire(monotonic()));
        assert!(watches.expire(monotonic() + LIFETIME));
        assert!(all(&watches).is_empty());
    }

    #[test]
    fn the_number_of_facades_is_bounded() {
        let watches = ResourceWatches::default();
        for facade in 0..MAX_FACADES as u128 + 5 {
            watches.replace(list(facade, 1, &[("ana", &facade.to_string())]));
        }
        assert_eq!(all(&watches).len(), MAX_FACADES);
    }
}
