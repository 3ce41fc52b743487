//! The decisions about dead letters.

use crate::core::catalog::Catalog;
use crate::core::event::{DeadLetterRemoved, DeadLetterStored, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;

/// The largest number of dead letters. A new letter above it removes the oldest letter.
const MAX_DEAD_LETTERS: usize = 1000;

/// Stores a dead letter. If there are more than 1000, the oldest letters are removed.
pub fn store_dead_letter(catalog: &Catalog, letter: &DeadLetter) -> Vec<Event> {
    let stored = DeadLetterStored {
        letter: letter.clone(),
    };
    let mut events = vec![stored.into()];
    let excess = (catalog.dead_letters.len() + 1).saturating_sub(MAX_DEAD_LETTERS);
    if excess > 0 {
        let removed = DeadLetterRemoved {
            letters: catalog.dead_letters.values().take(excess).collect(),
        };
        events.push(removed.into());
    }
    events
}

/// Removes the dead letters that exist. Returns no event if none of them exists.
pub fn remove_dead_letters(catalog: &Catalog, letters: &[ValueId]) -> Vec<Event> {
    let letters: Vec<_> = letters
        .iter()
        .copied()
        .filter(|letter| catalog.dead_letters.get(*letter).is_some())
        .collect();
    if letters.is_empty() {
        return vec![];
    }
    vec![DeadLetterRemoved { letters }.into()]
}

/// Returns the failure for an unknown dead letter.
pub fn dead_letter_not_found(letter: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::JobNotFound,
        format!("Dead letter {letter} not found; GET /dead lists all dead letters"),
    )
}
