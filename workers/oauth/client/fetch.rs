//! Sends one request and reads its whole response. Both are bounded, and the address is checked.
//!
//! Each request uses a connection of its own. A pooled connection may be closed while the next
//! request is sent, and then the worker cannot know whether the server has read that request.

use std::error::Error;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy;
use url::Url;
use zeroize::Zeroizing;

use super::address::{AddressPolicy, CheckedResolver, ForbiddenAddress};
use crate::http_client::{StreamedResponse, client_with_resolver, describe, uses_proxy};

/// The time limit of one request, from the connection to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response body in bytes, before and after it is decoded.
const MAX_BODY: usize = 256 * 1024;
/// The redirects of one GET request, which all stay within one origin.
const MAX_REDIRECTS: usize = 3;

/// A complete response. The body is decoded, and it is wiped when it is dropped, because it may hold
/// tokens.
pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Zeroizing<Vec<u8>>,
}

/// The reason why a request has no response. Each sentence continues after the name of the server.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("has a URL that cannot be used")]
    InvalidUrl,
    #[error("cannot be asked, because {0}")]
    Forbidden(ForbiddenAddress),
    #[error("cannot be connected to")]
    Connect(#[source] legacy::Error),
    #[error("broke the connection off")]
    Interrupted(#[source] legacy::Error),
    #[error("broke its response off: {reason}")]
    BodyInterrupted { reason: String },
    #[error("did not respond within {} seconds", REQUEST_TIMEOUT.as_secs())]
    TimedOut,
    #[error("responded with more than {} KiB", MAX_BODY / 1024)]
    TooLarge,
    #[error("responded with the content encoding {encoding}, which cannot be read")]
    UnknownEncoding { encoding: String },
    #[error("redirects to another origin")]
    CrossOriginRedirect,
    #[error("redirects more than {MAX_REDIRECTS} times")]
    TooManyRedirects,
}

impl FetchError {
    /// Returns whether the server may have executed the request.
    pub fn may_have_run(&self) -> bool {
        !matches!(
            self,
            Self::InvalidUrl | Self::Forbidden(_) | Self::Connect(_)
        )
    }
}

/// Returns the sentence of an error together with its innermost cause.
pub fn error_text(error: &(dyn Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", describe(source)),
        None => error.to_string(),
    }
}

/// Sends the requests that one MCP server causes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fetcher {
    policy: AddressPolicy,
}

impl Fetcher {
    /// Returns the fetcher for the MCP server at `server`. Its address decides which addresses the
    /// requests may reach.
    pub async fn for_server(server: &Url) -> Self {
        Self {
            policy: AddressPolicy::for_server(server).await,
        }
    }

    /// Gets a document, and follows redirects within its origin.
    ///
    /// # Errors
    /// Fails if there is no complete response, or if a redirect leaves the origin.
    pub async fn get(&self, url: &Url) -> Result<HttpResponse, FetchError> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self
                .send(Method::GET, &url, HeaderMap::new(), Bytes::new())
                .await?;
            if !response.status.is_redirection() {
                return Ok(response);
            }
            url =
                redirect_target(&url, &response.headers).ok_or(FetchError::CrossOriginRedirect)?;
        }
        Err(FetchError::TooManyRedirects)
    }

    /// Sends one request. Redirects are not followed, because the body is meant for this URL only.
    ///
    /// # Errors
    /// Fails if there is no complete response.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<HttpResponse, FetchError> {
        let request = build_request(method, url, headers, body)?;
        self.check_address(url, request.uri()).await?;
        tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(request))
            .await
            .map_err(|_| FetchError::TimedOut)?
    }

    async fn check_address(&self, url: &Url, uri: &Uri) -> Result<(), FetchError> {
        self.policy
            .check_literal(url)
            .map_err(FetchError::Forbidden)?;
        if uses_proxy(uri) {
            self.policy
                .check_proxied_name(url)
                .await
                .map_err(FetchError::Forbidden)?;
        }
        Ok(())
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<HttpResponse, FetchError> {
        let response = client_with_resolver(CheckedResolver(self.policy))
            .request(request)
            .await
            .map_err(|error| {
                if error.is_connect() {
                    FetchError::Connect(error)
                } else {
                    FetchError::Interrupted(error)
                }
            })?;
        let status = response.status();
        let headers = response.headers().clone();
        let encoded = read_body(StreamedResponse::new(response)).await?;
        Ok(HttpResponse {
            status,
            body: decode_body(&headers, encoded)?,
            headers,
        })
    }
}

fn redirect_target(url: &Url, headers: &HeaderMap) -> Option<Url> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let target = url.join(location).ok()?;
    (target.origin() == url.origin()).then_some(target)
}

fn build_request(
    method: Method,
    url: &Url,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, FetchError> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url.as_str().parse().map_err(|_| FetchError::InvalidUrl)?;
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers
        .entry(ACCEPT)
        .or_insert(HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(request)
}

async fn read_body(mut response: StreamedResponse) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let mut body = Zeroizing::new(Vec::new());
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| FetchError::BodyInterrupted {
            reason: error.to_string(),
        })?
    {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return Err(FetchError::TooLarge);
        }
    }
    Ok(body)
}

/// Decodes a body. Some servers encode it although the request asks for `identity`.
fn decode_body(
    headers: &HeaderMap,
    encoded: Zeroizing<Vec<u8>>,
) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let encoding = headers
        .get(CONTENT_ENCODING)
        .and_then(|encoding| encoding.to_str().ok())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match encoding.as_str() {
        "" | "identity" => Ok(encoded),
        "gzip" | "x-gzip" => inflate(flate2::read::MultiGzDecoder::new(encoded.as_slice())),
        "deflate" => inflate(flate2::read::ZlibDecoder::new(encoded.as_slice())),
        _ => Err(FetchError::UnknownEncoding { encoding }),
    }
}

fn inflate(decoder: impl Read) -> Result<Zeroizing<Vec<u8>>, FetchError> {
    let mut body = Zeroizing::new(Vec::new());
    let read = decoder.take(MAX_BODY as u64 + 1).read_to_end(&mut body);
    read.map_err(|error| FetchError::BodyInterrupted {
        reason: error.to_string(),
    })?;
    if body.len() > MAX_BODY {
        return Err(FetchError::TooLarge);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn a_server_of_the_internet_causes_no_request_to_this_machine() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1"] {
            let url = Url::parse(&format!("http://{host}:{port}/register")).expect("a URL");
            let remote = Url::parse("https://8.8.8.8/mcp").expect("a URL");
            let fetcher = Fetcher::for_server(&remote).await;
            let sent = fetcher.send(Method::POST, &url, HeaderMap::new(), Bytes::new());
            let error = sent.await.err().expect("refused");
            assert!(!error.may_have_run(), "{host}: {error:?}");
            assert!(
                error_text(&error).contains("loopback, private or link-local"),
                "{error:?}"
            );
        }
        let accepted = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
        assert!(accepted.is_err(), "a connection was opened");
    }

    #[test]
    fn encoded_bodies_are_decoded_within_the_limit() {
        let gzip = |plain: &[u8]| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(plain).expect("written");
            Zeroizing::new(encoder.finish().expect("finished"))
        };
        let decode = |encoding: &'static str, body| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            decode_body(&headers, body)
        };
        let decoded = decode("gzip", gzip(b"{}")).expect("decoded");
        assert_eq!(decoded.as_slice(), b"{}");
        let bomb = decode("GZIP", gzip(&vec![0; MAX_BODY + 1]));
        assert!(matches!(bomb, Err(FetchError::TooLarge)));
        let broken = decode("gzip", Zeroizing::new(b"{}".to_vec()));
        assert!(matches!(broken, Err(FetchError::BodyInterrupted { .. })));
        let unknown = decode("br", Zeroizing::new(vec![]));
        assert!(matches!(unknown, Err(FetchError::UnknownEncoding { .. })));
        let plain = decode("identity", Zeroizing::new(b"x".to_vec())).expect("plain");
        assert_eq!(plain.as_slice(), b"x");
    }
}
