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
                user: key.user,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decide::testing::given;
    use crate::core::decide::testing::samples::*;

    fn recorded(scope: u128, body: u128, command: u128, until: u64) -> Event {
        let key = key(scope, body);
        let request = IdempotencyRecord {
            scope: key.scope,
            body: key.body,
            command: command_id(command),
            until,
            user: None,
        };
        IdempotencyRecorded { request }.into()
    }

    fn register(_: &Catalog) -> Result<Vec<Event>, Failure> {
        Ok(vec![server_registered("memory")])
    }

    #[test]
    fn the_first_request_makes_the_change_and_records_its_key() {
        given([])
            .when(|catalog| decide_once(catalog, command_id(5), key(1, 2), 9, register))
            .then([server_registered("memory"), recorded(1, 2, 5, 9)]);
    }

    #[test]
    fn a_record_names_the_user_of_its_key() {
        let user = Some(key(8, 8).scope);
        let key = IdempotencyKey { user, ..key(1, 2) };
        let events = decide_once(&given([]).catalog, command_id(5), key, 9, register);
        let is_kept = events.expect("events").iter().any(|event| {
            matches!(event, Event::IdempotencyRecorded(recorded) if recorded.request.user == user)
        });
        assert!(is_kept);
    }

    #[test]
    fn a_refused_change_records_no_key() {
        let catalog = given([]).catalog;
        let refuse = |_: &Catalog| Err(Failure::invalid("no"));
        let result = decide_once(&catalog, command_id(5), key(1, 2), 9, refuse);
        assert_eq!(result.expect_err("a failure").code, Code::InvalidRequest);
    }

    #[test]
    fn the_same_command_changes_nothing_again() {
        given([recorded(1, 2, 5, 9)])
            .when(|catalog| decide_once(catalog, command_id(5), key(1, 2), 9, register))
            .then_nothing();
    }

    #[test]
    fn another_command_for_the_same_request_retries() {
        let failure = given([recorded(1, 2, 5, 9)])
            .when(|catalog| decide_once(catalog, command_id(6), key(1, 2), 9, register))
            .then_fails_with(Code::Unavailable);
        assert!(failure.retry_after.is_some());
    }

    #[test]
    fn a_key_with_another_body_is_a_conflict() {
        given([recorded(1, 2, 5, 9)])
            .when(|catalog| decide_once(catalog, command_id(6), key(1, 3), 9, register))
            .then_fails_with(Code::Conflict);
    }

    #[test]
    fn a_repeat_stands_for_the_command_of_the_first_request() {
        let catalog = given([recorded(1, 2, 5, 9)]).catalog;
        let command = |scope, body| {
            command_for_key(&catalog, key(scope, body), command_id(6))
                .map_err(|failure| failure.code)
        };
        assert_eq!(command(1, 2), Ok(command_id(5)));
        assert_eq!(command(7, 2), Ok(command_id(6)));
        assert_eq!(command(1, 3), Err(Code::Conflict));
    }

    #[test]
    fn records_expire_at_their_time() {
        let scopes = vec![key(1, 2).scope];
        let events = || [recorded(1, 2, 5, 9), recorded(3, 2, 6, 20)];
        let catalog = given(events())
            .when(|catalog| expire_records(catalog, 9, 100))
            .then([IdempotencyExpired { scopes }.into()]);
        assert!(catalog.idempotency.get(key(1, 2).scope).is_none());
        assert!(catalog.idempotency.get(key(3, 2).scope).is_some());
        given(events())
            .when(|catalog| expire_records(catalog, 8, 100))
            .then_nothing();
    }
}
