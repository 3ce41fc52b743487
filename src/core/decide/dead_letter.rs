//!

use crate::core::catalog::Catalog;
use crate::core::event::{DeadLetterRemoved, DeadLetterStored, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;

/// Dead letters that are kept; past that the oldest goes.
const MAX_DEAD_LETTERS: usize = 1000;

/// Keeps a letter, in the place of the oldest where there are too many.
pub fn store_dead_letter(catalog: &Catalog, letter: &DeadLetter) -> Vec<Event> {
    let mut events = vec![
        DeadLetterStored {
            letter: letter.clone(),
        }
        .into(),
    ];
    let too_many = (catalog.dead.0.len() + 1).saturating_sub(MAX_DEAD_LETTERS);
    if too_many > 0 {
        events.push(
            DeadLetterRemoved {
                letters: catalog.dead.values().take(too_many).collect(),
            }
            .into(),
        );
    }
    events
}

/// Lets go of letters; of some that are not there, of none.
pub fn remove_dead_letters(catalog: &Catalog, letters: &[ValueId]) -> Vec<Event> {
    let letters: Vec<_> = letters
        .iter()
        .copied()
        .filter(|letter| catalog.dead.get(*letter).is_some())
        .collect();
    if letters.is_empty() {
        vec![]
    } else {
        vec![DeadLetterRemoved { letters }.into()]
    }
}

pub fn dead_letter_not_found(letter: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::JobNotFound,
        format!("There is no dead letter {letter}; GET /dead lists them"),
    )
}
