//! Authentication: finds the caller of a request by its `Authorization` header.

mod extract;
mod last_used;
pub(super) mod oidc;

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

pub(crate) use self::extract::{
    AdminCaller, AnyCaller, AuditCaller, MetricsCaller, SecretsCaller, TokensCaller, ToolsCaller,
};
use self::last_used::LastUsed;
use self::oidc::{Jwt, JwtVerifier, METADATA_PATH, SigninClient};
use crate::config::Access;
use crate::core::catalog::Catalog;
use crate::core::catalog::token_table::StoredToken;
use crate::core::failure::{Code, Failure};
use crate::core::ids::TokenId;
use crate::core::model::caller::{Caller, CallerKind};
use crate::core::model::token::{TOKEN_PREFIX, token_id};
use crate::time::clock::now_ms;

/// Returns whether a path needs no caller: the documentation, the metadata for OAuth clients, and the pages that a user's
/// browser opens. Those pages check signatures and sessions themselves.
pub(super) fn is_public_path(path: &str) -> bool {
    matches!(
        path,
        "/openapi.json"
            | "/docs"
            | "/auth/google/login"
            | "/auth/google/callback"
            | "/oauth/authorize"
            | "/oauth/callback"
            | "/oauth/client.json"
            | "/signin"
            | "/signin/start"
            | "/signin/callback"
            | "/signout"
            | "/connect"
            | METADATA_PATH
    ) || path.starts_with("/docs/")
        || path.starts_with("/connect/")
        || path
            .strip_prefix(METADATA_PATH)
            .is_some_and(|endpoint| endpoint.starts_with('/'))
}

/// The result of the synchronous part of an authentication.
pub enum Authentication {
    Caller(Arc<Caller>),
    /// The JWT of the request must be verified with [`Authenticator::verify`], which may ask the issuer.
    Jwt(Jwt),
}

/// Finds callers.
pub(super) struct Authenticator {
    /// The digest of `ADMIN_TOKEN`. Digests have one length, so the time of a comparison reveals nothing about the token.
    admin_digest: Option<[u8; 32]>,
    admin: Arc<Caller>,
    local: Arc<Caller>,
    is_configured: bool,
    jwt_verifier: Option<JwtVerifier>,
    last_used: LastUsed,
}

impl Authenticator {
    pub(super) fn new(access: &Access) -> Self {
        let admin_digest = access
            .admin_token
            .as_ref()
            .map(|token| Sha256::digest(token.as_bytes()).into());
        Self {
            admin_digest,
            admin: Arc::new(Caller::unrestricted(CallerKind::AdminToken)),
            local: Arc::new(Caller::unrestricted(CallerKind::Local)),
            is_configured: access.is_identity_configured(),
            jwt_verifier: access.oidc.as_ref().map(JwtVerifier::new),
            last_used: LastUsed::default(),
        }
    }

    /// Returns the caller of a request, or the JWT that must be verified first.
    ///
    /// # Errors
    /// `unauthenticated` if the request needs a token and has none, or if its token is wrong, expired or revoked.
    pub(super) fn authenticate(
        &self,
        headers: &HeaderMap,
        catalog: &Catalog,
    ) -> Result<Authentication, Failure> {
        let bearer = bearer_token(headers);
        let caller = match bearer {
            Some(bearer) if bearer.starts_with(TOKEN_PREFIX) => {
                self.token_caller(bearer, catalog)?
            }
            Some(bearer) if self.is_admin_token(bearer) => self.admin.clone(),
            _ if self.is_configured => return self.authenticate_jwt(bearer),
            _ => self.local.clone(),
        };
        Ok(Authentication::Caller(caller))
    }

    fn authenticate_jwt(&self, bearer: Option<&str>) -> Result<Authentication, Failure> {
        let verifier = self.jwt_verifier.as_ref();
        let (Some(bearer), Some(verifier)) = (bearer, verifier) else {
            return Err(no_token());
        };
        let jwt = Jwt::recognize(bearer)?.ok_or_else(no_token)?;
        Ok(match verifier.verified_caller(&jwt) {
            Some(caller) => Authentication::Caller(caller),
            None => Authentication::Jwt(jwt),
        })
    }

    /// Verifies a JWT and returns its caller.
    ///
    /// # Errors
    /// `unauthenticated` if the JWT is not accepted. `unavailable` if the issuer cannot be asked for its key.
    pub(super) async fn verify(&self, jwt: &Jwt) -> Result<Arc<Caller>, Failure> {
        match &self.jwt_verifier {
            Some(verifier) => verifier.verify(jwt).await,
            None => Err(no_token()),
        }
    }

    /// Returns the client of the sign-in page at the issuer, if people can sign in there.
    pub(super) fn signin_client(&self) -> Option<&SigninClient> {
        self.jwt_verifier.as_ref()?.signin_client()
    }

    /// Returns the caller of a text that a person typed: `ADMIN_TOKEN` or a token of a user.
    pub(super) fn caller_of_text(&self, text: &str, catalog: &Catalog) -> Option<Arc<Caller>> {
        if self.is_admin_token(text) {
            return Some(self.admin.clone());
        }
        self.token_caller(text, catalog).ok()
    }

    fn is_admin_token(&self, bearer: &str) -> bool {
        self.admin_digest.is_some_and(|expected| {
            let given = Sha256::digest(bearer.as_bytes());
            bool::from(given[..].ct_eq(&expected[..]))
        })
    }

    fn token_caller(&self, bearer: &str, catalog: &Catalog) -> Result<Arc<Caller>, Failure> {
        let now = now_ms();
        let caller = token_id(bearer)
            .and_then(|id| catalog.tokens.get(id))
            .filter(|stored| matches_token(bearer, stored) && stored.is_valid(now))
            .map(|stored| Arc::new(caller_of(stored)))
            .ok_or_else(token_ended)?;
        if let Some(token) = caller.token {
            self.last_used.record(token, now);
        }
        Ok(caller)
    }

    /// Returns the time at which this process last saw a token, in milliseconds since 1970.
    pub(super) fn last_used(&self, token: TokenId) -> Option<u64> {
        self.last_used.get(token)
    }
}

/// Checks that the authentication of a caller has not ended since the beginning of the request.
///
/// # Errors
/// `unauthenticated` if the token was revoked or has expired.
pub(super) fn check_still_valid(caller: &Caller, catalog: &Catalog) -> Result<(), Failure> {
    let now = now_ms();
    let is_revoked = caller.token.is_some_and(|token| {
        let stored = catalog.tokens.get(token);
        stored.is_none_or(|stored| stored.revoked_at().is_some())
    });
    let is_expired = caller.expires_at.is_some_and(|end| end <= now);
    if is_revoked || is_expired {
        return Err(token_ended());
    }
    Ok(())
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once([' ', '\t']))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
}

/// Returns the caller of a token that is valid now.
pub(super) fn caller_of_token(token: TokenId, catalog: &Catalog) -> Option<Caller> {
    let stored = catalog.tokens.get(token)?;
    stored.is_valid(now_ms()).then(|| caller_of(stored))
}

fn matches_token(bearer: &str, stored: &StoredToken) -> bool {
    let given = Sha256::digest(bearer.as_bytes());
    bool::from(given[..].ct_eq(&stored.digest.0[..]))
}

fn caller_of(stored: &StoredToken) -> Caller {
    Caller {
        kind: CallerKind::Token,
        user: stored.user.clone(),
        scopes: stored.scopes,
        servers: stored.servers(),
        token: Some(stored.id),
        subject: None,
        expires_at: stored.expires_at(),
    }
}

fn token_ended() -> Failure {
    unauthenticated("The token is wrong, has expired or was revoked; make a new token")
}

fn no_token() -> Failure {
    unauthenticated(
        "The header Authorization: Bearer <token> is missing or wrong; send ADMIN_TOKEN, a token of a user, or a JWT of \
         the issuer (OIDC_ISSUER)",
    )
}

fn unauthenticated(sentence: &str) -> Failure {
    Failure::new(Code::Unauthenticated, sentence)
}

#[cfg(test)]
mod tests;
