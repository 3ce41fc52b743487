//! The decisions about grants: storing tokens and refreshing them.

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::event::{
    Event, GrantRefreshFailed, GrantRefreshStarted, GrantRefreshed, GrantStored,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{Grant, GrantId, GrantState, GrantTokens};
use crate::core::names::{ServerName, UserName};

/// Checks that the grant does not exist.
///
/// # Errors
/// Fails if tokens are stored. They stay, because a worker may have refreshed them, and older tokens would end the
/// access.
pub fn require_no_tokens(catalog: &Catalog, id: &GrantId) -> Result<(), Failure> {
    match catalog.server_by_id(id.server) {
        Some(server) if server.grant(id.user.as_ref()).is_some() => Err(Failure::new(
            Code::Conflict,
            format!(
                "Server {} has such tokens already, and they stay unchanged",
                server.name
            ),
        )),
        _ => Ok(()),
    }
}

/// Stores new tokens.
///
/// # Errors
/// Fails if the server does not exist or is not behind a URL.
pub fn store_tokens(
    catalog: &Catalog,
    id: &GrantId,
    tokens: GrantTokens,
) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, id)?;
    if server.remote().is_none() {
        return Err(not_remote(server));
    }
    let stored = GrantStored {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        tokens,
    };
    Ok(vec![stored.into()])
}

/// Returns the failure for OAuth tokens of a stdio server.
pub fn not_remote(server: &Server) -> Failure {
    let transport = server.config.transport.as_str();
    Failure::invalid(format!(
        "Server {} is a {transport} server; only streamable_http servers have OAuth tokens",
        server.name
    ))
}

/// Records that a worker starts to refresh the tokens with the access token `access`. Returns no event if other tokens
/// have replaced them.
///
/// # Errors
/// Fails if the grant does not exist or if the authorization server has refused it.
pub fn start_refresh(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
) -> Result<Vec<Event>, Failure> {
    let (server, grant) = find_grant(catalog, id)?;
    if grant.tokens.access != access {
        return Ok(vec![]);
    }
    if grant.state == GrantState::Refused {
        return Err(reauth_required(
            &server.name,
            id.user.as_ref(),
            "its access was withdrawn",
        ));
    }
    let started = GrantRefreshStarted {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        access,
    };
    Ok(vec![started.into()])
}

/// Records the new tokens of a refresh. Returns no event if other tokens have replaced the old ones.
pub fn record_refresh(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
    tokens: GrantTokens,
) -> Vec<Event> {
    let Some(server) = server_with_tokens(catalog, id, access) else {
        return vec![];
    };
    let refreshed = GrantRefreshed {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        tokens,
    };
    vec![refreshed.into()]
}

/// Records a refresh without new tokens. If the authorization server has refused it, a person must authorize again.
/// Returns no event if other tokens have replaced the old ones.
pub fn record_refresh_failure(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
    refused: bool,
) -> Vec<Event> {
    let Some(server) = server_with_tokens(catalog, id, access) else {
        return vec![];
    };
    let failed = GrantRefreshFailed {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        access,
        refused,
    };
    vec![failed.into()]
}

fn find_server<'a>(catalog: &'a Catalog, id: &GrantId) -> Result<&'a Server, Failure> {
    catalog
        .server_by_id(id.server)
        .map(AsRef::as_ref)
        .ok_or_else(|| Failure::server_not_found(format!("with the id {}", id.server)))
}

fn find_grant<'a>(catalog: &'a Catalog, id: &GrantId) -> Result<(&'a Server, Grant), Failure> {
    let server = find_server(catalog, id)?;
    let grant = server.grant(id.user.as_ref()).ok_or_else(|| {
        reauth_required(
            &server.name,
            id.user.as_ref(),
            "no tokens are stored for it",
        )
    })?;
    Ok((server, grant))
}

/// Returns the server if its grant still has the access token `access`.
fn server_with_tokens<'a>(
    catalog: &'a Catalog,
    id: &GrantId,
    access: ValueId,
) -> Option<&'a Server> {
    let (server, grant) = find_grant(catalog, id).ok()?;
    (grant.tokens.access == access).then_some(server)
}

/// Returns the failure for a server that a person must authorize again. `reason` completes "because …".
pub fn reauth_required(name: &ServerName, user: Option<&UserName>, reason: &str) -> Failure {
    let for_user = user.map_or(String::new(), |user| format!(" for user {user}"));
    Failure::new(
        Code::ReauthRequired,
        format!(
            "Server {name} must be authorized{for_user}: {reason}. Store tokens with POST /mcp/servers/{name}/oauth, or start an authorization with POST /mcp/servers/{name}/oauth/start"
        ),
    )
}

#[cfg(test)]
mod tests {
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
}
