//! Authentication with `ADMIN_TOKEN`.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use crate::core::failure::{Code, Failure};

/// Returns whether a path needs no token: the documentation, and the pages that a user's browser
/// opens. Those pages check a signature themselves.
pub fn is_public_path(path: &str) -> bool {
    matches!(
        path,
        "/openapi.json"
            | "/docs"
            | "/auth/google/login"
            | "/auth/google/callback"
            | "/oauth/authorize"
            | "/oauth/callback"
            | "/oauth/client.json"
    ) || path.starts_with("/docs/")
}

/// Checks the bearer token of a request.
///
/// # Errors
/// `unauthenticated`.
pub fn authenticate_request(headers: &HeaderMap, token: &str) -> Result<(), Failure> {
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, given)| given.trim());
    // Digests have one length, so the time of the comparison reveals nothing about the token.
    let given = Sha256::digest(given);
    let expected = Sha256::digest(token);
    if bool::from(given[..].ct_eq(&expected[..])) {
        return Ok(());
    }
    Err(Failure::new(
        Code::Unauthenticated,
        "The header Authorization: Bearer <ADMIN_TOKEN> is missing or wrong",
    ))
}
