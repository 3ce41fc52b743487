//! Unit tests of the decisions about grants.

use super::*;
use crate::core::decide::testing::given;
use crate::core::decide::testing::samples::*;

fn started(user: Option<&str>, access: u128) -> Event {
    GrantRefreshStarted {
        server: server_id("memory"),
        server_name: name("memory"),
        user: user.map(name),
        access: value(access),
    }
    .into()
}

fn refreshed(user: Option<&str>, access: u128) -> Event {
    GrantRefreshed {
        server: server_id("memory"),
        server_name: name("memory"),
        user: user.map(name),
        tokens: tokens(access),
    }
    .into()
}

fn failed(user: Option<&str>, access: u128, refused: bool) -> Event {
    GrantRefreshFailed {
        server: server_id("memory"),
        server_name: name("memory"),
        user: user.map(name),
        access: value(access),
        refused,
    }
    .into()
}

fn state(catalog: &Catalog, user: Option<&str>) -> Option<GrantState> {
    let user = user.map(name::<UserName>);
    let server = catalog.server("memory").expect("a server");
    server.grant(user.as_ref()).map(|grant| grant.state)
}

#[test]
fn tokens_for_all_users_restart_the_server() {
    let catalog = given([remote_registered("memory")])
        .when(|catalog| store_tokens(catalog, &grant_id("memory", None), tokens(1)))
        .then([grant_stored("memory", None, 1)]);
    let server = catalog.server("memory").expect("a server");
    assert_eq!(server.changed, catalog.position);
    assert_eq!(state(&catalog, None), Some(GrantState::Good));
}

#[test]
fn tokens_of_one_user_restart_nothing() {
    let catalog = given([remote_registered("memory")])
        .when(|catalog| store_tokens(catalog, &grant_id("memory", Some("ana")), tokens(1)))
        .then([grant_stored("memory", Some("ana"), 1)]);
    let server = catalog.server("memory").expect("a server");
    assert!(server.changed < catalog.position);
    assert_eq!(state(&catalog, Some("ana")), Some(GrantState::Good));
    assert_eq!(state(&catalog, Some("ben")), None);
    assert_eq!(state(&catalog, None), None);
}

#[test]
fn a_stdio_server_has_no_tokens() {
    let failure = given([server_registered("memory")])
        .when(|catalog| store_tokens(catalog, &grant_id("memory", None), tokens(1)))
        .then_fails_with(Code::InvalidRequest);
    assert!(failure.message.contains("stdio"), "{failure}");
}

#[test]
fn tokens_of_an_unknown_server_are_refused() {
    given([])
        .when(|catalog| store_tokens(catalog, &grant_id("memory", None), tokens(1)))
        .then_fails_with(Code::ServerNotFound);
}

#[test]
fn stored_tokens_stay_if_the_command_says_so() {
    let catalog = given([
        remote_registered("memory"),
        grant_stored("memory", Some("ana"), 1),
    ])
    .catalog;
    let check = |user| {
        require_no_tokens(&catalog, &grant_id("memory", user)).map_err(|failure| failure.code)
    };
    assert_eq!(check(Some("ana")), Err(Code::Conflict));
    assert_eq!(check(Some("ben")), Ok(()));
    assert_eq!(check(None), Ok(()));
}

#[test]
fn a_refresh_is_recorded_before_it_starts() {
    let catalog = given([remote_registered("memory"), grant_stored("memory", None, 1)])
        .when(|catalog| start_refresh(catalog, &grant_id("memory", None), value(1)))
        .then([started(None, 1)]);
    assert_eq!(state(&catalog, None), Some(GrantState::Refreshing));
}

#[test]
fn a_second_start_shows_that_the_first_worker_is_dead() {
    given([
        remote_registered("memory"),
        grant_stored("memory", None, 1),
        started(None, 1),
    ])
    .when(|catalog| start_refresh(catalog, &grant_id("memory", None), value(1)))
    .then([started(None, 1)]);
}

#[test]
fn replaced_tokens_are_not_refreshed() {
    given([
        remote_registered("memory"),
        grant_stored("memory", None, 1),
        grant_stored("memory", None, 5),
    ])
    .when(|catalog| start_refresh(catalog, &grant_id("memory", None), value(1)))
    .then_nothing();
}

#[test]
fn a_missing_grant_needs_a_new_authorization() {
    let failure = given([remote_registered("memory")])
        .when(|catalog| start_refresh(catalog, &grant_id("memory", Some("ana")), value(1)))
        .then_fails_with(Code::ReauthRequired);
    assert!(failure.message.contains("for user ana"), "{failure}");
}

#[test]
fn a_refused_grant_needs_a_new_authorization() {
    given([
        remote_registered("memory"),
        grant_stored("memory", None, 1),
        failed(None, 1, true),
    ])
    .when(|catalog| start_refresh(catalog, &grant_id("memory", None), value(1)))
    .then_fails_with(Code::ReauthRequired);
}

#[test]
fn new_tokens_replace_the_old_ones() {
    let user = Some("ana");
    let catalog = given([
        remote_registered("memory"),
        grant_stored("memory", user, 1),
        started(user, 1),
    ])
    .when(|catalog| record_refresh(catalog, &grant_id("memory", user), value(1), tokens(5)))
    .then([refreshed(user, 5)]);
    assert_eq!(state(&catalog, user), Some(GrantState::Good));
    assert_eq!(catalog.values(), [value(5), value(6)].into());
}

#[test]
fn a_refresh_keeps_the_session_of_the_grant() {
    let catalog = given([remote_registered("memory"), grant_stored("memory", None, 1)])
        .when(|catalog| record_refresh(catalog, &grant_id("memory", None), value(1), tokens(5)))
        .then([refreshed(None, 5)]);
    let server = catalog.server("memory").expect("a server");
    let grant = server.grant.expect("a grant");
    assert!(grant.since < catalog.position && server.changed < catalog.position);
}

#[test]
fn the_outcome_of_replaced_tokens_changes_nothing() {
    let events = || {
        [
            remote_registered("memory"),
            grant_stored("memory", None, 1),
            started(None, 1),
            grant_stored("memory", None, 9),
        ]
    };
    let id = grant_id("memory", None);
    given(events())
        .when(|catalog| record_refresh(catalog, &id, value(1), tokens(5)))
        .then_nothing();
    given(events())
        .when(|catalog| record_refresh_failure(catalog, &id, value(1), true))
        .then_nothing();
}

#[test]
fn the_outcome_for_a_deleted_server_changes_nothing() {
    let id = grant_id("memory", None);
    given([])
        .when(|catalog| record_refresh(catalog, &id, value(1), tokens(5)))
        .then_nothing();
    given([])
        .when(|catalog| record_refresh_failure(catalog, &id, value(1), false))
        .then_nothing();
}

#[test]
fn only_a_refused_refresh_ends_the_access() {
    for (refused, expected) in [(true, GrantState::Refused), (false, GrantState::Good)] {
        let catalog = given([
            remote_registered("memory"),
            grant_stored("memory", None, 1),
            started(None, 1),
        ])
        .when(|catalog| {
            record_refresh_failure(catalog, &grant_id("memory", None), value(1), refused)
        })
        .then([failed(None, 1, refused)]);
        assert_eq!(state(&catalog, None), Some(expected));
    }
}
