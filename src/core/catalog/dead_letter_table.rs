//!

use imbl::OrdMap;

use crate::core::event::{DeadLetterRemoved, DeadLetterStored};
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;

/// All of them, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters(pub OrdMap<ValueId, DeadLetter>);

impl DeadLetters {
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &DeadLetter> {
        self.0.values()
    }

    pub fn get(&self, letter: ValueId) -> Option<&DeadLetter> {
        self.0.get(&letter)
    }

    pub fn values(&self) -> impl Iterator<Item = ValueId> + '_ {
        self.0.keys().copied()
    }

    pub fn expired(&self, now: u64) -> Vec<ValueId> {
        self.all()
            .filter(|letter| letter.until <= now)
            .map(|letter| letter.letter)
            .collect()
    }

    pub fn kept(&mut self, e: &DeadLetterStored) {
        self.0.insert(e.letter.letter, e.letter.clone());
    }

    pub fn dropped(&mut self, e: &DeadLetterRemoved) {
        e.letters
            .iter()
            .for_each(|letter| drop(self.0.remove(letter)));
    }
}
