//! One request and its whole answer, both bounded, over a connection of its own: one that was kept open may be closed
//! under the next request, and nobody could say whether that was read.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use url::Url;

use crate::workers::http_client::{StreamedResponse, client, describe};

/// How long a request may take in all.
const TIME: Duration = Duration::from_secs(30);
/// What an answer may be large.
const SIZE: usize = 256 * 1024;
/// Redirects of a GET that are followed, all within one origin.
const REDIRECTS: usize = 3;

pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// Why there is no answer. The sentence goes on after the name of whoever was asked.
#[derive(Debug)]
pub enum FetchError {
    /// Nothing was begun.
    Unreachable(String),
    /// It was begun, and may have been done.
    Broken(String),
}

impl FetchError {
    pub fn reason(self) -> String {
        match self {
            Self::Unreachable(reason) | Self::Broken(reason) => reason,
        }
    }
}

/// Gets a JSON document.
pub async fn get(url: &Url) -> Result<HttpResponse, FetchError> {
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        let answer = send(Method::GET, &url, HeaderMap::new(), Bytes::new()).await?;
        if !answer.status.is_redirection() {
            return Ok(answer);
        }
        let next = answer
            .headers
            .get(LOCATION)
            .and_then(|next| url.join(next.to_str().ok()?).ok());
        let next = next.filter(|next| next.origin() == url.origin());
        url = next.ok_or_else(|| FetchError::Broken("redirects to another origin".into()))?;
    }
    Err(FetchError::Broken(format!(
        "redirects more than {REDIRECTS} times"
    )))
}

/// Sends one request. Redirects are not followed: what is sent is meant for nobody else.
pub async fn send(
    method: Method,
    url: &Url,
    headers: HeaderMap,
    body: Bytes,
) -> Result<HttpResponse, FetchError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url
        .as_str()
        .parse()
        .map_err(|_| FetchError::Unreachable("has a URL that cannot be used".into()))?;
    *request.headers_mut() = headers;
    request
        .headers_mut()
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("application/json"));
    let answered = async {
        let response =
            client()
                .request(request)
                .await
                .map_err(|error| match error.is_connect() {
                    true => FetchError::Unreachable(format!(
                        "cannot be connected to: {}",
                        describe(&error)
                    )),
                    false => FetchError::Broken(format!(
                        "broke the connection off: {}",
                        describe(&error)
                    )),
                })?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(HttpResponse {
            status,
            headers,
            body: read(StreamedResponse::new(response)).await?,
        })
    };
    let late = |_| FetchError::Broken(format!("did not answer within {} seconds", TIME.as_secs()));
    tokio::time::timeout(TIME, answered).await.map_err(late)?
}

async fn read(mut response: StreamedResponse) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|why| FetchError::Broken(format!("broke off: {why}")))?
    {
        body.extend_from_slice(&chunk);
        if body.len() > SIZE {
            return Err(FetchError::Broken(format!(
                "answered with more than {} KiB",
                SIZE / 1024
            )));
        }
    }
    Ok(body)
}
