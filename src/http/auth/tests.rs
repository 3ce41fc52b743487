//! Unit tests of the authentication of callers.

use axum::http::HeaderValue;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::*;
use crate::core::event::{Event, TokenCreated, TokenRevoked};
use crate::core::model::caller::{AllowedServers, Scope};
use crate::core::model::token::{Token, TokenDigest, token_text};

const ID: TokenId = TokenId(Uuid::from_u128(7));

fn access(admin_token: Option<&str>) -> Access {
    Access {
        admin_token: admin_token.map(|token| Zeroizing::new(token.to_owned())),
        oidc: None,
        hosts: vec![],
        public: None,
        longest_token_life: std::time::Duration::from_secs(60),
    }
}

fn token(text: &str) -> Token {
    Token {
        id: ID,
        user: "ana".parse().expect("a name"),
        digest: TokenDigest(Sha256::digest(text).into()),
        scopes: [Scope::Tools].into_iter().collect(),
        servers: AllowedServers::All,
        label: None,
        created_at: 1,
        expires_at: None,
        created_by: None,
        maker: None,
    }
}

fn catalog_with(token: Token) -> Catalog {
    let mut catalog = Catalog::default();
    catalog.apply(&Event::from(TokenCreated(token)));
    catalog
}

fn authenticate(
    access: &Access,
    catalog: &Catalog,
    header: Option<&str>,
) -> Result<Arc<Caller>, Failure> {
    let mut headers = HeaderMap::new();
    if let Some(header) = header {
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_str(header).expect("a header"),
        );
    }
    match Authenticator::new(access).authenticate(&headers, catalog)? {
        Authentication::Caller(caller) => Ok(caller),
        Authentication::Jwt(_) => panic!("an issuer is not configured"),
    }
}

#[test]
fn without_an_identity_every_caller_is_local() {
    let access = access(None);
    for header in [None, Some("Bearer anything"), Some("Basic x")] {
        let caller = authenticate(&access, &Catalog::default(), header).expect("a caller");
        assert_eq!(caller.kind, CallerKind::Local);
    }
}

#[test]
fn the_admin_token_is_required_where_it_is_configured() {
    let access = access(Some("0123456789abcdef"));
    let catalog = Catalog::default();
    let caller = authenticate(&access, &catalog, Some("bearer  0123456789abcdef"));
    assert_eq!(caller.expect("a caller").kind, CallerKind::AdminToken);
    for header in [
        None,
        Some("Bearer 0123456789abcdeF"),
        Some("Basic 0123456789abcdef"),
    ] {
        let failure = authenticate(&access, &catalog, header).expect_err("refused");
        assert_eq!(failure.code, Code::Unauthenticated);
    }
}

#[test]
fn a_token_authenticates_its_user() {
    let text = token_text(ID, &[1; 32]);
    let catalog = catalog_with(token(&text));
    for access in [access(None), access(Some("0123456789abcdef"))] {
        let header = format!("Bearer {text}");
        let caller = authenticate(&access, &catalog, Some(&header)).expect("a caller");
        assert_eq!(caller.user.as_str(), "ana");
        assert_eq!(caller.token, Some(ID));
        assert!(!caller.is_admin());
    }
}

#[test]
fn a_wrong_expired_or_revoked_token_never_falls_back_to_local() {
    let text = token_text(ID, &[1; 32]);
    let header = format!("Bearer {text}");
    let expired = Token {
        expires_at: Some(2),
        ..token(&text)
    };
    let mut revoked = catalog_with(token(&text));
    revoked.apply(&Event::from(TokenRevoked {
        token: ID,
        user: "ana".parse().expect("a name"),
        at: 2,
    }));
    let other = format!("Bearer {}", token_text(ID, &[2; 32]));
    let cases = [
        (catalog_with(expired), header.as_str()),
        (revoked, header.as_str()),
        (Catalog::default(), header.as_str()),
        (catalog_with(token(&text)), other.as_str()),
        (catalog_with(token(&text)), "Bearer mcpu_"),
    ];
    for (catalog, header) in cases {
        let failure = authenticate(&access(None), &catalog, Some(header)).expect_err("refused");
        assert_eq!(failure.code, Code::Unauthenticated);
        assert!(!failure.message.contains("mcpu_"), "{failure}");
    }
}

#[test]
fn a_caller_ends_with_its_token() {
    let text = token_text(ID, &[1; 32]);
    let mut catalog = catalog_with(token(&text));
    let caller = authenticate(&access(None), &catalog, Some(&format!("Bearer {text}")));
    let caller = caller.expect("a caller");
    assert!(check_still_valid(&caller, &catalog).is_ok());
    catalog.apply(&Event::from(TokenRevoked {
        token: ID,
        user: "ana".parse().expect("a name"),
        at: 2,
    }));
    assert!(check_still_valid(&caller, &catalog).is_err());
}
