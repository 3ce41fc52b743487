//! All dead letters in the catalog.

use imbl::OrdMap;

use crate::core::event::{DeadLetterRemoved, DeadLetterStored};
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;

/// All dead letters, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters {
    by_id: OrdMap<ValueId, DeadLetter>,
}

impl DeadLetters {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns all dead letters, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.by_id.values()
    }

    pub fn get(&self, id: ValueId) -> Option<&DeadLetter> {
        self.by_id.get(&id)
    }

    /// Returns the ids of all messages in the Vault, the oldest first.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.by_id.keys().copied()
    }

    /// Returns the dead letters that have expired at `now` (milliseconds since 1970).
    pub fn expired(&self, now: u64) -> Vec<ValueId> {
        self.all()
            .filter(|dead_letter| dead_letter.until <= now)
            .map(|dead_letter| dead_letter.dead_letter)
            .collect()
    }

    pub fn store(&mut self, event: &DeadLetterStored) {
        let dead_letter = event.dead_letter.clone();
        self.by_id.insert(dead_letter.dead_letter, dead_letter);
    }

    pub fn remove(&mut self, event: &DeadLetterRemoved) {
        for id in &event.dead_letters {
            self.by_id.remove(id);
        }
    }
}
