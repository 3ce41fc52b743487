//! All dead letters in the catalog.

use imbl::OrdMap;

use crate::core::event::{DeadLetterRemoved, DeadLetterStored};
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;

/// All dead letters, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters {
    letters: OrdMap<ValueId, DeadLetter>,
}

impl DeadLetters {
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Returns all dead letters, the oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.letters.values()
    }

    pub fn get(&self, letter: ValueId) -> Option<&DeadLetter> {
        self.letters.get(&letter)
    }

    /// Returns the ids of all messages in the Vault, the oldest first.
    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.letters.keys().copied()
    }

    /// Returns the dead letters that have expired at `now` (milliseconds since 1970).
    pub fn expired(&self, now: u64) -> Vec<ValueId> {
        self.all()
            .filter(|letter| letter.until <= now)
            .map(|letter| letter.letter)
            .collect()
    }

    pub fn store(&mut self, event: &DeadLetterStored) {
        self.letters
            .insert(event.letter.letter, event.letter.clone());
    }

    pub fn remove(&mut self, event: &DeadLetterRemoved) {
        for letter in &event.letters {
            self.letters.remove(letter);
        }
    }
}
