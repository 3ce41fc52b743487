//! A sign-in at the issuer that a browser has begun.
//!
//! The browser that begins a sign-in must be the browser that ends it. A signed cookie names the sign-in, and `state`,
//! `nonce` and the code verifier are signatures of this name. So the cookie holds none of them, and every process of the
//! deployment can end the sign-in.

use axum::http::{HeaderMap, HeaderValue};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::core::failure::{Code, Failure};
use crate::http::auth::oidc::SigninSecrets;
use crate::http::respond::cookie::{SIGN_IN_LIFETIME, SignedCookie, sign_in_expiry};
use crate::http::state::ApiState;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_seconds;

const STATE_PURPOSE: &str = "sign-in state";
const NONCE_PURPOSE: &str = "sign-in nonce";
const VERIFIER_PURPOSE: &str = "sign-in verifier";
/// The longest `next` in bytes, because browsers drop a cookie of more than 4096 bytes.
const MAX_NEXT: usize = 2600;

const COOKIE: SignedCookie = SignedCookie {
    name: "mcp_api_signin",
    path: "/signin",
    purpose: "sign-in cookie",
    lifetime: SIGN_IN_LIFETIME,
};

/// The content of the cookie.
#[derive(Serialize, Deserialize)]
pub(super) struct PendingSignin {
    id: Uuid,
    /// The page to which the sign-in leads, or `None` if its path is too long for a cookie.
    pub next: Option<String>,
    /// Seconds since 1970.
    until: u64,
}

impl PendingSignin {
    /// Begins a sign-in that is valid for ten minutes.
    pub(super) fn new(next: &str) -> Self {
        Self {
            id: Uuid::new_v4(),
            next: (next.len() <= MAX_NEXT).then(|| next.to_owned()),
            until: sign_in_expiry(),
        }
    }

    /// Returns the sign-in that this browser has begun.
    ///
    /// # Errors
    /// `forbidden` if the browser has begun no sign-in in the last ten minutes, or if `state` belongs to another sign-in.
    pub(super) fn read(
        state: &ApiState,
        headers: &HeaderMap,
        given: &str,
    ) -> Result<Self, Failure> {
        let pending = COOKIE
            .read::<Self>(state, headers)
            .filter(|pending| now_seconds() <= pending.until)
            .ok_or_else(|| {
                Failure::new(
                    Code::Forbidden,
                    "This browser did not begin this sign-in within the last ten minutes; sign in again",
                )
            })?;
        let signature = URL_SAFE.decode(given).unwrap_or_default();
        let id = pending.id.to_string();
        if state.sealer().is_signed(STATE_PURPOSE, &id, &signature) {
            Ok(pending)
        } else {
            Err(Failure::new(
                Code::Forbidden,
                "This browser has begun another sign-in since; end that one, or sign in again",
            ))
        }
    }

    /// Returns the secret values of the sign-in.
    ///
    /// # Errors
    /// `internal` if the key cannot be used.
    pub(super) fn secrets(&self, state: &ApiState) -> Result<SigninSecrets, Failure> {
        let id = self.id.to_string();
        let secret = |purpose| {
            let signature = state.sealer().sign(purpose, &id).map_err(internal_error)?;
            Ok::<_, Failure>(Zeroizing::new(URL_SAFE.encode(signature)))
        };
        Ok(SigninSecrets {
            state: secret(STATE_PURPOSE)?,
            nonce: secret(NONCE_PURPOSE)?,
            verifier: secret(VERIFIER_PURPOSE)?,
        })
    }

    /// Returns the header that makes the browser remember the sign-in.
    ///
    /// # Errors
    /// `internal` if the cookie cannot be signed.
    pub(super) fn cookie(&self, state: &ApiState) -> Result<HeaderValue, Failure> {
        COOKIE.issue(state, self)
    }
}

/// Returns the header that makes the browser forget the sign-in.
///
/// # Errors
/// `internal` if the header cannot be made.
pub(super) fn forget_pending(state: &ApiState) -> Result<HeaderValue, Failure> {
    COOKIE.remove(state)
}
