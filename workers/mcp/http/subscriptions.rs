//! Subscriptions to resources in a session (2025-03-26 to 2025-11-25). A replaced session gets them again.

use std::sync::Arc;

use super::session::HttpSession;
use crate::workers::mcp::resource_watch::{
    ResourceWatch, SubscriptionChange, WatchedUris, note_refused,
};

/// Keeps the subscriptions at a server equal to the wanted resources, until the connection ends.
pub(super) async fn follow_watch(session: Arc<HttpSession>, watch: Arc<ResourceWatch>) {
    let mut wanted = watch.subscribe();
    let mut subscribed = WatchedUris::default();
    let mut number = session.context().number;
    loop {
        let reopened = session.reopened.notified();
        let uris = wanted.borrow_and_update().clone();
        for change in SubscriptionChange::between(&subscribed, &uris) {
            let outcome = session.request(change.method, &change.members()).await;
            if let Err(error) = outcome {
                note_refused(&*session.transport.sink, change.method, &error.reason);
            }
        }
        subscribed = uris.clone();
        watch.record_applied(uris);
        if session.context().number == number {
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = reopened => {}
                () = session.lost() => return,
            }
        }
        let newest = session.context().number;
        if newest != number {
            // The new session knows no subscription of the earlier one.
            number = newest;
            subscribed = WatchedUris::default();
        }
    }
}
