//! The door: who may come in. Behind it every request is from somebody who may do everything.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use super::host_check::check_host_and_origin;
use super::log_position::{LOG_POSITION, wait_for_log_position};
use crate::core::failure::{Code, Failure};
use crate::http::respond::json::ApiError;
use crate::http::state::ApiState;

/// Lets a request in, or says why not; every answer tells its position.
pub async fn authenticate_request(
    State(facade): State<Arc<ApiState>>,
    request: Request,
    next: Next,
) -> Response {
    let _under_way = facade.requests.token();
    // Nothing of the request is borrowed while something is waited for: its body is nobody's to share.
    let admitted = match admit(&facade, &request) {
        Ok(None) => Ok(()),
        Ok(Some(position)) => wait_for_log_position(&facade, &position).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = admitted {
        return ApiError(failure).into_response();
    }
    let mut response = next.run(request).await;
    let position = HeaderValue::from(facade.projection.position().0);
    response
        .headers_mut()
        .insert(LOG_POSITION.clone(), position);
    response
}

/// Whether the request may come in, and the position it has named.
fn admit(facade: &ApiState, request: &Request) -> Result<Option<HeaderValue>, Failure> {
    let path = request.uri().path();
    if path == "/healthz" || path == "/readyz" {
        return Ok(None);
    }
    match &facade.access.admin_token {
        Some(token) if !is_public_path(path) => authenticate(request.headers(), token)?,
        Some(_) => {}
        None => check_host_and_origin(request, &facade.access)?,
    }
    Ok(request.headers().get(&LOG_POSITION).cloned())
}

/// What anybody may open although there is a token: the documentation, and pages for a user's browser, which look
/// at a signature themselves.
fn is_public_path(path: &str) -> bool {
    let pages = [
        "/auth/google/login",
        "/auth/google/callback",
        "/oauth/authorize",
        "/oauth/callback",
        "/oauth/client.json",
    ];
    matches!(path, "/openapi.json" | "/docs") || path.starts_with("/docs/") || pages.contains(&path)
}

fn authenticate(headers: &HeaderMap, token: &str) -> Result<(), Failure> {
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.split_once(' '))
        .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    // Digests are of one length, so the comparison tells nothing about the token's.
    let (given, wanted) = (
        Sha256::digest(given.map_or("", |(_, token)| token.trim())),
        Sha256::digest(token),
    );
    if bool::from(given[..].ct_eq(&wanted[..])) {
        return Ok(());
    }
    Err(Failure::new(
        Code::Unauthenticated,
        "The header Authorization: Bearer <ADMIN_TOKEN> is missing or wrong",
    ))
}
