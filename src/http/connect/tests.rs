//! Unit tests of the state of a connection in a few words.

use super::*;
use crate::core::model::credential::CredentialLocation;
use crate::views::connection::{AuthorizationView, SlotView};

fn slot(name: &str, owner: CredentialOwner, required: bool, set: bool) -> SlotView {
    SlotView {
        name: name.parse().expect("a name"),
        location: CredentialLocation::Argument,
        required,
        owner,
        description: None,
        set,
        set_at: None,
    }
}

fn account(connected: bool, needs_reauthorization: bool) -> Option<AuthorizationView> {
    Some(AuthorizationView {
        connected,
        scopes: None,
        expires_at: None,
        needs_reauthorization,
    })
}

#[test]
fn a_list_shows_the_state_of_each_connection() {
    use CredentialOwner::{Shared, User};
    for (slots, oauth, google, expected) in [
        (vec![], None, None, "needs nothing from you"),
        (
            vec![slot("A", User, true, false), slot("B", Shared, true, false)],
            None,
            None,
            "needs A; an administrator has to set B",
        ),
        (
            vec![slot("A", User, true, true), slot("B", User, false, false)],
            account(true, false),
            None,
            "1 of 2 values set; account connected",
        ),
        (
            vec![],
            account(false, true),
            account(false, false),
            "account has to be connected again; Google not connected",
        ),
    ] {
        let connection = ConnectionView {
            server_name: "crm".parse().expect("a name"),
            slots,
            oauth,
            google,
        };
        assert_eq!(summary(&connection), expected);
    }
}
