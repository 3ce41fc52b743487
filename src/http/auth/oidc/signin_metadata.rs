//! The metadata of the issuer that a sign-in needs, cached.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::fetch::{FetchError, fetch_metadata};
use crate::config::Oidc;
use crate::http_client::HttpClient;
use crate::time::clock::monotonic;

/// The age at which the metadata are read again.
const OLD: Duration = Duration::from_secs(600);
/// The time between two reads as long as reads fail.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

/// The scopes with claims that can name a user.
const STANDARD_SCOPES: [&str; 2] = ["profile", "email"];

/// The fields of the metadata that a sign-in needs (OpenID Connect Discovery 1.0, section 3).
#[derive(Debug, Default, Deserialize)]
pub(super) struct SigninMetadata {
    pub authorization_endpoint: Option<String>,
    pub token_endpoint: Option<String>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    scopes_supported: Option<Vec<String>>,
    authorization_response_iss_parameter_supported: Option<bool>,
}

/// The way in which the client proves at the token endpoint which client it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ClientAuth {
    Basic,
    Post,
}

impl SigninMetadata {
    /// Returns the way in which a client with a secret authenticates, or `None` if the issuer accepts no secret.
    ///
    /// The default is `client_secret_basic`.
    pub(super) fn secret_auth(&self) -> Option<ClientAuth> {
        let Some(methods) = &self.token_endpoint_auth_methods_supported else {
            return Some(ClientAuth::Basic);
        };
        let supports = |name: &str| methods.iter().any(|method| method == name);
        if supports("client_secret_basic") {
            Some(ClientAuth::Basic)
        } else if supports("client_secret_post") {
            Some(ClientAuth::Post)
        } else {
            None
        }
    }

    /// Returns whether every response of the issuer to a browser names the issuer (RFC 9207).
    pub(super) fn names_issuer(&self) -> bool {
        self.authorization_response_iss_parameter_supported == Some(true)
    }

    /// Returns the scopes that make the issuer put the claims of the configuration into the ID token. An issuer may refuse
    /// a scope that it does not know.
    pub(super) fn scopes(&self, oidc: &Oidc) -> String {
        let of_user = (oidc.user_claim != "sub").then_some(STANDARD_SCOPES);
        let of_groups = oidc
            .admin_group
            .as_ref()
            .map(|_| oidc.groups_claim.as_str());
        let is_supported = |scope: &&str| match &self.scopes_supported {
            Some(supported) => supported.iter().any(|name| name == scope),
            // OpenID Connect defines these scopes for every issuer.
            None => STANDARD_SCOPES.contains(scope),
        };
        let wanted = of_user.into_iter().flatten().chain(of_groups);
        let scopes: Vec<_> = ["openid"]
            .into_iter()
            .chain(wanted.filter(is_supported))
            .collect();
        scopes.join(" ")
    }
}

/// The reason why there are no metadata.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("could not be asked a moment ago")]
    Paused { retry_after: Duration },
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// The cached metadata. One request at a time reads them, and other requests wait for it.
#[derive(Default)]
pub(super) struct MetadataCache(Mutex<Cached>);

#[derive(Default)]
struct Cached {
    found: Option<(Instant, Arc<SigninMetadata>)>,
    failed_at: Option<Instant>,
}

impl MetadataCache {
    /// Returns the metadata, and asks the issuer if necessary.
    ///
    /// # Errors
    /// Fails if the metadata cannot be read, or if a read has failed in the last five seconds.
    pub(super) async fn get(
        &self,
        http: &HttpClient,
        oidc: &Oidc,
    ) -> Result<Arc<SigninMetadata>, MetadataError> {
        let mut cached = self.0.lock().await;
        let now = monotonic();
        if let Some((read_at, metadata)) = &cached.found
            && now < *read_at + OLD
        {
            return Ok(metadata.clone());
        }
        if let Some(next_read) = cached.failed_at.map(|at| at + PAUSE)
            && now < next_read
        {
            let retry_after = next_read - now;
            return Err(MetadataError::Paused { retry_after });
        }
        match fetch_metadata::<SigninMetadata>(http, oidc).await {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                cached.found = Some((monotonic(), metadata.clone()));
                cached.failed_at = None;
                Ok(metadata)
            }
            Err(error) => {
                cached.failed_at = Some(monotonic());
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::auth::oidc::tests::oidc;

    fn metadata(document: Value) -> SigninMetadata {
        serde_json::from_value(document).expect("metadata")
    }

    #[test]
    fn a_secret_is_sent_as_the_issuer_accepts_it() {
        let methods = "token_endpoint_auth_methods_supported";
        for (document, expected) in [
            (json!({}), Some(ClientAuth::Basic)),
            (json!({ methods: null }), Some(ClientAuth::Basic)),
            (
                json!({ methods: ["client_secret_post", "client_secret_basic"] }),
                Some(ClientAuth::Basic),
            ),
            (
                json!({ methods: ["none", "client_secret_post"] }),
                Some(ClientAuth::Post),
            ),
            (json!({ methods: ["private_key_jwt"] }), None),
        ] {
            assert_eq!(
                metadata(document.clone()).secret_auth(),
                expected,
                "{document}"
            );
        }
    }

    #[test]
    fn only_scopes_for_the_configured_claims_are_requested() {
        let by_subject = Oidc {
            admin_group: None,
            ..oidc()
        };
        let by_mail = Oidc {
            user_claim: "email".to_owned(),
            ..oidc()
        };
        let all = json!({ "scopes_supported": ["openid", "profile", "email", "groups"] });
        for (document, oidc, expected) in [
            (all.clone(), &by_subject, "openid"),
            (all, &by_mail, "openid profile email groups"),
            (
                json!({ "scopes_supported": ["openid"] }),
                &by_mail,
                "openid",
            ),
            (json!({}), &by_mail, "openid profile email"),
        ] {
            assert_eq!(
                metadata(document.clone()).scopes(oidc),
                expected,
                "{document}"
            );
        }
    }
}
