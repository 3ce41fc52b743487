//! Unit tests of the decisions about tokens.

use std::time::Duration;

use super::*;
use crate::core::decide::testing::given;
use crate::core::decide::testing::samples::*;
use crate::core::event::{TokenCreated, TokensRemoved};
use crate::core::model::token::Token;

const NOW: u64 = 1_000_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);
const DAY_MS: u64 = 24 * 3600 * 1000;
const LIVES: TokenLives = TokenLives {
    longest: Duration::from_secs(90 * 24 * 3600),
    usual: Duration::from_secs(30 * 24 * 3600),
};

fn scopes(scopes: &[Scope]) -> Scopes {
    scopes.iter().copied().collect()
}

fn caller(kind: CallerKind, allowed: &[Scope]) -> Caller {
    Caller {
        user: name("ana"),
        scopes: scopes(allowed),
        token: (kind == CallerKind::Token).then(|| token_id(9)),
        ..Caller::unrestricted(kind)
    }
}

fn ana() -> Caller {
    caller(
        CallerKind::Token,
        &[Scope::Tools, Scope::Secrets, Scope::Tokens],
    )
}

fn admin() -> Caller {
    Caller::unrestricted(CallerKind::AdminToken)
}

fn rights(caller: &Caller, request: &TokenRequest) -> Result<TokenRights, Code> {
    token_rights(caller, request, LIVES, NOW).map_err(|failure| failure.code)
}

fn create(created: Token) -> CreateToken {
    CreateToken {
        origin: origin(1),
        created,
    }
}

fn revoke(number: u128, user: Option<&str>) -> RevokeToken {
    RevokeToken {
        origin: origin(1),
        token: token_id(number),
        user: user.map(name),
        at: 5,
    }
}

fn created(token: Token) -> Event {
    TokenCreated(token).into()
}

#[test]
fn a_token_gets_the_user_and_the_default_scopes() {
    let rights = rights(&ana(), &TokenRequest::default()).expect("rights");
    assert_eq!(rights.user, name("ana"));
    assert_eq!(rights.scopes, scopes(&[Scope::Tools, Scope::Secrets]));
    assert_eq!(rights.expires_at, None);
}

#[test]
fn default_scopes_never_exceed_those_of_the_caller() {
    let caller = caller(CallerKind::Token, &[Scope::Tools, Scope::Tokens]);
    let rights = rights(&caller, &TokenRequest::default()).expect("rights");
    assert_eq!(rights.scopes, scopes(&[Scope::Tools]));
}

#[test]
fn an_administrator_makes_tokens_for_every_user() {
    let request = TokenRequest {
        user: Some(name("ben")),
        scopes: Some(scopes(&[Scope::Admin])),
        life: Some(DAY),
        ..TokenRequest::default()
    };
    let rights = rights(&admin(), &request).expect("rights");
    assert_eq!(rights.user, name("ben"));
    assert_eq!(rights.expires_at, Some(NOW + DAY_MS));
}

#[test]
fn a_user_makes_no_token_for_another_user() {
    let request = TokenRequest {
        user: Some(name("ben")),
        ..TokenRequest::default()
    };
    assert_eq!(rights(&ana(), &request), Err(Code::Forbidden));
}

#[test]
fn a_token_for_the_system_user_is_refused() {
    let request = TokenRequest {
        user: Some(name("mcp-api")),
        ..TokenRequest::default()
    };
    assert_eq!(rights(&admin(), &request), Err(Code::InvalidRequest));
}

#[test]
fn a_token_has_no_scope_that_its_maker_lacks() {
    for scope in [Scope::Audit, Scope::Metrics, Scope::Admin] {
        let request = TokenRequest {
            scopes: Some(scopes(&[scope])),
            ..TokenRequest::default()
        };
        assert_eq!(rights(&ana(), &request), Err(Code::Forbidden), "{scope}");
    }
}

#[test]
fn a_token_without_scopes_is_refused() {
    let request = TokenRequest {
        scopes: Some(scopes(&[])),
        ..TokenRequest::default()
    };
    assert_eq!(rights(&ana(), &request), Err(Code::InvalidRequest));
}

#[test]
fn a_token_has_no_server_that_its_maker_lacks() {
    let maker = Caller {
        servers: AllowedServers::Only([server_id("a"), server_id("b")].into()),
        ..ana()
    };
    let request = |servers: &[&str]| TokenRequest {
        servers: AllowedServers::Only(servers.iter().map(|server| server_id(server)).collect()),
        ..TokenRequest::default()
    };
    let all = rights(&maker, &TokenRequest::default()).expect("rights");
    assert_eq!(all.servers, maker.servers);
    assert!(rights(&maker, &request(&["b"])).is_ok());
    assert_eq!(rights(&maker, &request(&["c"])), Err(Code::InvalidRequest));
}

#[test]
fn the_scope_admin_excludes_a_list_of_servers() {
    let request = TokenRequest {
        scopes: Some(scopes(&[Scope::Admin])),
        servers: AllowedServers::Only([server_id("a")].into()),
        ..TokenRequest::default()
    };
    assert_eq!(rights(&admin(), &request), Err(Code::InvalidRequest));
}

#[test]
fn a_token_does_not_outlive_its_maker() {
    let maker = Caller {
        expires_at: Some(NOW + DAY_MS),
        ..ana()
    };
    let request = |life| TokenRequest {
        life: Some(life),
        ..TokenRequest::default()
    };
    let same = rights(&maker, &TokenRequest::default()).expect("rights");
    assert_eq!(same.expires_at, Some(NOW + DAY_MS));
    assert!(rights(&maker, &request(DAY)).is_ok());
    assert_eq!(rights(&maker, &request(DAY * 2)), Err(Code::InvalidRequest));
    assert_eq!(
        rights(&maker, &request(Duration::ZERO)),
        Err(Code::InvalidRequest)
    );
}

#[test]
fn a_person_makes_tokens_for_at_most_the_longest_life() {
    for kind in [CallerKind::Oidc, CallerKind::Browser] {
        let person = caller(kind, &[Scope::Tools, Scope::Tokens]);
        let usual = rights(&person, &TokenRequest::default()).expect("rights");
        assert_eq!(usual.expires_at, Some(NOW + 30 * DAY_MS));
        let request = |days| TokenRequest {
            life: Some(DAY * days),
            ..TokenRequest::default()
        };
        assert!(rights(&person, &request(90)).is_ok());
        assert_eq!(rights(&person, &request(91)), Err(Code::InvalidRequest));
    }
}

#[test]
fn a_label_with_a_line_feed_is_refused() {
    let request = TokenRequest {
        label: Some("a\nb".into()),
        ..TokenRequest::default()
    };
    assert_eq!(rights(&ana(), &request), Err(Code::InvalidRequest));
}

#[test]
fn a_token_is_created() {
    let catalog = given([])
        .when(|catalog| create_token(catalog, &create(token(1, "ana"))))
        .then([created(token(1, "ana"))]);
    let stored = catalog.tokens.get(token_id(1)).expect("the token");
    assert!(stored.is_valid(NOW));
}

#[test]
fn a_revoked_token_makes_no_token() {
    let made = || Token {
        maker: Some(token_id(1)),
        ..token(2, "ana")
    };
    given([created(token(1, "ana")), token_revoked(1, "ana", 3)])
        .when(|catalog| create_token(catalog, &create(made())))
        .then_fails_with(Code::Unauthenticated);
    given([])
        .when(|catalog| create_token(catalog, &create(made())))
        .then_fails_with(Code::Unauthenticated);
}

#[test]
fn a_user_has_a_limited_number_of_valid_tokens() {
    let tokens = (0..MAX_TOKENS as u128).map(|number| created(token(10 + number, "ana")));
    let full = || Vec::from_iter(tokens.clone());
    given(full())
        .when(|catalog| create_token(catalog, &create(token(1, "ana"))))
        .then_fails_with(Code::RateLimited);
    given(full())
        .when(|catalog| create_token(catalog, &create(token(1, "ben"))))
        .then([created(token(1, "ben"))]);
    let revoked = full().into_iter().chain([token_revoked(10, "ana", 1)]);
    given(revoked)
        .when(|catalog| create_token(catalog, &create(token(1, "ana"))))
        .then([created(token(1, "ana"))]);
}

#[test]
fn a_new_token_removes_tokens_that_ended_long_ago() {
    let new = || Token {
        created_at: NOW,
        ..token(3, "ana")
    };
    let catalog = given([
        created(token(1, "ana")),
        created(token(2, "ana")),
        token_revoked(1, "ana", NOW - 31 * DAY_MS),
        token_revoked(2, "ana", NOW - 29 * DAY_MS),
    ])
    .when(|catalog| create_token(catalog, &create(new())))
    .then([
        created(new()),
        TokensRemoved {
            tokens: vec![token_id(1)],
        }
        .into(),
    ]);
    assert!(catalog.tokens.get(token_id(1)).is_none());
    assert_eq!(catalog.tokens.of_user(&name("ana")).count(), 2);
}

#[test]
fn a_revoked_token_takes_along_the_tokens_that_it_made() {
    let made_by = |number, user: &str, maker| {
        created(Token {
            maker: Some(token_id(maker)),
            ..token(number, user)
        })
    };
    let catalog = given([
        made_by(3, "ana", 2),
        made_by(2, "ana", 1),
        created(token(1, "ana")),
        created(token(4, "ben")),
    ])
    .when(|catalog| revoke_token(catalog, &revoke(1, Some("ana"))))
    .then([
        token_revoked(1, "ana", 5),
        token_revoked(2, "ana", 5),
        token_revoked(3, "ana", 5),
    ]);
    let is_valid = |number| {
        let stored = catalog.tokens.get(token_id(number));
        stored.is_some_and(|stored| stored.is_valid(NOW))
    };
    assert!(!is_valid(1) && !is_valid(3) && is_valid(4));
}

#[test]
fn a_second_revocation_changes_nothing() {
    given([created(token(1, "ana")), token_revoked(1, "ana", 3)])
        .when(|catalog| revoke_token(catalog, &revoke(1, None)))
        .then_nothing();
}

#[test]
fn the_token_of_another_user_is_unknown() {
    for (number, user) in [(1, Some("ben")), (2, None)] {
        given([created(token(1, "ana"))])
            .when(|catalog| revoke_token(catalog, &revoke(number, user)))
            .then_fails_with(Code::TokenNotFound);
    }
}

#[test]
fn an_expired_token_is_invalid_from_its_end_on() {
    let expiring = Token {
        expires_at: Some(NOW),
        ..token(1, "ana")
    };
    let catalog = given([])
        .when(|catalog| create_token(catalog, &create(expiring.clone())))
        .then([created(expiring.clone())]);
    let stored = catalog.tokens.get(token_id(1)).expect("the token");
    assert!(stored.is_valid(NOW - 1));
    assert!(!stored.is_valid(NOW));
    assert_eq!(stored.ended_at(NOW), Some(NOW));
}

#[test]
fn the_catalog_keeps_a_limited_number_of_ended_tokens() {
    let ended = (0..MAX_ENDED as u128 + 2).flat_map(|number| {
        let number = 10 + number;
        [
            created(token(number, "ana")),
            token_revoked(number, "ana", NOW + number as u64),
        ]
    });
    let new = || Token {
        created_at: NOW + 1,
        ..token(1, "ana")
    };
    given(Vec::from_iter(ended))
        .when(|catalog| create_token(catalog, &create(new())))
        .then([
            created(new()),
            TokensRemoved {
                tokens: vec![token_id(10), token_id(11)],
            }
            .into(),
        ]);
}
