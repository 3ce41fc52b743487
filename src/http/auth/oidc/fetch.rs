//! Sends requests to the issuer, and reads its documents: its metadata (OpenID Connect Discovery) and its keys (RFC 7517).

use std::time::Duration;

use axum::http::header::ACCEPT;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use super::key_set::KeySet;
use crate::config::{Oidc, is_protected};
use crate::http_client::{BodyError, HttpClient, StreamedResponse};

/// The time limit of one request, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;

/// The reason why the issuer cannot be asked. The texts continue after the name of the issuer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("has a URL that cannot be used")]
    InvalidUrl,
    #[error("cannot be reached")]
    Request(#[source] legacy::Error),
    #[error("broke its response off")]
    Body(#[source] BodyError),
    #[error("did not respond within {} seconds", REQUEST_TIMEOUT.as_secs())]
    TimedOut,
    #[error("responded with the status {0}")]
    Status(StatusCode),
    #[error("responded with more than {} KiB", MAX_DOCUMENT / 1024)]
    TooLarge,
    #[error("responded with a document that cannot be read")]
    Json(#[source] serde_json::Error),
    #[error("calls itself by another name than OIDC_ISSUER")]
    OtherIssuer,
    #[error("has an endpoint whose URL is neither https nor on loopback")]
    Unprotected,
}

impl FetchError {
    /// Returns whether the next request may succeed without a change of a configuration.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Request(_) | Self::Body(_) | Self::TimedOut => true,
            Self::Status(status) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::InvalidUrl
            | Self::TooLarge
            | Self::Json(_)
            | Self::OtherIssuer
            | Self::Unprotected => false,
        }
    }
}

/// The metadata, with the fields that the reader needs.
#[derive(Deserialize)]
struct Metadata<T> {
    issuer: String,
    #[serde(flatten)]
    fields: T,
}

#[derive(Deserialize)]
struct KeysLocation {
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Value>,
}

/// Reads the keys of an issuer.
///
/// # Errors
/// Fails if a document cannot be read within its limits, or if the metadata belong to another issuer.
pub(super) async fn fetch_keys(http: &HttpClient, oidc: &Oidc) -> Result<KeySet, FetchError> {
    let location: KeysLocation = fetch_metadata(http, oidc).await?;
    let url = protected_url(&location.jwks_uri)?;
    let keys: Keys = fetch_json(http, &url).await?;
    Ok(KeySet::from_json(keys.keys))
}

/// Reads fields of the metadata of an issuer.
///
/// # Errors
/// Fails if the document cannot be read within its limits, or if the metadata belong to another issuer.
pub(super) async fn fetch_metadata<T: DeserializeOwned>(
    http: &HttpClient,
    oidc: &Oidc,
) -> Result<T, FetchError> {
    let metadata: Metadata<T> = fetch_json(http, &metadata_url(&oidc.issuer)?).await?;
    if metadata.issuer != oidc.issuer_text {
        return Err(FetchError::OtherIssuer);
    }
    Ok(metadata.fields)
}

/// Returns the URL of an endpoint that the metadata name.
///
/// # Errors
/// Fails if the text is no URL, or if the network could change what the endpoint sends.
pub(super) fn protected_url(text: &str) -> Result<Url, FetchError> {
    let url = Url::parse(text).map_err(|_| FetchError::InvalidUrl)?;
    if is_protected(&url) {
        Ok(url)
    } else {
        Err(FetchError::Unprotected)
    }
}

/// Returns the URL of the metadata (OpenID Connect Discovery 1.0, section 4).
fn metadata_url(issuer: &Url) -> Result<Url, FetchError> {
    let issuer = issuer.as_str().trim_end_matches('/');
    Url::parse(&format!("{issuer}/.well-known/openid-configuration"))
        .map_err(|_| FetchError::InvalidUrl)
}

/// Gets a document. A redirect is an error, because it could lead to another origin.
async fn fetch_json<T: DeserializeOwned>(http: &HttpClient, url: &Url) -> Result<T, FetchError> {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = url.as_str().parse().map_err(|_| FetchError::InvalidUrl)?;
    let (status, body) = send(http, request).await?;
    if status != StatusCode::OK {
        return Err(FetchError::Status(status));
    }
    serde_json::from_slice(&body).map_err(FetchError::Json)
}

/// Sends a request and returns the status and the body of the response.
///
/// # Errors
/// Fails if the issuer does not respond within the limits.
pub(super) async fn send(
    http: &HttpClient,
    mut request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Zeroizing<Vec<u8>>), FetchError> {
    request
        .headers_mut()
        .insert(ACCEPT, HeaderValue::from_static("application/json"));
    let exchange = async {
        let response = http.request(request).await.map_err(FetchError::Request)?;
        let status = response.status();
        Ok((status, read_body(response).await?))
    };
    tokio::time::timeout(REQUEST_TIMEOUT, exchange)
        .await
        .map_err(|_| FetchError::TimedOut)?
}

async fn read_body(response: Response<Incoming>) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let mut response = StreamedResponse::new(response);
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response.chunk().await.map_err(FetchError::Body)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_DOCUMENT {
            return Err(FetchError::TooLarge);
        }
    }
    Ok(body)
}
