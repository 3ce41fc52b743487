//! The header and the claims of a JWT: which JWTs are accepted, and which caller each of them is.

use std::sync::Arc;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::key_set::KeyName;
use super::provider::ALGORITHMS;
use crate::config::{Audience, Oidc};
use crate::core::model::caller::{AllowedServers, Caller, CallerKind, Scope, is_reserved};
use crate::core::names::{ServerName, UserName};

/// The tolerance for the clock of the issuer, in seconds.
const TOLERANCE: u64 = 60;

/// The reason why a JWT is refused. No text repeats a part of the JWT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("it is longer than {} KiB", super::MAX_JWT / 1024)]
    TooLong,
    #[error("it cannot be read, or its algorithm is not RS256, ES256 or EdDSA")]
    Unreadable,
    #[error("the issuer has no key with its key id and its algorithm")]
    UnknownKey,
    #[error("its signature is wrong")]
    Signature,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    NotYetValid,
    #[error("another issuer made it")]
    Issuer,
    #[error("its audience is another service")]
    Audience,
    #[error("the claim {0} is missing or has another type")]
    Claim(&'static str),
    #[error("another client requested it")]
    AuthorizedParty,
    #[error("it belongs to another sign-in")]
    Nonce,
    #[error("the claim of OIDC_USER_CLAIM is missing or is no valid username")]
    User,
}

/// Returns the key that the header of a JWT names.
///
/// # Errors
/// Fails if the JWT cannot be read, or if its algorithm is not accepted.
pub(super) fn key_name(jwt: &str) -> Result<KeyName, JwtError> {
    let header = decode_header(jwt).map_err(|_| JwtError::Unreadable)?;
    // A recipient must refuse extensions that it does not understand (RFC 7515, section 4.1.11).
    if header.crit.is_some() || !ALGORITHMS.contains(&header.alg) {
        return Err(JwtError::Unreadable);
    }
    Ok(KeyName {
        id: header.kid,
        algorithm: header.alg,
    })
}

/// Verifies the signature and the claims of a JWT, and returns its caller.
///
/// # Errors
/// Fails if the signature is wrong or if a claim is not accepted.
pub(super) fn verify(
    jwt: &str,
    name: &KeyName,
    key: &DecodingKey,
    oidc: &Oidc,
) -> Result<Caller, JwtError> {
    let claims = signed_claims(jwt, name, key, oidc)?;
    check_audience(&claims, &oidc.audience)?;
    caller_of(&claims, oidc)
}

/// The sign-in that an ID token must belong to.
pub(super) struct ExpectedSignin<'a> {
    pub client_id: &'a str,
    pub nonce: &'a str,
}

/// Verifies an ID token (OpenID Connect Core 1.0, section 3.1.3.7), and returns its caller.
///
/// # Errors
/// Fails if the signature is wrong, if the token is for another client or another sign-in, or if a claim is not accepted.
pub(super) fn verify_id_token(
    jwt: &str,
    name: &KeyName,
    key: &DecodingKey,
    oidc: &Oidc,
    expected: &ExpectedSignin<'_>,
) -> Result<Caller, JwtError> {
    let claims = signed_claims(jwt, name, key, oidc)?;
    check_client(&claims, expected.client_id)?;
    if claims.get("nonce").and_then(Value::as_str) != Some(expected.nonce) {
        return Err(JwtError::Nonce);
    }
    caller_of(&claims, oidc)
}

/// Verifies the signature, the issuer and the times of a JWT, and returns its claims.
fn signed_claims(
    jwt: &str,
    name: &KeyName,
    key: &DecodingKey,
    oidc: &Oidc,
) -> Result<Map<String, Value>, JwtError> {
    let mut validation = Validation::new(name.algorithm);
    validation.leeway = TOLERANCE;
    validation.validate_nbf = true;
    // The audience can be the URL of any MCP endpoint, so the caller of this function checks it.
    validation.validate_aud = false;
    validation.set_issuer(&[&oidc.issuer_text]);
    validation.set_required_spec_claims(&["exp", "iss"]);
    let decoded = decode::<Map<String, Value>>(jwt, key, &validation);
    Ok(decoded.map_err(|error| error_of(error.kind()))?.claims)
}

/// Checks that an ID token is for a client. With several audiences, `azp` must name the client.
fn check_client(claims: &Map<String, Value>, client_id: &str) -> Result<(), JwtError> {
    let (is_audience, is_only_audience) = match claims.get("aud") {
        Some(Value::Array(audiences)) => (
            audiences.iter().any(|audience| audience == client_id),
            audiences.len() == 1,
        ),
        Some(Value::String(audience)) => (audience == client_id, true),
        _ => return Err(JwtError::Claim("aud")),
    };
    if !is_audience {
        return Err(JwtError::Audience);
    }
    match claims.get("azp") {
        None | Some(Value::Null) if is_only_audience => Ok(()),
        Some(party) if party == client_id => Ok(()),
        _ => Err(JwtError::AuthorizedParty),
    }
}

fn error_of(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::InvalidSignature | ErrorKind::InvalidKeyFormat => JwtError::Signature,
        ErrorKind::ExpiredSignature => JwtError::Expired,
        ErrorKind::ImmatureSignature => JwtError::NotYetValid,
        ErrorKind::InvalidIssuer => JwtError::Issuer,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            let known = ["exp", "iss", "nbf"].into_iter().find(|name| name == claim);
            known.map_or(JwtError::Unreadable, JwtError::Claim)
        }
        _ => JwtError::Unreadable,
    }
}

fn check_audience(claims: &Map<String, Value>, accepted: &Audience) -> Result<(), JwtError> {
    let accepts = |audience: &Value| {
        audience
            .as_str()
            .is_some_and(|text| is_accepted(text, accepted))
    };
    let is_accepted = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(accepts),
        Some(audience @ Value::String(_)) => accepts(audience),
        _ => return Err(JwtError::Claim("aud")),
    };
    if is_accepted {
        Ok(())
    } else {
        Err(JwtError::Audience)
    }
}

fn is_accepted(audience: &str, accepted: &Audience) -> bool {
    match accepted {
        Audience::Listed(listed) => listed.iter().any(|name| name == audience),
        Audience::Under(public) => audience.strip_prefix(public).is_some_and(|path| {
            // A client may write the URL of a host with a slash at its end.
            path.is_empty() || path == "/" || is_mcp_endpoint(path)
        }),
    }
}

/// Returns whether a path is the path of an MCP endpoint.
pub(crate) fn is_mcp_endpoint(path: &str) -> bool {
    let server = path
        .strip_prefix("/mcp/servers/")
        .and_then(|rest| rest.strip_suffix("/mcp"));
    path == "/mcp" || server.is_some_and(|name| name.parse::<ServerName>().is_ok())
}

fn caller_of(claims: &Map<String, Value>, oidc: &Oidc) -> Result<Caller, JwtError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let user = text(&oidc.user_claim)
        .and_then(|name| name.parse::<UserName>().ok())
        .filter(|user| !is_reserved(user))
        .ok_or(JwtError::User)?;
    let is_admin = oidc
        .admin_group
        .as_deref()
        .is_some_and(|group| is_member(claims.get(&oidc.groups_claim), group));
    let admin = is_admin.then_some(Scope::Admin);
    // An issuer may write a number with decimals.
    let expiry = claims.get("exp").and_then(Value::as_f64);
    let end = expiry.ok_or(JwtError::Claim("exp"))? as u64;
    Ok(Caller {
        kind: CallerKind::Oidc,
        user,
        scopes: [Scope::Tools, Scope::Secrets, Scope::Tokens]
            .into_iter()
            .chain(admin)
            .collect(),
        servers: AllowedServers::All,
        token: None,
        subject: text("sub").map(Arc::from),
        expires_at: Some(end.saturating_add(TOLERANCE).saturating_mul(1000)),
    })
}

/// Returns whether a claim is the group or a list with the group.
fn is_member(groups: Option<&Value>, group: &str) -> bool {
    match groups {
        Some(Value::Array(groups)) => groups.iter().any(|name| name == group),
        Some(name) => name == group,
        None => false,
    }
}
