//! The resources that clients watch through one connection, and the subscriptions at the server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::host::NotificationSink;
use super::jsonrpc::note;
use super::mux::Mux;
use super::tool_list::method_result;
use crate::core::json_object::ObjectWriter;
use crate::core::model::upstream_change::is_part_of;

/// The longest time for a subscription at the server.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// The method that subscribes to a resource (2024-11-05 to 2025-11-25).
pub const SUBSCRIBE: &str = "resources/subscribe";
/// The method that ends a subscription.
pub const UNSUBSCRIBE: &str = "resources/unsubscribe";

/// A set of URIs of one server.
pub type WatchedUris = Arc<BTreeSet<Arc<str>>>;

/// The resources that clients watch through one connection. It outlives the connection: the next one subscribes again.
#[derive(Default)]
pub struct ResourceWatch {
    wanted: watch::Sender<WatchedUris>,
    /// The resources to which the connection has subscribed, or tried to.
    applied: watch::Sender<WatchedUris>,
}

impl ResourceWatch {
    /// Returns a watch that begins with these resources.
    pub fn new(uris: BTreeSet<Arc<str>>) -> Self {
        let watch = Self::default();
        watch.set(uris);
        watch
    }

    /// Replaces the wanted resources.
    pub fn set(&self, uris: BTreeSet<Arc<str>>) {
        self.wanted.send_if_modified(|wanted| {
            let differs = **wanted != uris;
            if differs {
                *wanted = Arc::new(uris);
            }
            differs
        });
    }

    /// Returns the wanted resources, now and after each change.
    pub fn subscribe(&self) -> watch::Receiver<WatchedUris> {
        self.wanted.subscribe()
    }

    /// Returns whether a client watches a resource, or a resource of which it is a part.
    pub fn contains(&self, changed: &str) -> bool {
        let wanted = self.wanted.borrow();
        wanted.contains(changed) || wanted.iter().any(|uri| is_part_of(changed, uri))
    }

    /// Records the resources to which the connection has subscribed.
    pub fn record_applied(&self, uris: WatchedUris) {
        self.applied.send_replace(uris);
    }

    /// Waits until the connection has subscribed to all resources that are wanted now. The caller limits the time.
    pub async fn applied(&self) {
        let wanted = self.wanted.borrow().clone();
        let mut applied = self.applied.subscribe();
        // The sender lives as long as this value.
        let _ = applied
            .wait_for(|applied| applied.is_superset(&wanted))
            .await;
    }
}

/// The next request to the server: a method and its URI.
pub struct SubscriptionChange {
    pub method: &'static str,
    pub uri: Arc<str>,
}

impl SubscriptionChange {
    /// Returns the requests that lead from one set of subscriptions to another.
    pub fn between(subscribed: &BTreeSet<Arc<str>>, wanted: &BTreeSet<Arc<str>>) -> Vec<Self> {
        let change = |method| {
            move |uri: &Arc<str>| Self {
                method,
                uri: uri.clone(),
            }
        };
        let ended = subscribed.difference(wanted).map(change(UNSUBSCRIBE));
        let begun = wanted.difference(subscribed).map(change(SUBSCRIBE));
        ended.chain(begun).collect()
    }

    /// Returns the members of the `params` of the request.
    pub fn members(&self) -> String {
        let mut writer = ObjectWriter::with_capacity(self.uri.len() + 16);
        writer.text("uri", &self.uri);
        let object = writer.finish();
        object[1..object.len() - 1].to_owned()
    }
}

/// Reports that the server has refused a subscription.
pub fn note_refused(sink: &dyn NotificationSink, method: &str, reason: &str) {
    note(sink, &format!("{method} has failed: {reason}"));
}

/// Keeps the subscriptions at a server equal to the wanted resources, until the connection ends.
pub async fn subscribe_over(
    mux: Arc<Mux>,
    sink: Arc<dyn NotificationSink>,
    watch: Arc<ResourceWatch>,
) {
    let mut wanted = watch.subscribe();
    let mut subscribed = WatchedUris::default();
    loop {
        let uris = wanted.borrow_and_update().clone();
        for change in SubscriptionChange::between(&subscribed, &uris) {
            if let Err(reason) = request_over(&mux, &change).await {
                note_refused(&*sink, change.method, &reason);
            }
        }
        subscribed = uris.clone();
        watch.record_applied(uris);
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = mux.closed() => return,
        }
    }
}

async fn request_over(mux: &Arc<Mux>, change: &SubscriptionChange) -> Result<(), String> {
    let exchange = async {
        let params = format!("{{{}}}", change.members());
        let reply = mux.request(change.method, &params).await;
        let reply = reply.map_err(|ended| ended.to_string())?;
        method_result(change.method, reply).map_err(|error| error.to_string())?;
        Ok(())
    };
    tokio::time::timeout(REQUEST_LIMIT, exchange)
        .await
        .unwrap_or_else(|_| Err("the server did not answer in time".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(uris: &[&str]) -> BTreeSet<Arc<str>> {
        uris.iter().map(|uri| Arc::from(*uri)).collect()
    }

    #[test]
    fn the_requests_lead_to_the_wanted_resources() {
        let changes = SubscriptionChange::between(&set(&["a", "b"]), &set(&["b", "c"]));
        let changes: Vec<_> = changes
            .iter()
            .map(|change| (change.method, change.members()))
            .collect();
        assert_eq!(
            changes,
            [
                (UNSUBSCRIBE, r#""uri":"a""#.to_owned()),
                (SUBSCRIBE, r#""uri":"c""#.to_owned())
            ]
        );
    }

    #[tokio::test]
    async fn a_watch_is_applied_after_all_of_its_resources_are() {
        let watch = ResourceWatch::new(set(&["a"]));
        let mut applied = Box::pin(watch.applied());
        assert!(futures::poll!(&mut applied).is_pending());
        watch.record_applied(Arc::new(set(&["b"])));
        assert!(futures::poll!(&mut applied).is_pending());
        watch.record_applied(Arc::new(set(&["a", "b"])));
        applied.await;
    }

    #[test]
    fn a_part_of_a_watched_resource_is_watched() {
        let watch = ResourceWatch::new(set(&["file:///a"]));
        assert!(watch.contains("file:///a") && watch.contains("file:///a/b"));
        assert!(!watch.contains("file:///b"));
    }
}
