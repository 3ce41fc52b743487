//! Registers a client at an authorization server (RFC 7591).

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::discovery::{AuthorizationServer, InsecureUrl, require_secure};
use super::fetch::{FetchError, Fetcher};
use super::lenient::LenientText;
use crate::core::model::grant::{ClientAuth, OAuthClient};

/// The ways in which a registered client can authenticate, the preferred one first.
const AUTH_METHODS: [&str; 3] = ["none", "client_secret_basic", "client_secret_post"];

/// The response to a registration.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RegisteredClient {
    client_id: LenientText,
    client_secret: LenientText,
    token_endpoint_auth_method: LenientText,
}

/// The reason why no client was registered. The sentence continues after the name of the MCP server.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(
        "has the authorization server {issuer}, which registers no clients; give it a clientId that it knows"
    )]
    NotSupported { issuer: String },
    #[error(transparent)]
    Insecure(#[from] InsecureUrl),
    #[error("has an authorization server that did not register a client")]
    Request(#[source] FetchError),
    #[error(
        "has an authorization server that responded with {status} and registered no client; give it a clientId that it knows"
    )]
    Refused { status: StatusCode },
}

/// Registers a client, and returns it with the way in which it authenticates.
///
/// # Errors
/// Fails if the authorization server registers no clients or does not respond with a client.
pub async fn register_client(
    fetcher: Fetcher,
    server: &Url,
    authorization_server: &AuthorizationServer,
    redirect_uri: &str,
    scopes: &[String],
) -> Result<(OAuthClient, ClientAuth), RegistrationError> {
    let metadata = &authorization_server.metadata;
    let endpoint = metadata
        .registration_endpoint
        .as_deref()
        .and_then(|url| Url::parse(url).ok())
        .ok_or_else(|| RegistrationError::NotSupported {
            issuer: authorization_server.issuer.clone(),
        })?;
    require_secure(&endpoint, server)?;
    let request = registration_request(authorization_server, redirect_uri, scopes);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let response = fetcher
        .send(
            Method::POST,
            &endpoint,
            headers,
            Bytes::from(request.to_string()),
        )
        .await
        .map_err(RegistrationError::Request)?;
    let refused = || RegistrationError::Refused {
        status: response.status,
    };
    if !response.status.is_success() {
        return Err(refused());
    }
    let registered: RegisteredClient =
        serde_json::from_slice(&response.body).map_err(|_| refused())?;
    let client = OAuthClient {
        client_id: registered
            .client_id
            .as_str()
            .ok_or_else(refused)?
            .to_owned(),
        client_secret: registered.client_secret.into_text(),
    };
    let auth = registered
        .token_endpoint_auth_method
        .as_str()
        .and_then(|method| serde_json::from_value(method.into()).ok())
        .unwrap_or_else(|| metadata.client_auth(client.client_secret.is_some()));
    Ok((client, auth))
}

fn registration_request(
    authorization_server: &AuthorizationServer,
    redirect_uri: &str,
    scopes: &[String],
) -> Value {
    let method = AUTH_METHODS
        .into_iter()
        .find(|method| authorization_server.metadata.supports_auth_method(method))
        .unwrap_or("client_secret_basic");
    let mut request = json!({
        "client_name": "MCP API",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
    });
    if !scopes.is_empty() {
        request["scope"] = scopes.join(" ").into();
    }
    request
}
