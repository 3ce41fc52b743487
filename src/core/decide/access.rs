//! The decision whether a caller may do something.
//!
//! Every list, call, job, secret, connection and event asks this module, so that a list never shows a server that a call
//! refuses.

use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::caller::{Caller, Scope};

/// A kind of request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// List servers and tools, call tools, read and cancel jobs.
    UseTools,
    /// Set and delete secrets, start and end connections.
    ManageSecrets,
    ManageTokens,
    ReadEvents,
    ReadMetrics,
    /// Every other request: it changes the deployment, or shows more than one user's state.
    Administer,
}

impl Action {
    /// Returns the scope that the action needs.
    pub fn scope(self) -> Scope {
        match self {
            Self::UseTools => Scope::Tools,
            Self::ManageSecrets => Scope::Secrets,
            Self::ManageTokens => Scope::Tokens,
            Self::ReadEvents => Scope::Audit,
            Self::ReadMetrics => Scope::Metrics,
            Self::Administer => Scope::Admin,
        }
    }
}

/// The reason why a caller may not do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    MissingScope(Scope),
    /// The caller may not use the server. The answer is that of a server that does not exist.
    UnknownServer,
}

/// Decides whether a caller may do something, with a server or without one.
///
/// # Errors
/// Returns the reason against it. A missing scope comes before an unknown server.
pub fn may(caller: &Caller, action: Action, server: Option<ServerId>) -> Result<(), Denial> {
    let scope = action.scope();
    if !caller.scopes.allow(scope) {
        return Err(Denial::MissingScope(scope));
    }
    if server.is_some_and(|server| !caller.servers.contains(server)) {
        return Err(Denial::UnknownServer);
    }
    Ok(())
}

/// Returns a failure as a caller may see it: only administrators see lines that calls of other users may have printed.
pub fn visible_failure(caller: &Caller, failure: Failure) -> Failure {
    if caller.is_admin() {
        failure
    } else {
        failure.without_details_for_admins()
    }
}

/// Returns the failure for a caller without a scope.
pub fn missing_scope(scope: Scope) -> Failure {
    Failure {
        scope: Some(scope.as_str().into()),
        ..Failure::new(
            Code::Forbidden,
            format!("This request needs the scope {scope}, which the caller does not have"),
        )
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::model::caller::{AllowedServers, CallerKind};

    const ACTIONS: [Action; 6] = [
        Action::UseTools,
        Action::ManageSecrets,
        Action::ManageTokens,
        Action::ReadEvents,
        Action::ReadMetrics,
        Action::Administer,
    ];

    fn server(number: u128) -> ServerId {
        ServerId(Uuid::from_u128(number))
    }

    fn caller(scopes: &[Scope], servers: AllowedServers) -> Caller {
        Caller {
            scopes: scopes.iter().copied().collect(),
            servers,
            ..Caller::unrestricted(CallerKind::Token)
        }
    }

    #[test]
    fn an_administrator_may_do_everything() {
        let admin = Caller::unrestricted(CallerKind::Local);
        for action in ACTIONS {
            assert_eq!(may(&admin, action, Some(server(1))), Ok(()));
        }
    }

    #[test]
    fn a_scope_allows_its_action_and_no_other() {
        for action in ACTIONS {
            let caller = caller(&[action.scope()], AllowedServers::All);
            for other in ACTIONS {
                let expected = if other == action || action == Action::Administer {
                    Ok(())
                } else {
                    Err(Denial::MissingScope(other.scope()))
                };
                assert_eq!(may(&caller, other, None), expected, "{action:?} {other:?}");
            }
        }
    }

    #[test]
    fn only_an_administrator_sees_the_lines_of_other_calls() {
        let lines = || Some("a line".to_owned());
        let failure = Failure::internal().with_details_for_admins(lines());
        let admin = Caller::unrestricted(CallerKind::Local);
        assert_eq!(visible_failure(&admin, failure.clone()).details, lines());
        let user = caller(&[Scope::Tools], AllowedServers::All);
        assert_eq!(visible_failure(&user, failure).details, None);
    }

    #[test]
    fn a_server_that_is_not_listed_is_unknown() {
        let caller = caller(&[Scope::Tools], AllowedServers::Only([server(1)].into()));
        assert_eq!(may(&caller, Action::UseTools, Some(server(1))), Ok(()));
        assert_eq!(may(&caller, Action::UseTools, None), Ok(()));
        assert_eq!(
            may(&caller, Action::UseTools, Some(server(2))),
            Err(Denial::UnknownServer)
        );
        assert_eq!(
            may(&caller, Action::ManageSecrets, Some(server(2))),
            Err(Denial::MissingScope(Scope::Secrets))
        );
    }
}
