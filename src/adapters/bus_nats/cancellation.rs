//! The running asks of this process by their ids, so that a sender can cancel them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_nats::Subscriber;
use futures::StreamExt;
use futures::stream::{AbortHandle, AbortRegistration};
use parking_lot::Mutex;

/// The number of cancellations that are remembered for asks that have not arrived yet.
const MAX_EARLY: usize = 1024;

/// The running asks.
#[derive(Default)]
pub(super) struct RunningAsks(Mutex<State>);

#[derive(Default)]
struct State {
    asks: HashMap<Arc<str>, AbortHandle>,
    /// The ids of cancelled asks that have not arrived. Different tasks read the two subscriptions, so
    /// a cancellation can overtake its ask. Every process receives every cancellation.
    early: VecDeque<String>,
}

impl RunningAsks {
    /// Registers an ask. Returns `None` if its sender has cancelled it already.
    pub(super) fn begin(
        self: &Arc<Self>,
        id: Arc<str>,
    ) -> Option<(RunningGuard, AbortRegistration)> {
        let (abort, registration) = AbortHandle::new_pair();
        let mut state = self.0.lock();
        if let Some(index) = state.early.iter().position(|early| **early == *id) {
            state.early.remove(index);
            return None;
        }
        state.asks.insert(id.clone(), abort);
        let guard = RunningGuard {
            running: self.clone(),
            id,
        };
        Some((guard, registration))
    }

    fn cancel(&self, id: String) {
        let mut state = self.0.lock();
        if let Some(ask) = state.asks.remove(id.as_str()) {
            ask.abort();
            return;
        }
        if state.early.len() == MAX_EARLY {
            state.early.pop_front();
        }
        state.early.push_back(id);
    }

    /// Cancels the asks that the messages of a subscription name, until the subscription ends.
    pub(super) async fn read_cancels(self: Arc<Self>, mut cancels: Subscriber) {
        while let Some(cancel) = cancels.next().await {
            if let Ok(id) = String::from_utf8(cancel.payload.to_vec()) {
                self.cancel(id);
            }
        }
    }
}

/// Removes a running ask from the list when it is dropped.
pub(super) struct RunningGuard {
    running: Arc<RunningAsks>,
    id: Arc<str>,
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.0.lock().asks.remove(&self.id);
    }
}
