//! The decisions about idempotency keys: the first request under a key makes the change, and repeats find its result.

use crate::core::catalog::Catalog;
use crate::core::event::{Event, IdempotencyExpired, IdempotencyRecorded};
use crate::core::failure::{Code, Failure};
use crate::core::ids::CommandId;
use crate::core::model::idempotency::{IdempotencyKey, IdempotencyRecord};

/// Returns the command that a request under a key stands for: the command of the first request, or `id` if this
/// request is the first.
///
/// # Errors
/// Fails if the first request had another body.
pub fn command_for_key(
    catalog: &Catalog,
    key: IdempotencyKey,
    id: CommandId,
) -> Result<CommandId, Failure> {
    match catalog.idempotency.get(key.scope) {
        Some(first) if first.body != key.body => Err(key_conflict()),
        Some(first) => Ok(first.command),
        None => Ok(id),
    }
}

/// Decides a change and records its key. A refused change records no key, because nothing has happened.
///
/// # Errors
/// Fails if the key was used with another body, if another command executes the same request, or if `decide` fails.
pub fn decide_once(
    catalog: &Catalog,
    id: CommandId,
    key: IdempotencyKey,
    until: u64,
    decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure>,
) -> Result<Vec<Event>, Failure> {
    match catalog.idempotency.get(key.scope) {
        Some(first) if first.body != key.body => Err(key_conflict()),
        // The command itself has made the change already, and its caller finds the commit by the id.
        Some(first) if first.command == id => Ok(vec![]),
        Some(_) => Err(Failure::unavailable(
            "Another process executes the same request; retry",
        )),
        None => {
            let mut events = decide(catalog)?;
            let request = IdempotencyRecord {
                scope: key.scope,
                body: key.body,
                command: id,
                until,
            };
            events.push(IdempotencyRecorded { request }.into());
            Ok(events)
        }
    }
}

/// Removes at most `limit` records that expire at `now` (milliseconds since 1970).
pub fn expire_records(catalog: &Catalog, now: u64, limit: usize) -> Vec<Event> {
    let scopes = catalog.idempotency.expired(now, limit);
    if scopes.is_empty() {
        return vec![];
    }
    vec![IdempotencyExpired { scopes }.into()]
}

/// Returns the failure for a key that was used with another body.
pub fn key_conflict() -> Failure {
    Failure::new(
        Code::Conflict,
        "This Idempotency-Key was used with another body; send the first body again, or use a new key",
    )
}
