//! Properties of callers: what a list shows is what a call may use, and no token gains rights.

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::cases;
use mcp_api::core::decide::access::{Action, Denial, may};
use mcp_api::core::decide::token::{TokenLives, TokenRequest, token_rights};
use mcp_api::core::ids::{ServerId, TokenId};
use mcp_api::core::model::caller::{AllowedServers, Caller, CallerKind, Scope, Scopes};
use mcp_api::core::model::token::{token_id, token_text};

const NOW: u64 = 1_000_000_000_000;
const LIVES: TokenLives = TokenLives {
    longest: Duration::from_secs(1000),
    usual: Duration::from_secs(100),
};

fn scopes() -> impl Strategy<Value = Scopes> {
    prop::collection::vec(prop::sample::select(Scope::ALL.to_vec()), 0..6)
        .prop_map(Scopes::from_iter)
}

fn servers() -> impl Strategy<Value = AllowedServers> {
    prop_oneof![
        Just(AllowedServers::All),
        prop::collection::vec(0_u128..6, 1..5)
            .prop_map(|ids| AllowedServers::Only(ids.into_iter().map(server).collect())),
    ]
}

fn server(number: u128) -> ServerId {
    ServerId(Uuid::from_u128(number))
}

fn caller() -> impl Strategy<Value = Caller> {
    let kinds = [CallerKind::Token, CallerKind::Oidc, CallerKind::Browser];
    let expiry = prop::option::of(NOW + 1..NOW + 10_000_000);
    (
        prop::sample::select(kinds.to_vec()),
        scopes(),
        servers(),
        expiry,
    )
        .prop_map(|(kind, scopes, servers, expires_at)| Caller {
            user: "ana".parse().expect("a name"),
            scopes,
            servers,
            expires_at,
            token: (kind == CallerKind::Token).then(|| TokenId(Uuid::nil())),
            ..Caller::unrestricted(kind)
        })
}

fn request() -> impl Strategy<Value = TokenRequest> {
    let life = prop::option::of((0_u64..3000).prop_map(Duration::from_secs));
    (prop::option::of(scopes()), servers(), life).prop_map(|(scopes, servers, life)| TokenRequest {
        user: None,
        scopes,
        servers,
        life,
        label: None,
    })
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_server_that_a_caller_may_not_use_is_unknown_to_every_action(
        caller in caller(), number in 0_u128..6,
    ) {
        let server = server(number);
        for action in [Action::UseTools, Action::ManageSecrets, Action::ManageTokens] {
            let decided = may(&caller, action, Some(server));
            let has_scope = caller.scopes.allow(action.scope());
            prop_assert_eq!(decided == Ok(()), has_scope && caller.servers.contains(server));
            if decided == Err(Denial::UnknownServer) {
                prop_assert!(!caller.servers.contains(server));
            }
        }
    }

    #[test]
    fn a_token_never_has_more_rights_than_its_maker(caller in caller(), request in request()) {
        let Ok(rights) = token_rights(&caller, &request, LIVES, NOW) else {
            return Ok(());
        };
        prop_assert_eq!(&rights.user, &caller.user);
        prop_assert!(!rights.scopes.is_empty());
        prop_assert!(rights.scopes.iter().all(|scope| caller.scopes.allow(scope)));
        for number in 0..6 {
            prop_assert!(
                caller.servers.contains(server(number)) || !rights.servers.contains(server(number))
            );
        }
        if let (CallerKind::Token, Some(end)) = (caller.kind, caller.expires_at) {
            prop_assert!(rights.expires_at.is_some_and(|expires_at| expires_at <= end));
        }
        if caller.kind != CallerKind::Token {
            prop_assert!(rights.expires_at.is_some_and(|end| end <= NOW + 1_000_000));
        }
    }

    #[test]
    fn any_text_is_a_token_of_one_id_or_no_token(text in ".{0,80}", id in any::<u128>(), secret: [u8; 32]) {
        let id = TokenId(Uuid::from_u128(id));
        prop_assert_eq!(token_id(&token_text(id, &secret)), Some(id));
        let _ = token_id(&text);
        let _ = token_id(&format!("mcpu_{text}"));
    }
}
