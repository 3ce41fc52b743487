//! The requests that ended before the server answered them, for example because their callers left.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::time::clock::monotonic;

/// Requests without an answer that are counted.
const OWED_ANSWERS: usize = 1024;
/// How long after its caller has left a server may send the error of a request.
const LATE_ERROR: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct OwedAnswers {
    ids: HashSet<u64>,
    /// The end of the first of them. `None`: the server owes no answer.
    since: Option<Instant>,
    /// The last time at which a caller left a request.
    left: Option<Instant>,
}

impl OwedAnswers {
    /// Beyond the limit, the server owes an answer for ever.
    pub(super) fn add(&mut self, id: u64) {
        self.since.get_or_insert_with(monotonic);
        if self.ids.len() <= OWED_ANSWERS {
            self.ids.insert(id);
        }
    }

    /// Adds a request whose caller has left.
    pub(super) fn add_left(&mut self, id: u64) {
        self.left = Some(monotonic());
        self.add(id);
    }

    /// Whether the server may still send the error of a request whose caller has left.
    pub(super) fn was_left_lately(&self) -> bool {
        self.left.is_some_and(|left| left.elapsed() < LATE_ERROR)
    }

    pub(super) fn remove(&mut self, id: u64) {
        if self.ids.len() <= OWED_ANSWERS && self.ids.remove(&id) && self.ids.is_empty() {
            self.since = None;
            self.left = None;
        }
    }

    pub(super) fn contains(&self, id: u64) -> bool {
        self.ids.contains(&id)
    }

    /// Returns the end of the first request whose answer the server owes.
    pub(super) fn since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_never_answers_costs_bounded_memory_and_is_never_trusted_again() {
        let mut owed = OwedAnswers::default();
        for id in 0..10_000 {
            owed.add(id);
        }
        assert!(owed.ids.capacity() < 4 * OWED_ANSWERS);
        for id in 0..10_000 {
            owed.remove(id);
        }
        assert!(owed.since().is_some());
    }

    #[test]
    fn an_answer_counts_once() {
        let mut owed = OwedAnswers::default();
        owed.add(1);
        owed.add(2);
        owed.remove(1);
        owed.remove(1);
        assert!(owed.since().is_some());
        owed.remove(2);
        assert!(owed.since().is_none());
    }
}
