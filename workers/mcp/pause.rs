//! The pause of a call's time limit while its server waits for the client.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::time::clock::monotonic;

/// Counts the time during which at least one request of the server to the client is open.
#[derive(Default)]
pub struct CallPause {
    state: Mutex<PauseState>,
    changed: Notify,
}

#[derive(Default)]
struct PauseState {
    open: usize,
    /// The begin of the running pause.
    since: Option<Instant>,
    /// The length of all earlier pauses.
    total: Duration,
}

/// Pauses the limit until it is dropped.
pub struct PauseGuard<'a>(&'a CallPause);

impl CallPause {
    pub fn begin(&self) -> PauseGuard<'_> {
        let mut state = self.state.lock();
        state.open += 1;
        state.since.get_or_insert_with(monotonic);
        drop(state);
        self.changed.notify_one();
        PauseGuard(self)
    }

    /// Returns the length of all pauses so far.
    pub fn total(&self) -> Duration {
        let state = self.state.lock();
        state.total + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub fn is_paused(&self) -> bool {
        self.state.lock().open > 0
    }

    /// Waits for the begin or the end of a pause.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for PauseGuard<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.open -= 1;
        if state.open == 0
            && let Some(since) = state.since.take()
        {
            state.total += since.elapsed();
        }
        drop(state);
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_at_the_same_time_count_once() {
        let pause = CallPause::default();
        let first = pause.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = pause.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(first);
        assert!(pause.is_paused());
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(second);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(!pause.is_paused());
        assert_eq!(pause.total(), Duration::from_secs(3));
    }
}
