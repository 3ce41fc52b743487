//! The decision who may begin the authorization of a link.

use crate::core::failure::{Code, Failure};
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
/// `forbidden` if the person is another user than the user of the link, or no administrator for a link of all users.
pub fn link_step(
    signed_in: Option<&Caller>,
    link_user: Option<&UserName>,
    can_sign_in: bool,
) -> Result<LinkStep, Failure> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::model::caller::{CallerKind, Scope};

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
        let ana = caller("ana", Scope::Tools);
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
            let found = link_step(signed_in, link_user.as_ref(), can_sign_in);
            let shown = format!("{signed_in:?} {link_user:?} {can_sign_in}");
            match (found, expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{shown}"),
                (Err(failure), None) => assert_eq!(failure.code, Code::Forbidden, "{shown}"),
                (found, _) => panic!("{shown}: {found:?}"),
            }
        }
    }
}
