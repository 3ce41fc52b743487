//! Keeps processes that append at the same time from losing most appends to conflicts.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::core::ids::Position;
use crate::time::clock;

/// The most entries of other processes that this process waits for after its own entry.
const FOREIGN_APPEND_WINDOW: u64 = 16;
/// The longest wait for the entries of other processes.
const TURN_LIMIT: Duration = Duration::from_millis(50);

/// Lets processes take turns without messages. After its own append, a process waits until other
/// processes have appended as many entries as it has lost conflicts. If fewer entries arrive in
/// time, the number becomes smaller. Commands that arrive meanwhile join the next batch.
#[derive(Default)]
pub(super) struct ConflictBackoff {
    expected_foreign_appends: u64,
    own_position: Position,
    wait_until: Option<Instant>,
}

impl ConflictBackoff {
    /// Waits until the other processes had their turn, or until the wait is over.
    pub(super) async fn wait_for_turn(&mut self, positions: &mut watch::Receiver<Position>) {
        let Some(wait_until) = self.wait_until.take() else {
            return;
        };
        let own_position = self.own_position;
        let foreign_appends = |head: &Position| head.0.saturating_sub(own_position.0);
        let expected = self.expected_foreign_appends;
        let in_time = positions.wait_for(|head| foreign_appends(head) >= expected);
        if timeout_at(wait_until, in_time).await.is_err() {
            self.expected_foreign_appends = expected.min(foreign_appends(&positions.borrow()));
        }
    }

    /// Records that another process took the position.
    pub(super) fn record_conflict(&mut self) {
        self.expected_foreign_appends =
            (self.expected_foreign_appends + 1).min(FOREIGN_APPEND_WINDOW);
    }

    /// Records an append of this process that took `duration`. An entry of another process takes
    /// about as long, and a longer wait would cost more than the conflicts do.
    pub(super) fn record_append(&mut self, position: Position, duration: Duration) {
        self.own_position = position;
        self.wait_until = None;
        if self.expected_foreign_appends > 0 {
            let wait = (duration * self.expected_foreign_appends as u32).min(TURN_LIMIT);
            self.wait_until = Some(clock::monotonic() + wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_lost_two_conflicts_waits_for_two_foreign_entries() {
        let (head, mut positions) = watch::channel(Position(7));
        let mut backoff = ConflictBackoff::default();
        backoff.record_append(Position(7), TURN_LIMIT);
        backoff.wait_for_turn(&mut positions).await;
        backoff.record_conflict();
        backoff.record_conflict();
        backoff.record_append(Position(7), Duration::from_secs(60));
        head.send_replace(Position(9));
        backoff.wait_for_turn(&mut positions).await;
        assert_eq!(backoff.expected_foreign_appends, 2);
    }

    #[tokio::test]
    async fn a_process_stops_waiting_for_entries_that_do_not_arrive() {
        let (head, mut positions) = watch::channel(Position(7));
        let mut backoff = ConflictBackoff::default();
        for _ in 0..100 {
            backoff.record_conflict();
        }
        assert_eq!(backoff.expected_foreign_appends, FOREIGN_APPEND_WINDOW);
        backoff.record_append(Position(7), Duration::from_micros(1));
        head.send_replace(Position(8));
        backoff.wait_for_turn(&mut positions).await;
        assert_eq!(backoff.expected_foreign_appends, 1);
        backoff.record_append(Position(9), Duration::from_micros(1));
        backoff.wait_for_turn(&mut positions).await;
        assert_eq!(backoff.expected_foreign_appends, 0);
        assert_eq!(backoff.wait_until, None);
    }
}
