//! Changes under an `Idempotency-Key`: the first makes the change and is remembered with it, the others find it.

use crate::core::catalog::Catalog;
use crate::core::event::{Event, IdempotencyExpired, IdempotencyRecorded};
use crate::core::failure::{Code, Failure};
use crate::core::ids::CommandId;
use crate::core::model::idempotency::{IdempotencyKey, IdempotencyRecord};

/// The command that a key stands for: that of the first request under it, else `id`.
pub fn command_for_key(
    catalog: &Catalog,
    key: IdempotencyKey,
    id: CommandId,
) -> Result<CommandId, Failure> {
    match catalog.requests.get(key.scope) {
        Some(first) if first.body != key.body => Err(key_conflict()),
        first => Ok(first.map_or(id, |request| request.command)),
    }
}

/// Decides a change and has its key remembered with it. What is refused is not remembered: nothing has happened.
pub fn decide_once(
    catalog: &Catalog,
    id: CommandId,
    key: IdempotencyKey,
    until: u64,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure>,
) -> Result<Vec<Event>, Failure> {
    match catalog.requests.get(key.scope) {
        Some(first) if first.body != key.body => Err(key_conflict()),
        // The first finds its own commit by its id; another has to take that one's.
        Some(first) if first.command == id => Ok(vec![]),
        Some(_) => Err(Failure::unavailable(
            "The same request is being carried out; ask again",
        )),
        None => {
            let mut events = decide(catalog)?;
            let IdempotencyKey { scope, body } = key;
            events.push(
                IdempotencyRecorded {
                    request: IdempotencyRecord {
                        scope,
                        body,
                        command: id,
                        until,
                    },
                }
                .into(),
            );
            Ok(events)
        }
    }
}

/// Lets go of keys whose time is over.
pub fn expire_records(catalog: &Catalog, now: u64, limit: usize) -> Vec<Event> {
    let scopes = catalog.requests.expired(now, limit);
    if scopes.is_empty() {
        vec![]
    } else {
        vec![IdempotencyExpired { scopes }.into()]
    }
}

pub fn key_conflict() -> Failure {
    let used =
        "This Idempotency-Key was used with another body; send that one again, or take a new key";
    Failure::new(Code::Conflict, used)
}
