//! The client of the sign-in page at the issuer: the authorization code flow with PKCE (OpenID Connect Core 1.0, section
//! 3.1, and RFC 7636).

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use bytes::Bytes;
use http_body_util::Full;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use super::MAX_JWT;
use super::claims::{ExpectedSignin, JwtError, key_name, verify_id_token};
use super::fetch::{FetchError, protected_url, send};
use super::issuer_keys::IssuerKeys;
use super::key_cache::MissingKey;
use super::signin_metadata::{ClientAuth, MetadataCache, MetadataError, PAUSE, SigninMetadata};
use crate::config::{Oidc, OidcClient};
use crate::core::model::caller::Caller;
use crate::http_client::{HttpClient, client};

/// The most sign-ins that wait for the issuer at the same time.
const MAX_EXCHANGES: usize = 32;

/// The secret values of one sign-in.
pub struct SigninSecrets {
    pub state: Zeroizing<String>,
    pub nonce: Zeroizing<String>,
    /// The code verifier of PKCE: 43 characters.
    pub verifier: Zeroizing<String>,
}

/// The reason why a sign-in failed. The texts continue after "the issuer", and no text repeats a value of the sign-in.
#[derive(Debug, thiserror::Error)]
pub enum SigninError {
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Request(#[from] FetchError),
    #[error("cannot be asked for its keys")]
    Keys { retry_after: Duration },
    #[error("is asked by too many sign-ins at this moment")]
    TooMany,
    #[error("names no authorization endpoint or no token endpoint in its metadata")]
    NoEndpoint,
    #[error(
        "accepts neither client_secret_basic nor client_secret_post, so OIDC_CLIENT_SECRET cannot be used"
    )]
    NoSecretAuth,
    #[error("did not make this response")]
    OtherIssuer,
    #[error("accepts no code of this client ({0})")]
    Refused(String),
    #[error("sent no ID token")]
    NoIdToken,
    #[error("sent an ID token that is refused, because {0}")]
    IdToken(JwtError),
}

/// The response of a token endpoint (RFC 6749, sections 5.1 and 5.2).
#[derive(Deserialize)]
struct TokenResponse {
    id_token: Option<Zeroizing<String>>,
    error: Option<String>,
}

pub struct SigninClient {
    oidc: Arc<Oidc>,
    client: OidcClient,
    keys: Arc<IssuerKeys>,
    http: HttpClient,
    metadata: MetadataCache,
    exchanges: Semaphore,
}

impl SigninClient {
    /// Returns the client of the configuration, if it has one.
    pub fn new(oidc: &Arc<Oidc>, keys: &Arc<IssuerKeys>) -> Option<Self> {
        Some(Self {
            oidc: oidc.clone(),
            client: oidc.client.clone()?,
            keys: keys.clone(),
            http: client(),
            metadata: MetadataCache::default(),
            exchanges: Semaphore::new(MAX_EXCHANGES),
        })
    }

    /// Returns the host of the issuer, for people.
    pub fn issuer_host(&self) -> &str {
        self.oidc.issuer.host_str().unwrap_or_default()
    }

    /// Returns the parts of the configuration that say who signs in as which user. A session is valid with these parts only.
    pub fn configuration(&self) -> String {
        let oidc = &self.oidc;
        serde_json::json!([
            oidc.issuer_text,
            self.client.id,
            oidc.user_claim,
            oidc.groups_claim,
            oidc.admin_group,
        ])
        .to_string()
    }

    /// Returns the URL at which a person signs in. `is_another` makes the issuer ask for the account again.
    ///
    /// # Errors
    /// Fails if the metadata of the issuer cannot be read or name no usable endpoint.
    pub async fn authorization_url(
        &self,
        secrets: &SigninSecrets,
        is_another: bool,
    ) -> Result<Url, SigninError> {
        let metadata = self.metadata().await?;
        let endpoint = metadata.authorization_endpoint.as_deref();
        let mut url = protected_url(endpoint.ok_or(SigninError::NoEndpoint)?)?;
        let challenge = URL_SAFE.encode(Sha256::digest(secrets.verifier.as_bytes()));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.client.id)
            .append_pair("redirect_uri", &self.client.redirect_uri)
            .append_pair("scope", &metadata.scopes(&self.oidc))
            .append_pair("state", &secrets.state)
            .append_pair("nonce", &secrets.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if is_another {
            url.query_pairs_mut().append_pair("prompt", "login");
        }
        Ok(url)
    }

    /// Checks that the issuer made a response to a browser (RFC 9207).
    ///
    /// # Errors
    /// Fails if the response names another issuer, or if it names none although the issuer always names itself.
    pub async fn check_issuer(&self, named: Option<&str>) -> Result<(), SigninError> {
        let is_issuer = match named {
            Some(named) => named == self.oidc.issuer_text,
            None => !self.metadata().await?.names_issuer(),
        };
        if is_issuer {
            Ok(())
        } else {
            Err(SigninError::OtherIssuer)
        }
    }

    /// Exchanges a code for an ID token, verifies the token, and returns its caller.
    ///
    /// # Errors
    /// Fails if the issuer cannot be asked, refuses the code, or sends an ID token that is not accepted.
    pub async fn exchange(
        &self,
        code: &str,
        secrets: &SigninSecrets,
    ) -> Result<Caller, SigninError> {
        let _permit = self
            .exchanges
            .try_acquire()
            .map_err(|_| SigninError::TooMany)?;
        let id_token = self.request_id_token(code, &secrets.verifier).await?;
        if id_token.len() > MAX_JWT {
            return Err(SigninError::IdToken(JwtError::TooLong));
        }
        let name = key_name(&id_token).map_err(SigninError::IdToken)?;
        let found = self
            .keys
            .find(&name)
            .await
            .map_err(|missing| match missing {
                MissingKey::Unknown => SigninError::IdToken(JwtError::UnknownKey),
                MissingKey::Unreachable { retry_after } => SigninError::Keys { retry_after },
            })?;
        let expected = ExpectedSignin {
            client_id: &self.client.id,
            nonce: &secrets.nonce,
        };
        verify_id_token(&id_token, &name, &found.key, &self.oidc, &expected)
            .map_err(SigninError::IdToken)
    }

    async fn request_id_token(
        &self,
        code: &str,
        verifier: &str,
    ) -> Result<Zeroizing<String>, SigninError> {
        let metadata = self.metadata().await?;
        let endpoint = metadata.token_endpoint.as_deref();
        let url = protected_url(endpoint.ok_or(SigninError::NoEndpoint)?)?;
        let request = self.token_request(&url, &metadata, code, verifier)?;
        let (status, body) = send(&self.http, request).await?;
        // The error of the parser is left out, because it could repeat a part of the response.
        let response = serde_json::from_slice::<TokenResponse>(&body).ok();
        let error = response
            .as_ref()
            .and_then(|response| response.error.clone());
        if let Some(error) = error {
            return Err(SigninError::Refused(error));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status).into());
        }
        let id_token = response.and_then(|response| response.id_token);
        id_token.ok_or(SigninError::NoIdToken)
    }

    fn token_request(
        &self,
        url: &Url,
        metadata: &SigninMetadata,
        code: &str,
        verifier: &str,
    ) -> Result<Request<Full<Bytes>>, SigninError> {
        let client = &self.client;
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &client.redirect_uri)
            .append_pair("code_verifier", verifier);
        let mut credentials = None;
        match &client.secret {
            None => {
                form.append_pair("client_id", &client.id);
            }
            Some(secret) => match metadata.secret_auth().ok_or(SigninError::NoSecretAuth)? {
                ClientAuth::Basic => credentials = Some(basic_credentials(&client.id, secret)?),
                ClientAuth::Post => {
                    form.append_pair("client_id", &client.id)
                        .append_pair("client_secret", secret);
                }
            },
        }
        let body = Zeroizing::new(form.finish().into_bytes());
        let mut request = Request::new(Full::new(Bytes::from_owner(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = url.as_str().parse().map_err(|_| FetchError::InvalidUrl)?;
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form_type);
        if let Some(credentials) = credentials {
            request.headers_mut().insert(AUTHORIZATION, credentials);
        }
        Ok(request)
    }

    async fn metadata(&self) -> Result<Arc<SigninMetadata>, MetadataError> {
        self.metadata.get(&self.http, &self.oidc).await
    }
}

impl SigninError {
    /// Returns the time after which a new sign-in makes sense, if the issuer cannot be asked now.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Metadata(MetadataError::Paused { retry_after }) | Self::Keys { retry_after } => {
                Some(*retry_after)
            }
            Self::Metadata(MetadataError::Fetch(error)) | Self::Request(error) => {
                error.is_temporary().then_some(PAUSE)
            }
            Self::TooMany => Some(PAUSE),
            _ => None,
        }
    }
}

/// Returns the value of `Authorization`. RFC 6749, section 2.3.1, encodes the id and the secret as in a form.
fn basic_credentials(id: &str, secret: &str) -> Result<HeaderValue, SigninError> {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encode(id), encode(secret)));
    let text = Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).map_err(|_| SigninError::NoSecretAuth)?;
    value.set_sensitive(true);
    Ok(value)
}
