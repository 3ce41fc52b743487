//! Dead letters: messages of producers that nobody can read, kept for a while with the reason.

use imbl::OrdMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::catalog::Catalog;
use super::event::{DeadDropped, DeadKept, Event};
use super::failure::{Code, Failure};
use super::names::ValueId;

/// Dead letters that are kept; past that the oldest goes.
const MOST: usize = 1000;

/// A message that was set aside. What it holds lies sealed in the Vault under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct DeadLetter {
    #[schema(value_type = String)]
    pub letter: ValueId,
    /// The job's id, as its sender wrote it.
    pub id: String,
    /// The command's name, as its sender wrote it.
    pub command: String,
    pub reason: String,
    /// Bytes of its body.
    pub size: u64,
    /// Milliseconds since 1970: how long it is kept.
    pub until: u64,
}

/// All of them, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct DeadLetters(OrdMap<ValueId, DeadLetter>);

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
        self.all().filter(|letter| letter.until <= now).map(|letter| letter.letter).collect()
    }

    pub fn kept(&mut self, e: &DeadKept) {
        self.0.insert(e.letter.letter, e.letter.clone());
    }

    pub fn dropped(&mut self, e: &DeadDropped) {
        e.letters.iter().for_each(|letter| drop(self.0.remove(letter)));
    }
}

/// Keeps a letter, in the place of the oldest where there are too many.
pub fn keep(catalog: &Catalog, letter: &DeadLetter) -> Vec<Event> {
    let mut events = vec![DeadKept { letter: letter.clone() }.into()];
    let too_many = (catalog.dead.0.len() + 1).saturating_sub(MOST);
    if too_many > 0 {
        events.push(DeadDropped { letters: catalog.dead.values().take(too_many).collect() }.into());
    }
    events
}

/// Lets go of letters; of some that are not there, of none.
pub fn drop_letters(catalog: &Catalog, letters: &[ValueId]) -> Vec<Event> {
    let letters: Vec<_> = letters.iter().copied().filter(|letter| catalog.dead.get(*letter).is_some()).collect();
    if letters.is_empty() { vec![] } else { vec![DeadDropped { letters }.into()] }
}

pub fn not_found(letter: impl std::fmt::Display) -> Failure {
    Failure::new(Code::JobNotFound, format!("There is no dead letter {letter}; GET /dead lists them"))
}
