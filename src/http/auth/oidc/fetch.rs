//! Reads the documents of the issuer: its metadata (OpenID Connect Discovery) and its keys (RFC 7517).

use std::time::Duration;

use axum::http::header::ACCEPT;
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::key_set::KeySet;
use crate::config::{Oidc, is_protected};
use crate::http_client::{BodyError, HttpClient, StreamedResponse};

/// The time limit of one request, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;

/// The reason why the keys of the issuer cannot be read. The texts continue after the name of the issuer.
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
    #[error("has its keys at a URL that is neither https nor on loopback")]
    UnprotectedKeys,
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
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
pub async fn fetch_keys(http: &HttpClient, oidc: &Oidc) -> Result<KeySet, FetchError> {
    let metadata: Metadata = fetch_json(http, &metadata_url(&oidc.issuer)?).await?;
    if metadata.issuer != oidc.issuer_text {
        return Err(FetchError::OtherIssuer);
    }
    let url = Url::parse(&metadata.jwks_uri).map_err(|_| FetchError::InvalidUrl)?;
    if !is_protected(&url) {
        return Err(FetchError::UnprotectedKeys);
    }
    let keys: Keys = fetch_json(http, &url).await?;
    Ok(KeySet::from_json(keys.keys))
}

/// Returns the URL of the metadata (OpenID Connect Discovery 1.0, section 4).
fn metadata_url(issuer: &Url) -> Result<Url, FetchError> {
    let issuer = issuer.as_str().trim_end_matches('/');
    Url::parse(&format!("{issuer}/.well-known/openid-configuration"))
        .map_err(|_| FetchError::InvalidUrl)
}

async fn fetch_json<T: DeserializeOwned>(http: &HttpClient, url: &Url) -> Result<T, FetchError> {
    let body = tokio::time::timeout(REQUEST_TIMEOUT, fetch(http, url))
        .await
        .map_err(|_| FetchError::TimedOut)??;
    serde_json::from_slice(&body).map_err(FetchError::Json)
}

/// Gets a document. A redirect is an error, because it could lead to another origin.
async fn fetch(http: &HttpClient, url: &Url) -> Result<Vec<u8>, FetchError> {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = url.as_str().parse().map_err(|_| FetchError::InvalidUrl)?;
    request
        .headers_mut()
        .insert(ACCEPT, HeaderValue::from_static("application/json"));
    let response = http.request(request).await.map_err(FetchError::Request)?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status(response.status()));
    }
    let mut response = StreamedResponse::new(response);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(FetchError::Body)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_DOCUMENT {
            return Err(FetchError::TooLarge);
        }
    }
    Ok(body)
}
