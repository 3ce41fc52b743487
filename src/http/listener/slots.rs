//! Counts the open connections, and closes the oldest quiet one for a new connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Connections that one eviction looks at. If all of them have a running request, the new
/// connection is refused.
const CANDIDATES: usize = 64;

/// The open connections in the order of their last turn.
pub struct ConnectionSlots {
    limit: usize,
    state: Arc<SlotsState>,
}

#[derive(Default)]
struct SlotsState {
    open: AtomicUsize,
    connections: Mutex<VecDeque<Arc<ConnectionState>>>,
}

/// One open connection, as its own task, its requests and the slots see it.
#[derive(Default)]
pub struct ConnectionState {
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
pub struct ConnectionSlot {
    pub connection: Arc<ConnectionState>,
    slots: Arc<SlotsState>,
}

/// Counts a running request, from its head to the end of its response.
pub struct RequestGuard(Arc<ConnectionState>);

impl ConnectionSlots {
    /// Creates places for this many connections.
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            state: Arc::default(),
        }
    }

    /// Returns a place for a new connection. If all places are taken, the oldest quiet connection
    /// is closed for it. Returns `None` if every connection has a running request.
    pub fn admit(&self) -> Option<ConnectionSlot> {
        if self.state.open.load(Ordering::Relaxed) >= self.limit && !self.evict_one() {
            return None;
        }
        let connection = Arc::new(ConnectionState::default());
        let open = self.state.open.fetch_add(1, Ordering::Relaxed) + 1;
        let mut connections = self.state.connections.lock();
        if connections.len() >= 2 * open + CANDIDATES {
            connections.retain(|connection| !connection.is_closed());
        }
        connections.push_back(connection.clone());
        Some(ConnectionSlot {
            connection,
            slots: self.state.clone(),
        })
    }

    /// Closes the oldest connection without a running request. Returns whether there is one.
    pub fn evict_one(&self) -> bool {
        let mut connections = self.state.connections.lock();
        let mut candidates = CANDIDATES;
        while candidates > 0
            && let Some(connection) = connections.pop_front()
        {
            if connection.is_closed() {
                continue;
            }
            if !connection.has_request() {
                connection.evict();
                return true;
            }
            connections.push_back(connection);
            candidates -= 1;
        }
        false
    }

    /// Tells all connections that they end after their running requests.
    pub fn start_draining(&self) {
        for connection in self.state.connections.lock().iter() {
            connection.is_draining.store(true, Ordering::Release);
            connection.signal.notify_one();
        }
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
    pub fn start_request(self: &Arc<Self>) -> RequestGuard {
        self.open_requests.fetch_add(1, Ordering::Relaxed);
        self.activity.fetch_add(1, Ordering::Relaxed);
        self.has_partial_head.store(false, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    /// Records received bytes. Without a running request they belong to a head.
    pub fn record_bytes(&self) {
        if !self.has_request() {
            self.has_partial_head.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether a request is running.
    pub fn has_request(&self) -> bool {
        self.open_requests.load(Ordering::Relaxed) > 0
    }

    /// Returns whether a head has begun and is not complete.
    pub fn has_partial_head(&self) -> bool {
        self.has_partial_head.load(Ordering::Relaxed)
    }

    /// Returns a number that changes with every beginning and every end of a request.
    pub fn activity(&self) -> usize {
        self.activity.load(Ordering::Relaxed)
    }

    /// Returns whether another connection takes this place.
    pub fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Acquire)
    }

    /// Returns whether the process drains.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Waits until the connection is evicted or must drain.
    pub async fn signalled(&self) {
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
        assert!(slots.state.connections.lock().len() < 200);
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
