//! Unit tests of the verification of JWTs. The tests sign with ring.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use serde_json::{Value, json};

use super::claims::{ExpectedSignin, verify_id_token};
use super::key_set::{KeyName, KeySet};
use super::*;
use crate::config::Audience;
use crate::core::model::caller::{CallerKind, Scope};
use crate::time::clock::now_seconds;

const ISSUER: &str = "https://login.example.com/";

pub fn oidc() -> Oidc {
    Oidc {
        issuer: ISSUER.parse().expect("a URL"),
        issuer_text: ISSUER.to_owned(),
        audience: Audience::Under("https://mcp.example.com".to_owned()),
        user_claim: "sub".to_owned(),
        groups_claim: "groups".to_owned(),
        admin_group: Some("admins".to_owned()),
        client: None,
    }
}

fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(part)
}

/// An issuer with a key of each kind that ring can make.
struct Signer {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
        let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let ec = EcdsaKeyPair::generate_pkcs8(signing, &random).expect("a key");
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("a key"),
            ec: EcdsaKeyPair::from_pkcs8(signing, ec.as_ref(), &random).expect("a key"),
        }
    }

    fn keys(&self) -> Vec<Value> {
        let point = self.ec.public_key().as_ref();
        vec![
            json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": encode(self.ed.public_key()) }),
            json!({
                "kty": "EC", "crv": "P-256", "kid": "ec", "alg": "ES256", "use": "sig",
                "x": encode(&point[1..33]), "y": encode(&point[33..]),
            }),
        ]
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(claims.to_string())
        );
        let bytes = message.as_bytes();
        let signature = if header["alg"] == "ES256" {
            let random = SystemRandom::new();
            let signature = self.ec.sign(&random, bytes).expect("a signature");
            signature.as_ref().to_vec()
        } else {
            self.ed.sign(bytes).as_ref().to_vec()
        };
        format!("{message}.{}", encode(signature))
    }
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "https://mcp.example.com", "sub": "ana", "exp": now_seconds() + 600 })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// Verifies a JWT with these keys, as the verifier does with the keys of the issuer.
fn check(jwt: &str, keys: Vec<Value>, oidc: &Oidc) -> Result<Caller, JwtError> {
    provider::install();
    let name = key_name(jwt)?;
    let key = KeySet::from_json(keys).find(&name);
    verify(jwt, &name, &key.ok_or(JwtError::UnknownKey)?, oidc)
}

fn ed_header() -> Value {
    json!({ "alg": "EdDSA", "kid": "ed", "typ": "at+jwt" })
}

/// Returns the result for a JWT with these claims and a valid signature.
fn check_claims(claims: &Value) -> Result<Caller, JwtError> {
    let signer = Signer::new();
    check(&signer.sign(&ed_header(), claims), signer.keys(), &oidc())
}

#[test]
fn a_jwt_names_its_user_and_its_end() {
    let signer = Signer::new();
    let end = now_seconds() + 600;
    for header in [ed_header(), json!({ "alg": "ES256", "kid": "ec" })] {
        let jwt = signer.sign(&header, &with("exp", json!(end)));
        let caller = check(&jwt, signer.keys(), &oidc()).expect("a caller");
        assert_eq!(caller.kind, CallerKind::Oidc);
        assert_eq!(caller.user.as_str(), "ana");
        assert_eq!(caller.subject.as_deref(), Some("ana"));
        assert_eq!(caller.expires_at, Some((end + 60) * 1000));
        let scopes: Vec<_> = caller.scopes.iter().collect();
        assert_eq!(scopes, [Scope::Tools, Scope::Secrets, Scope::Tokens]);
    }
}

#[test]
fn members_of_the_admin_group_are_administrators() {
    for (groups, is_admin) in [
        (json!(["users", "admins"]), true),
        (json!("admins"), true),
        (json!(["administrators"]), false),
        (json!("users admins"), false),
        (json!({ "admins": true }), false),
        (json!(null), false),
    ] {
        let caller = check_claims(&with("groups", groups.clone())).expect("a caller");
        assert_eq!(caller.is_admin(), is_admin, "{groups}");
    }
    let without_group = Oidc {
        admin_group: None,
        ..oidc()
    };
    let signer = Signer::new();
    let jwt = signer.sign(&ed_header(), &with("groups", json!([null, "", "admins"])));
    let caller = check(&jwt, signer.keys(), &without_group).expect("a caller");
    assert!(!caller.is_admin());
}

#[test]
fn the_times_of_a_jwt_have_a_tolerance_of_a_minute() {
    let now = now_seconds();
    for (name, value, expected) in [
        ("exp", json!(now - 50), None),
        ("exp", json!(now - 70), Some(JwtError::Expired)),
        ("exp", json!("tomorrow"), Some(JwtError::Claim("exp"))),
        ("exp", json!(null), Some(JwtError::Claim("exp"))),
        ("exp", json!(-1), Some(JwtError::Claim("exp"))),
        ("exp", json!(now as f64 + 0.5), None),
        ("nbf", json!(now + 50), None),
        ("nbf", json!(now + 70), Some(JwtError::NotYetValid)),
        ("nbf", json!("now"), Some(JwtError::Claim("nbf"))),
    ] {
        let refused = check_claims(&with(name, value.clone())).err();
        assert_eq!(refused, expected, "{name} {value}");
    }
}

#[test]
fn the_issuer_and_the_audience_must_be_expected() {
    for (name, value, expected) in [
        ("iss", json!("https://login.example.com"), JwtError::Issuer),
        ("iss", json!(null), JwtError::Claim("iss")),
        ("aud", json!(null), JwtError::Claim("aud")),
        ("aud", json!([]), JwtError::Audience),
        ("aud", json!([1, "other"]), JwtError::Audience),
        (
            "aud",
            json!("https://mcp.example.com.evil.example"),
            JwtError::Audience,
        ),
        (
            "aud",
            json!("https://mcp.example.com/mcp/servers/a/b/mcp"),
            JwtError::Audience,
        ),
        (
            "aud",
            json!("https://mcp.example.com/tokens"),
            JwtError::Audience,
        ),
    ] {
        let refused = check_claims(&with(name, value.clone())).err();
        assert_eq!(refused, Some(expected), "{name} {value}");
    }
    for audience in [
        json!("https://mcp.example.com/"),
        json!("https://mcp.example.com/mcp"),
        json!(["other", "https://mcp.example.com/mcp/servers/git.hub/mcp"]),
    ] {
        assert!(
            check_claims(&with("aud", audience.clone())).is_ok(),
            "{audience}"
        );
    }
}

#[test]
fn a_listed_audience_replaces_public_url() {
    let signer = Signer::new();
    let listed = Oidc {
        audience: Audience::Listed(vec!["a".to_owned(), "b".to_owned()]),
        ..oidc()
    };
    let check = |audience: Value| {
        let jwt = signer.sign(&ed_header(), &with("aud", audience));
        check(&jwt, signer.keys(), &listed).err()
    };
    assert_eq!(check(json!("b")), None);
    assert_eq!(check(json!("a b")), Some(JwtError::Audience));
    assert_eq!(
        check(json!("https://mcp.example.com")),
        Some(JwtError::Audience)
    );
}

#[test]
fn the_user_claim_must_be_a_name_that_is_not_reserved() {
    for user in [
        json!("mcp-api"),
        json!(""),
        json!("a\nb"),
        json!(7),
        json!(null),
    ] {
        let refused = check_claims(&with("sub", user.clone())).err();
        assert_eq!(refused, Some(JwtError::User), "{user}");
    }
    let signer = Signer::new();
    let by_mail = Oidc {
        user_claim: "email".to_owned(),
        ..oidc()
    };
    let jwt = signer.sign(&ed_header(), &with("email", json!("ana@example.com")));
    let caller = check(&jwt, signer.keys(), &by_mail).expect("a caller");
    assert_eq!(caller.user.as_str(), "ana@example.com");
    assert_eq!(caller.subject.as_deref(), Some("ana"));
}

#[test]
fn a_wrong_header_is_refused() {
    let signer = Signer::new();
    for (header, expected) in [
        (json!({ "alg": "none" }), JwtError::Unreadable),
        (json!({ "alg": "HS256", "kid": "ed" }), JwtError::Unreadable),
        (json!({ "alg": "ES384", "kid": "ec" }), JwtError::Unreadable),
        (json!({ "alg": "PS256", "kid": "ed" }), JwtError::Unreadable),
        (
            json!({ "alg": "EdDSA", "kid": "ed", "crit": ["b64"], "b64": false }),
            JwtError::Unreadable,
        ),
        (json!({ "alg": "EdDSA", "kid": "ec" }), JwtError::UnknownKey),
        (json!({ "alg": "RS256", "kid": "ed" }), JwtError::UnknownKey),
        (
            json!({ "alg": "EdDSA", "kid": "new" }),
            JwtError::UnknownKey,
        ),
    ] {
        let jwt = signer.sign(&header, &claims());
        let refused = check(&jwt, signer.keys(), &oidc()).err();
        assert_eq!(refused, Some(expected), "{header}");
    }
}

#[test]
fn a_changed_jwt_is_refused() {
    let signer = Signer::new();
    let jwt = signer.sign(&ed_header(), &claims());
    let parts: Vec<_> = jwt.split('.').collect();
    let other = signer.sign(&ed_header(), &with("sub", json!("ben")));
    let other: Vec<_> = other.split('.').collect();
    let changed = format!("{}.{}.{}", parts[0], other[1], parts[2]);
    for jwt in [changed, format!("{}.{}.", parts[0], parts[1])] {
        let refused = check(&jwt, signer.keys(), &oidc()).err();
        assert_eq!(refused, Some(JwtError::Signature));
    }
    let stranger = Signer::new().sign(&ed_header(), &claims());
    let refused = check(&stranger, signer.keys(), &oidc()).err();
    assert_eq!(refused, Some(JwtError::Signature));
}

#[test]
fn a_jwt_without_a_key_id_gets_the_only_key_of_its_algorithm() {
    let signer = Signer::new();
    let jwt = signer.sign(&json!({ "alg": "EdDSA" }), &claims());
    assert!(check(&jwt, signer.keys(), &oidc()).is_ok());
    let two = [signer.keys(), Signer::new().keys()].concat();
    let refused = check(&jwt, two, &oidc()).err();
    assert_eq!(refused, Some(JwtError::UnknownKey));
}

#[test]
fn keys_for_other_purposes_are_skipped() {
    let keys = vec![
        json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "a" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "b", "use": "enc" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "c", "alg": "RS512" }),
        json!({ "kty": "EC", "crv": "P-384", "x": "AQAB", "y": "AQAB", "kid": "d" }),
        json!({ "kty": "RSA" }),
        json!("a key"),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "e" }),
    ];
    let keys = KeySet::from_json(keys);
    for id in ["a", "b", "c", "d", "e"] {
        for algorithm in provider::ALGORITHMS {
            let name = KeyName {
                id: Some(id.to_owned()),
                algorithm,
            };
            let is_found = keys.find(&name).is_some();
            let expected = id == "e" && algorithm == jsonwebtoken::Algorithm::RS256;
            assert_eq!(is_found, expected, "{id} {algorithm:?}");
        }
    }
}

#[test]
fn a_jwt_is_recognized_by_its_form() {
    let is_jwt = |bearer: &str| Jwt::recognize(bearer).map(|jwt| jwt.is_some());
    assert_eq!(is_jwt("eyJh.eyJz.c2ln").ok(), Some(true));
    for other in [
        "",
        "mcpu_1_2",
        "a.b",
        "a.b.c.d",
        "a.b.c.d.e",
        "a.b=.c",
        "a.b.c d",
    ] {
        assert_eq!(is_jwt(other).ok(), Some(false), "{other}");
    }
    let longest = format!("a.b.{}", "c".repeat(MAX_JWT - 4));
    assert_eq!(is_jwt(&longest).ok(), Some(true));
    let failure = is_jwt(&format!("{longest}c")).expect_err("refused");
    assert_eq!(failure.code, Code::Unauthenticated);
    assert!(!failure.message.contains("cccc"), "{failure}");
}

/// Returns the result for an ID token of the client `pages` with the nonce `n`, with other claims than usual.
fn check_id_token(changes: &[(&str, Value)]) -> Result<Caller, JwtError> {
    provider::install();
    let mut claims = with("aud", json!("pages"));
    claims["nonce"] = json!("n");
    for (name, value) in changes {
        claims[*name] = value.clone();
    }
    let signer = Signer::new();
    let jwt = signer.sign(&ed_header(), &claims);
    let name = key_name(&jwt)?;
    let key = KeySet::from_json(signer.keys()).find(&name);
    let expected = ExpectedSignin {
        client_id: "pages",
        nonce: "n",
    };
    verify_id_token(&jwt, &name, &key.expect("a key"), &oidc(), &expected)
}

#[test]
fn an_id_token_is_for_its_client() {
    let other_party = Some(JwtError::AuthorizedParty);
    let other_audience = Some(JwtError::Audience);
    for (audience, party, expected) in [
        (json!("pages"), json!(null), None),
        (json!(["pages"]), json!(null), None),
        (json!("pages"), json!("pages"), None),
        (json!(["other", "pages"]), json!("pages"), None),
        (
            json!("https://mcp.example.com"),
            json!(null),
            other_audience,
        ),
        (json!(["other"]), json!("pages"), other_audience),
        (json!(null), json!("pages"), Some(JwtError::Claim("aud"))),
        (json!(["other", "pages"]), json!(null), other_party),
        (json!("pages"), json!("other"), other_party),
        (json!("pages"), json!(7), other_party),
    ] {
        let shown = format!("{audience} {party}");
        let found = check_id_token(&[("aud", audience), ("azp", party)]);
        assert_eq!(found.err(), expected, "{shown}");
    }
}

#[test]
fn an_id_token_is_for_its_sign_in_and_names_a_caller_as_a_jwt_does() {
    let caller = check_id_token(&[("groups", json!(["admins"]))]).expect("a caller");
    assert!(caller.is_admin() && caller.user.as_str() == "ana");
    for nonce in [json!("other"), json!(null), json!(7)] {
        let found = check_id_token(&[("nonce", nonce)]);
        assert_eq!(found.err(), Some(JwtError::Nonce));
    }
    let found = check_id_token(&[("sub", json!("mcp-api"))]);
    assert_eq!(found.err(), Some(JwtError::User));
}
