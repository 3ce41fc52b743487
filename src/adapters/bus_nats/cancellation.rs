//! The asks under way in this process, by their ids, so that they can be cancelled.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Subscriber;
use futures::StreamExt;
use futures::stream::{AbortHandle, AbortRegistration};

/// Cancels that are remembered for asks that are still on their way.
const EARLY: usize = 1024;

#[derive(Default)]
pub struct RunningAsks(Mutex<State>);

#[derive(Default)]
struct State {
    asks: HashMap<Arc<str>, AbortHandle>,
    /// Every process hears every cancel. Two subscriptions are read by two tasks, so one can overtake
    /// the ask it is for.
    early: VecDeque<String>,
}

impl RunningAsks {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters an ask; `None` for one that is cancelled already.
    pub fn begin(self: &Arc<Self>, id: Arc<str>) -> Option<(RunningGuard, AbortRegistration)> {
        let (abort, registration) = AbortHandle::new_pair();
        let mut state = self.lock();
        if let Some(at) = state.early.iter().position(|early| **early == *id) {
            state.early.remove(at);
            return None;
        }
        state.asks.insert(id.clone(), abort);
        Some((
            RunningGuard {
                running: self.clone(),
                id,
            },
            registration,
        ))
    }

    fn cancel(&self, id: String) {
        let mut state = self.lock();
        if let Some(ask) = state.asks.remove(id.as_str()) {
            ask.abort();
            return;
        }
        if state.early.len() == EARLY {
            state.early.pop_front();
        }
        state.early.push_back(id);
    }

    pub async fn listen(self: Arc<Self>, mut cancels: Subscriber) {
        while let Some(cancel) = cancels.next().await {
            if let Ok(id) = String::from_utf8(cancel.payload.to_vec()) {
                self.cancel(id);
            }
        }
    }
}

/// An ask under way; dropped, it is no more.
pub struct RunningGuard {
    running: Arc<RunningAsks>,
    id: Arc<str>,
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.running.lock().asks.remove(&self.id);
    }
}
