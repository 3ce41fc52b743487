//! The decision who may begin the authorization of a link.

use super::access::{Action, Denial, may};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ServerId;
use crate::core::model::caller::Caller;
use crate::core::names::UserName;

/// The next step of a person who has opened a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkStep {
    /// The person must sign in first.
    SignIn,
    /// The person may begin the authorization with one click.
    Confirm,
}

/// Decides what a person has to do before a link begins an authorization. `link_user` is the user who gets access, or
/// `None` for all users. `can_sign_in` says whether that user can sign in.
///
/// # Errors
/// `forbidden` if the person is another user than the user of the link, or no administrator for a link of all users, or if
/// the token of the person lacks the scope `secrets` or the server.
pub fn link_step(
    signed_in: Option<&Caller>,
    link_user: Option<&UserName>,
    server: ServerId,
    can_sign_in: bool,
) -> Result<LinkStep, Failure> {
    if let Some(caller) = signed_in {
        check_access(caller, server)?;
    }
    match (signed_in, link_user) {
        (None, None) => Ok(LinkStep::SignIn),
        (None, Some(_)) if can_sign_in => Ok(LinkStep::SignIn),
        (None, Some(_)) => Ok(LinkStep::Confirm),
        (Some(caller), None) if caller.is_admin() => Ok(LinkStep::Confirm),
        (Some(_), None) => Err(Failure::new(
            Code::Forbidden,
            "This link gives access to all users, so only a person with the scope admin can use it",
        )),
        (Some(caller), Some(user)) if caller.user == *user => Ok(LinkStep::Confirm),
        (Some(caller), Some(_)) if caller.is_admin() && !can_sign_in => Ok(LinkStep::Confirm),
        (Some(caller), Some(user)) => Err(Failure::new(
            Code::Forbidden,
            format!(
                "This link is for user {user}, and this browser is signed in as user {}",
                caller.user
            ),
        )),
    }
}

/// Checks that a person may start a connection to a server. The session of a browser is worth what its token is worth.
fn check_access(caller: &Caller, server: ServerId) -> Result<(), Failure> {
    match may(caller, Action::ManageSecrets, Some(server)) {
        Ok(()) => Ok(()),
        Err(Denial::MissingScope(scope)) => Err(Failure::new(
            Code::Forbidden,
            format!(
                "This browser is signed in with a token without the scope {scope}; sign in with a token that has it"
            ),
        )),
        Err(Denial::UnknownServer) => Err(Failure::new(
            Code::Forbidden,
            "This browser is signed in with a token for other servers; sign in with a token for this server",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::caller::{AllowedServers, CallerKind, Scope};

    const SERVER: ServerId = ServerId(uuid::Uuid::from_u128(1));

    #[test]
    fn a_token_without_the_scope_or_the_server_begins_no_link() {
        let of_ana = user("ana");
        let limited = Caller {
            servers: AllowedServers::Only([ServerId(uuid::Uuid::from_u128(2))].into()),
            ..caller("ana", Scope::Secrets)
        };
        for signed_in in [caller("ana", Scope::Tools), limited] {
            let found = link_step(Some(&signed_in), Some(&of_ana), SERVER, true);
            assert_eq!(found.expect_err("refused").code, Code::Forbidden);
        }
    }

    fn user(name: &str) -> UserName {
        name.parse().expect("a name")
    }

    fn caller(name: &str, scope: Scope) -> Caller {
        Caller {
            user: user(name),
            scopes: [scope].into_iter().collect(),
            ..Caller::unrestricted(CallerKind::Browser)
        }
    }

    #[test]
    fn a_link_begins_for_its_own_user_only() {
        let ana = caller("ana", Scope::Secrets);
        let ben = caller("ben", Scope::Secrets);
        let admin = caller("default", Scope::Admin);
        let of_ana = Some("ana");
        for (signed_in, link_user, can_sign_in, expected) in [
            (None, of_ana, true, Some(LinkStep::SignIn)),
            (None, of_ana, false, Some(LinkStep::Confirm)),
            (None, None, true, Some(LinkStep::SignIn)),
            (None, None, false, Some(LinkStep::SignIn)),
            (Some(&ana), of_ana, true, Some(LinkStep::Confirm)),
            (Some(&ana), of_ana, false, Some(LinkStep::Confirm)),
            (Some(&ana), None, true, None),
            (Some(&ben), of_ana, true, None),
            (Some(&ben), of_ana, false, None),
            (Some(&admin), of_ana, true, None),
            (Some(&admin), of_ana, false, Some(LinkStep::Confirm)),
            (Some(&admin), None, false, Some(LinkStep::Confirm)),
        ] {
            let link_user = link_user.map(user);
            let found = link_step(signed_in, link_user.as_ref(), SERVER, can_sign_in);
            let shown = format!("{signed_in:?} {link_user:?} {can_sign_in}");
            match (found, expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{shown}"),
                (Err(failure), None) => assert_eq!(failure.code, Code::Forbidden, "{shown}"),
                (found, _) => panic!("{shown}: {found:?}"),
            }
        }
    }
}
