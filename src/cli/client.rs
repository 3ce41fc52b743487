//! A small client of the HTTP API, for the commands of the command line.

use std::error::Error;
use std::sync::OnceLock;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use serde_json::Value;

use super::error::{CliError, CommandResult};
use crate::config::{BadConfig, ClientConfig, Env};
use crate::http_client;
use crate::http_client::HttpClient;

/// The options of a command that is a client of the API.
#[derive(Args)]
pub struct ApiArgs {
    /// The URL of the API, instead of MCP_API_URL
    #[arg(long)]
    url: Option<String>,
}

impl ApiArgs {
    /// Returns a client for the API that the arguments or the variables name.
    pub fn api(&self) -> Result<ApiClient, BadConfig> {
        let ClientConfig { url, token } = ClientConfig::read(&Env::of_process()?)?;
        Ok(ApiClient::new(self.url.clone().unwrap_or(url), token))
    }
}

/// An API that a command talks to. It speaks `http://` and `https://`. TLS trusts the certificates of the system
/// (`SSL_CERT_FILE` names other certificates) and those of Mozilla.
pub struct ApiClient {
    pub url: String,
    pub token: Option<String>,
    http: OnceLock<HttpClient>,
}

/// The reason why a request has no answer of the API.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{url} is not a URL; write for example https://mcp.example.com")]
    InvalidUrl {
        url: String,
        #[source]
        source: hyper::http::Error,
    },
    #[error("{url} does not begin with http:// or https://")]
    UnsupportedScheme { url: String },
    #[error("cannot reach {url}; check that `mcp-api serve` runs there")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("{url} replied {status} without JSON; check that the URL is the one of an mcp-api")]
    NotJson {
        url: String,
        status: u16,
        #[source]
        source: serde_json::Error,
    },
    /// The API replied with a failure. The text is its sentence.
    #[error("{0}")]
    Refused(String),
}

/// The status and the JSON body of a response.
pub type ApiResponse = Result<(u16, Value), ClientError>;

impl ApiClient {
    pub fn new(url: String, token: Option<String>) -> Self {
        Self {
            url,
            token,
            http: OnceLock::new(),
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let url = format!("{}{path}", self.url.trim_end_matches('/'));
        let invalid = |source: hyper::http::Error| ClientError::InvalidUrl {
            url: url.clone(),
            source,
        };
        let uri: Uri = url
            .parse()
            .map_err(|error| invalid(hyper::http::Error::from(error)))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(ClientError::UnsupportedScheme { url });
        }
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::from(bytes)).map_err(invalid)
    }

    async fn respond(&self, request: Request<Full<Bytes>>) -> ApiResponse {
        let unreachable = |source| ClientError::Unreachable {
            url: self.url.clone(),
            source,
        };
        let http = self.http.get_or_init(http_client::client);
        let response = http.request(request).await;
        let response = response.map_err(|error| unreachable(error.into()))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| unreachable(error.into()))?.to_bytes();
        let json = serde_json::from_slice(&body);
        let json = json.map_err(|source| ClientError::NotJson {
            url: self.url.clone(),
            status,
            source,
        })?;
        Ok((status, json))
    }
}

/// Sends a request.
pub async fn send(
    api: &ApiClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> ApiResponse {
    api.respond(api.request(method, path, body)?).await
}

/// Sends a request that the API executes as a job (`Prefer: respond-async`). A request with an idempotency key may be
/// sent again.
pub async fn send_as_job(
    api: &ApiClient,
    path: &str,
    body: &Value,
    idempotency_key: Option<&str>,
) -> ApiResponse {
    let mut request = api.request(Method::POST, path, Some(body))?;
    let headers = request.headers_mut();
    headers.insert(
        HeaderName::from_static("prefer"),
        HeaderValue::from_static("respond-async"),
    );
    if let Some(key) = idempotency_key.and_then(|key| HeaderValue::from_str(key).ok()) {
        headers.insert(HeaderName::from_static("idempotency-key"), key);
    }
    api.respond(request).await
}

/// Returns the sentence of a failed response, and its details below.
pub fn error_text(body: &Value) -> String {
    let error = body["error"].as_str().unwrap_or("the API gave no reason");
    match body["details"].as_str() {
        Some(details) => format!("{error}\n{details}"),
        None => error.to_owned(),
    }
}

/// Runs a command on its own runtime.
pub fn block_on(work: impl Future<Output = CommandResult>) -> CommandResult {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_http_or_https_is_refused() {
        for url in ["ftp://h", "h", "", "not a url"] {
            let api = ApiClient::new(url.into(), None);
            assert!(api.request(Method::GET, "/p", None).is_err(), "{url:?}");
        }
        let api = ApiClient::new("https://h/base/".into(), Some("t".into()));
        let request = api.request(Method::GET, "/p?a=b", None).expect("a request");
        assert_eq!(request.uri().to_string(), "https://h/base/p?a=b");
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer t");
    }
}
