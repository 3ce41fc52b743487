//! The decisions about dead letters.

use crate::core::catalog::Catalog;
use crate::core::event::{DeadLetterRemoved, DeadLetterStored, Event};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;

/// The largest number of dead letters. A new dead letter above it removes the oldest dead letter.
const MAX_DEAD_LETTERS: usize = 1000;

/// Stores a dead letter. If there are more than 1000, the oldest dead letters are removed.
pub fn store_dead_letter(catalog: &Catalog, dead_letter: &DeadLetter) -> Vec<Event> {
    let stored = DeadLetterStored {
        dead_letter: dead_letter.clone(),
    };
    let mut events = vec![stored.into()];
    let excess = (catalog.dead_letters.len() + 1).saturating_sub(MAX_DEAD_LETTERS);
    if excess > 0 {
        let removed = DeadLetterRemoved {
            dead_letters: catalog.dead_letters.values().take(excess).collect(),
        };
        events.push(removed.into());
    }
    events
}

/// Removes the dead letters that exist. Returns no event if none of them exists.
pub fn remove_dead_letters(catalog: &Catalog, ids: &[ValueId]) -> Vec<Event> {
    let dead_letters: Vec<_> = ids
        .iter()
        .copied()
        .filter(|id| catalog.dead_letters.get(*id).is_some())
        .collect();
    if dead_letters.is_empty() {
        return vec![];
    }
    vec![DeadLetterRemoved { dead_letters }.into()]
}

/// Returns the failure for an unknown dead letter.
pub fn dead_letter_not_found(id: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::JobNotFound,
        format!("Dead letter {id} not found; GET /dead lists all dead letters"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;

    fn dead_letter(number: u128, until: u64) -> DeadLetter {
        DeadLetter {
            dead_letter: value(number),
            id: "1".into(),
            command: "tools.dance".into(),
            reason: "The command is unknown".into(),
            size: 2,
            until,
        }
    }

    fn stored(number: u128) -> Event {
        DeadLetterStored {
            dead_letter: dead_letter(number, 9),
        }
        .into()
    }

    fn removed(numbers: &[u128]) -> Event {
        DeadLetterRemoved {
            dead_letters: numbers.iter().map(|number| value(*number)).collect(),
        }
        .into()
    }

    #[test]
    fn a_dead_letter_is_stored() {
        let catalog = given([])
            .when(|catalog| store_dead_letter(catalog, &dead_letter(1, 9)))
            .then([stored(1)]);
        assert_eq!(catalog.values(), [value(1)].into());
    }

    #[test]
    fn a_dead_letter_above_the_limit_removes_the_oldest_dead_letter() {
        let full = || (1..=1000).map(stored);
        let catalog = given(full())
            .when(|catalog| store_dead_letter(catalog, &dead_letter(1001, 9)))
            .then([stored(1001), removed(&[1])]);
        assert_eq!(catalog.dead_letters.len(), 1000);
        given(full().take(999))
            .when(|catalog| store_dead_letter(catalog, &dead_letter(1001, 9)))
            .then([stored(1001)]);
    }

    #[test]
    fn only_existing_dead_letters_are_removed() {
        given([stored(1), stored(2)])
            .when(|catalog| remove_dead_letters(catalog, &[value(2), value(3)]))
            .then([removed(&[2])]);
        given([stored(1)])
            .when(|catalog| remove_dead_letters(catalog, &[value(3)]))
            .then_nothing();
    }

    #[test]
    fn a_dead_letter_expires_at_its_time() {
        let catalog = given([stored(1)]).catalog;
        assert!(catalog.dead_letters.expired(8).is_empty());
        assert_eq!(catalog.dead_letters.expired(9), [value(1)]);
    }
}
