//! The sealed answers of the jobs that this worker has ended last.
//!
//! A caller usually reads an answer as soon as its job ends. If the request reaches the worker that has just stored the
//! answer, the worker needs no store. An answer never changes under its `ValueId`. The process that sealed it can open it,
//! even if a key rotation has replaced the wrapping in the Vault.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::core::ids::ValueId;
use crate::ports::vault::Sealed;

/// The most bytes of all answers. The oldest answer leaves first.
const MAX_BYTES: usize = 16 << 20;
/// The most answers.
const MAX_ANSWERS: usize = 10_000;
/// The most bytes of one answer. The way to the store is a small part of the time that a larger answer takes.
const MAX_ANSWER: usize = 256 << 10;

/// The last answers of this worker, with a bound in number and in bytes.
#[derive(Default)]
pub struct FreshAnswers(Mutex<State>);

#[derive(Default)]
struct State {
    answers: HashMap<ValueId, Sealed>,
    bytes: usize,
    /// From the oldest to the newest. The answer of an id may have left.
    order: VecDeque<ValueId>,
}

impl FreshAnswers {
    /// Keeps an answer. No caller finds it before the log names it.
    pub(super) fn keep(&self, value: ValueId, sealed: Sealed) {
        if sealed.0.len() > MAX_ANSWER {
            return;
        }
        let mut state = self.0.lock();
        state.bytes += sealed.0.len();
        state.answers.insert(value, sealed);
        state.order.push_back(value);
        while (state.bytes > MAX_BYTES || state.order.len() > MAX_ANSWERS)
            && let Some(oldest) = state.order.pop_front()
        {
            state.remove(oldest);
        }
    }

    /// Returns an answer that this worker still has.
    pub(super) fn get(&self, value: ValueId) -> Option<Sealed> {
        self.0.lock().answers.get(&value).cloned()
    }

    /// Drops answers that leave the Vault.
    pub(super) fn forget(&self, values: &[ValueId]) {
        let mut state = self.0.lock();
        for value in values {
            state.remove(*value);
        }
    }
}

impl State {
    fn remove(&mut self, value: ValueId) {
        if let Some(sealed) = self.answers.remove(&value) {
            self.bytes -= sealed.0.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;

    fn id(n: usize) -> ValueId {
        ValueId(Uuid::from_u128(n as u128))
    }

    fn sealed(bytes: usize) -> Sealed {
        Sealed(Bytes::from(vec![7; bytes]))
    }

    fn kept(answers: &FreshAnswers, ids: std::ops::Range<usize>) -> Vec<usize> {
        ids.filter(|n| answers.get(id(*n)).is_some()).collect()
    }

    #[test]
    fn an_answer_stays_until_it_is_forgotten() {
        let answers = FreshAnswers::default();
        answers.keep(id(1), sealed(100));
        assert!(answers.get(id(1)) == Some(sealed(100)));
        answers.forget(&[id(1), id(2)]);
        assert!(answers.get(id(1)).is_none());
        assert_eq!(answers.0.lock().bytes, 0);
    }

    #[test]
    fn a_large_answer_is_not_kept() {
        let answers = FreshAnswers::default();
        answers.keep(id(1), sealed(MAX_ANSWER));
        answers.keep(id(2), sealed(MAX_ANSWER + 1));
        assert_eq!(kept(&answers, 1..3), [1]);
    }

    #[test]
    fn the_oldest_answers_leave_when_all_have_too_many_bytes() {
        let answers = FreshAnswers::default();
        let most = MAX_BYTES / MAX_ANSWER;
        for n in 0..most + 3 {
            answers.keep(id(n), sealed(MAX_ANSWER));
        }
        let newest: Vec<_> = (3..most + 3).collect();
        assert_eq!(kept(&answers, 0..most + 3), newest);
        assert_eq!(answers.0.lock().bytes, MAX_BYTES);
    }

    #[test]
    fn the_number_of_answers_is_bounded_also_if_all_are_forgotten() {
        let answers = FreshAnswers::default();
        for n in 0..MAX_ANSWERS + 10 {
            answers.keep(id(n), sealed(1));
            if n % 2 == 0 {
                answers.forget(&[id(n)]);
            }
        }
        let state = answers.0.lock();
        assert_eq!(state.order.len(), MAX_ANSWERS);
        assert_eq!(state.bytes, state.answers.len());
    }
}
