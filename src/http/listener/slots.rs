//! Counts the open connections, and closes a quiet one for a new connection: first the oldest one that
//! has never sent a request, then the one that has been quiet longest.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections that one eviction looks at. If all of them have a running request, the new
/// connection is refused.
const CANDIDATES: usize = 64;

/// The open connections.
pub(super) struct ConnectionSlots {
    limit: usize,
    state: Arc<SlotsState>,
}

#[derive(Default)]
struct SlotsState {
    open: AtomicUsize,
    queues: Mutex<Queues>,
}

#[derive(Default)]
struct Queues {
    /// Connections without a request so far, the oldest first. A flood of unfinished heads replaces
    /// itself here and closes no connection of a client that has sent a request.
    unused: VecDeque<Arc<ConnectionState>>,
    /// The other connections in the order of their last turn.
    used: VecDeque<UsedConnection>,
}

struct UsedConnection {
    connection: Arc<ConnectionState>,
    /// The activity at its last turn. A connection that was active since then gets another turn.
    activity: usize,
}

/// One open connection, as its own task, its requests and the slots see it.
#[derive(Default)]
pub(super) struct ConnectionState {
    open_requests: AtomicUsize,
    /// Counts the beginnings and the ends of requests.
    activity: AtomicUsize,
    has_partial_head: AtomicBool,
    is_evicted: AtomicBool,
    is_draining: AtomicBool,
    is_closed: AtomicBool,
    signal: Notify,
}

/// The right to have a connection open. Dropping it frees the place.
pub(super) struct ConnectionSlot {
    pub connection: Arc<ConnectionState>,
    slots: Arc<SlotsState>,
}

/// Counts a running request, from its head to the end of its response.
pub(super) struct RequestGuard(Arc<ConnectionState>);

impl ConnectionSlots {
    /// Creates places for this many connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Arc::default(),
        }
    }

    /// Returns a place for a new connection. If all places are taken, the oldest quiet connection
    /// is closed for it. Returns `None` if every connection has a running request.
    pub(super) fn admit(&self) -> Option<ConnectionSlot> {
        if self.state.open.load(Ordering::Relaxed) >= self.limit && !self.evict_one() {
            return None;
        }
        let connection = Arc::new(ConnectionState::default());
        let open = self.state.open.fetch_add(1, Ordering::Relaxed) + 1;
        let mut queues = self.state.queues.lock();
        if queues.unused.len() + queues.used.len() >= 2 * open + CANDIDATES {
            queues.remove_closed();
        }
        queues.unused.push_back(connection.clone());
        Some(ConnectionSlot {
            connection,
            slots: self.state.clone(),
        })
    }

    /// Closes a connection without a running request. Returns whether there is one.
    pub(super) fn evict_one(&self) -> bool {
        let mut queues = self.state.queues.lock();
        let victim = queues.next_unused().or_else(|| queues.next_quiet());
        victim.inspect(|connection| connection.evict()).is_some()
    }

    /// Tells all connections that they end after their running requests.
    pub(super) fn start_draining(&self) {
        let queues = self.state.queues.lock();
        let used = queues.used.iter().map(|used| &used.connection);
        for connection in queues.unused.iter().chain(used) {
            connection.is_draining.store(true, Ordering::Release);
            connection.signal.notify_one();
        }
    }
}

impl Queues {
    fn remove_closed(&mut self) {
        self.unused.retain(|connection| !connection.is_closed());
        self.used.retain(|used| !used.connection.is_closed());
    }

    /// Takes the oldest connection without a request so far.
    fn next_unused(&mut self) -> Option<Arc<ConnectionState>> {
        while let Some(connection) = self.unused.pop_front() {
            let activity = connection.activity();
            if activity > 0 {
                self.used.push_back(UsedConnection {
                    connection,
                    activity,
                });
            } else if !connection.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// Takes a connection that has no running request and was not active since its last turn. Among
    /// connections that were all active, takes the first one without a running request.
    fn next_quiet(&mut self) -> Option<Arc<ConnectionState>> {
        let mut fallback = None;
        for _ in 0..CANDIDATES.min(self.used.len()) {
            let mut used = self.used.pop_front()?;
            if used.connection.is_closed() {
                continue;
            }
            let activity = used.connection.activity();
            let is_free = !used.connection.has_request();
            if is_free && activity == used.activity {
                return Some(used.connection);
            }
            if is_free && fallback.is_none() {
                fallback = Some(used.connection.clone());
            }
            used.activity = activity;
            self.used.push_back(used);
        }
        fallback
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connection.is_closed.store(true, Ordering::Relaxed);
        self.slots.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionState {
    /// Counts a request until the guard is dropped.
    pub(super) fn start_request(self: &Arc<Self>) -> RequestGuard {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        self.activity.fetch_add(1, Ordering::Relaxed);
        self.has_partial_head.store(false, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    /// Records received bytes. Without a running request they belong to a head.
    pub(super) fn record_bytes(&self) {
        if !self.has_request() {
            self.has_partial_head.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether a request is running.
    pub(super) fn has_request(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) > 0
    }

    /// Returns whether a head has begun and is not complete.
    pub(super) fn has_partial_head(&self) -> bool {
        self.has_partial_head.load(Ordering::Relaxed)
    }

    /// Returns a number that changes with every beginning and every end of a request.
    pub(super) fn activity(&self) -> usize {
        self.activity.load(Ordering::Relaxed)
    }

    /// Returns whether another connection takes this place.
    pub(super) fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Acquire)
    }

    /// Returns whether the process drains.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Waits until the connection is evicted or must drain.
    pub(super) async fn signalled(&self) {
        self.signal.notified().await;
    }

    fn evict(&self) {
        self.is_evicted.store(true, Ordering::Release);
        self.signal.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.activity.fetch_add(1, Ordering::Relaxed);
        self.0.open_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_replaces_the_oldest_quiet_one() {
        let slots = ConnectionSlots::new(2);
        let busy = slots.admit().expect("a place");
        let _request = busy.connection.start_request();
        let quiet = slots.admit().expect("a place");
        let _new = slots.admit().expect("a place");
        assert!(quiet.connection.is_evicted());
        assert!(!busy.connection.is_evicted());
    }

    #[test]
    fn a_connection_without_a_request_goes_before_a_used_one() {
        let slots = ConnectionSlots::new(2);
        let used = slots.admit().expect("a place");
        drop(used.connection.start_request());
        let mut unused = slots.admit().expect("a place");
        for _ in 0..100 {
            let new = slots.admit().expect("a place");
            assert!(unused.connection.is_evicted());
            assert!(!used.connection.is_evicted());
            unused = new;
        }
    }

    #[test]
    fn the_connection_that_was_quiet_longest_goes_first() {
        let slots = ConnectionSlots::new(3);
        let connections: Vec<_> = (0..3).map(|_| slots.admit().expect("a place")).collect();
        for slot in &connections {
            drop(slot.connection.start_request());
        }
        // All three have had a turn, and the first one is active again.
        assert!(slots.state.queues.lock().next_unused().is_none());
        drop(connections[0].connection.start_request());
        assert!(slots.evict_one());
        assert!(slots.evict_one());
        let evicted = connections.iter().map(|slot| slot.connection.is_evicted());
        assert_eq!(evicted.collect::<Vec<_>>(), [false, true, true]);
    }

    #[test]
    fn a_connection_is_refused_while_all_others_have_requests() {
        let slots = ConnectionSlots::new(1);
        let busy = slots.admit().expect("a place");
        let request = busy.connection.start_request();
        assert!(slots.admit().is_none());
        drop(request);
        assert!(slots.admit().is_some());
        assert!(busy.connection.is_evicted());
    }

    #[test]
    fn closed_connections_leave_no_entries() {
        let slots = ConnectionSlots::new(10);
        let _first = slots.admit();
        for _ in 0..10_000 {
            drop(slots.admit());
        }
        assert!(slots.state.queues.lock().unused.len() < 200);
        assert_eq!(slots.state.open.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn bytes_without_a_request_are_a_partial_head() {
        let connection = Arc::new(ConnectionState::default());
        connection.record_bytes();
        assert!(connection.has_partial_head());
        let request = connection.start_request();
        assert!(!connection.has_partial_head());
        connection.record_bytes();
        assert!(!connection.has_partial_head());
        drop(request);
        assert!(!connection.has_request());
    }
}
