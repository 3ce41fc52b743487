//! Finds the caller of a JWT of the OpenID Connect issuer, and of a person who signs in there.

mod claims;
mod fetch;
mod issuer_keys;
mod key_cache;
mod key_set;
mod provider;
mod signin_client;
mod signin_metadata;

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub(crate) use self::claims::{JwtError, is_mcp_endpoint};
use self::claims::{key_name, verify};
use self::issuer_keys::IssuerKeys;
use self::key_cache::MissingKey;
pub(crate) use self::signin_client::{SigninClient, SigninError, SigninSecrets};
use crate::config::Oidc;
use crate::core::failure::{Code, Failure};
use crate::core::model::caller::Caller;
use crate::time::clock::now_ms;

/// The path of the protected resource metadata. The metadata of an MCP endpoint have the path of the endpoint behind it.
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";
/// The longest JWT in bytes.
const MAX_JWT: usize = 16 * 1024;
/// The most verified JWTs that this process remembers.
const MAX_VERIFIED: usize = 10_000;

/// The bearer token of a request, in the form of a JWT. It is not verified.
pub struct Jwt {
    text: Zeroizing<String>,
    digest: [u8; 32],
}

impl Jwt {
    /// Returns the JWT if a bearer token has the form of a signed JWT: three parts of Base64.
    ///
    /// # Errors
    /// `unauthenticated` if the JWT is too long.
    pub fn recognize(bearer: &str) -> Result<Option<Self>, Failure> {
        let is_base64 = |part: &str| {
            part.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        if bearer.split('.').count() != 3 || !bearer.split('.').all(is_base64) {
            return Ok(None);
        }
        if bearer.len() > MAX_JWT {
            return Err(refused(JwtError::TooLong));
        }
        Ok(Some(Self {
            text: Zeroizing::new(bearer.to_owned()),
            digest: Sha256::digest(bearer.as_bytes()).into(),
        }))
    }
}

/// A verified JWT.
#[derive(Clone)]
struct Verified {
    caller: Arc<Caller>,
    /// The generation of the keys that verified it.
    generation: u64,
}

/// Verifies JWTs, each of them once.
pub(crate) struct JwtVerifier {
    oidc: Arc<Oidc>,
    keys: Arc<IssuerKeys>,
    verified: Cache<[u8; 32], Verified>,
    signin_client: Option<SigninClient>,
}

impl JwtVerifier {
    pub(crate) fn new(oidc: &Oidc) -> Self {
        provider::install();
        let oidc = Arc::new(oidc.clone());
        let keys = IssuerKeys::new(oidc.clone());
        Self {
            signin_client: SigninClient::new(&oidc, &keys),
            keys,
            oidc,
            verified: Cache::new(MAX_VERIFIED),
        }
    }

    /// Returns the client of the sign-in page, which verifies ID tokens with the keys of this verifier.
    pub(crate) fn signin_client(&self) -> Option<&SigninClient> {
        self.signin_client.as_ref()
    }

    /// Returns the caller of a JWT that this process has verified with the current keys.
    pub(crate) fn verified_caller(&self, jwt: &Jwt) -> Option<Arc<Caller>> {
        let verified = self.verified.get(&jwt.digest)?;
        let is_current = self.keys.generation() == Some(verified.generation);
        let is_valid = verified.caller.expires_at.is_none_or(|end| now_ms() < end);
        (is_current && is_valid).then_some(verified.caller)
    }

    /// Verifies a JWT and returns its caller.
    ///
    /// # Errors
    /// `unauthenticated` if the JWT is not accepted. `unavailable` if the issuer cannot be asked for its key.
    pub(crate) async fn verify(&self, jwt: &Jwt) -> Result<Arc<Caller>, Failure> {
        let name = key_name(&jwt.text).map_err(refused)?;
        let found = self.keys.find(&name).await.map_err(missing_key)?;
        let caller = verify(&jwt.text, &name, &found.key, &self.oidc).map_err(refused)?;
        let caller = Arc::new(caller);
        let verified = Verified {
            caller: caller.clone(),
            generation: found.generation,
        };
        self.verified.insert(jwt.digest, verified);
        Ok(caller)
    }
}

fn refused(error: JwtError) -> Failure {
    Failure::new(
        Code::Unauthenticated,
        format!("The JWT is refused, because {error}; get another JWT from the issuer"),
    )
}

fn missing_key(missing: MissingKey) -> Failure {
    match missing {
        MissingKey::Unknown => refused(JwtError::UnknownKey),
        MissingKey::Unreachable { retry_after } => Failure {
            retry_after: Some(whole_seconds(retry_after)),
            ..Failure::unavailable(
                "The JWT cannot be verified now, because the issuer (OIDC_ISSUER) cannot be asked for its keys; retry",
            )
        },
    }
}

/// Returns a time in whole seconds, at least one.
pub(crate) fn whole_seconds(time: Duration) -> u16 {
    let seconds = time.as_millis().div_ceil(1000).max(1);
    u16::try_from(seconds).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests;
