//! A small client of the HTTP API, for the commands of the command line.

use std::error::Error;
use std::sync::OnceLock;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::error::{CliError, CommandResult};
use crate::config::{BadConfig, ClientConfig, Env};
use crate::http_client;
use crate::http_client::{HttpClient, StreamedResponse};

/// The options of a command that is a client of the API.
#[derive(Args)]
pub struct ApiArgs {
    /// The URL of the API, instead of MCP_API_URL; the API gets the token of the command
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

/// The API of a command, behind `http://` or `https://`. TLS trusts the certificates of the system
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
    /// The URL is not shown, because it holds a password.
    #[error("the URL of the API contains a user or a password; remove them and set MCP_API_TOKEN")]
    UserInUrl,
    #[error("MCP_API_TOKEN (or ADMIN_TOKEN) contains a character that no token can have")]
    InvalidToken,
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
    /// The API replied that it cannot answer now. The text is its sentence.
    #[error("{0}")]
    Unavailable(String),
}

impl ClientError {
    /// Returns whether a later attempt may succeed. `retry` and the commands with `--follow` use this rule.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unavailable(_) => true,
            Self::NotJson { status, .. } => is_temporary_status(*status),
            _ => false,
        }
    }
}

/// Returns whether a status says that a later attempt may succeed.
pub(super) fn is_temporary_status(status: u16) -> bool {
    matches!(status, 429 | 502..=504)
}

/// The status and the JSON body of a response.
pub(super) type ApiResponse = Result<(u16, Value), ClientError>;

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
        let origin = self.url.split_once("://").map_or("", |(_, rest)| rest);
        if origin
            .split(['/', '?', '#'])
            .next()
            .is_some_and(|host| host.contains('@'))
        {
            return Err(ClientError::UserInUrl);
        }
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
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .map_err(|_| ClientError::InvalidToken)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default();
        request.body(Full::from(bytes)).map_err(invalid)
    }

    async fn respond(&self, request: Request<Full<Bytes>>) -> ApiResponse {
        let response = self.begin_response(request).await?;
        self.read_json(response).await
    }

    /// Sends a request and returns the response before its body.
    async fn begin_response(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let http = self.http.get_or_init(http_client::client);
        let response = http.request(request).await;
        response.map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, error: impl Into<Box<dyn Error + Send + Sync>>) -> ClientError {
        ClientError::Unreachable {
            url: self.url.clone(),
            source: error.into(),
        }
    }

    async fn read_json(&self, response: Response<Incoming>) -> ApiResponse {
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| self.unreachable(error))?.to_bytes();
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
pub(super) async fn send(
    api: &ApiClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> ApiResponse {
    api.respond(api.request(method, path, body)?).await
}

/// Sends a request and returns the body of its success.
///
/// # Errors
/// A failure of the API is `ClientError::Refused` or `ClientError::Unavailable` with its sentence.
pub(super) async fn send_for_success(
    api: &ApiClient,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, ClientError> {
    let (status, body) = send(api, method, path, body).await?;
    if body["success"] == true {
        return Ok(body);
    }
    Err(failed_response(status, &body))
}

/// Returns the failure of a response without success.
pub(super) fn failed_response(status: u16, body: &Value) -> ClientError {
    let text = error_text(body);
    if is_temporary_status(status) {
        ClientError::Unavailable(text)
    } else {
        ClientError::Refused(text)
    }
}

/// Opens an event stream that begins after an event.
///
/// # Errors
/// A failure of the API is `ClientError::Refused` or `ClientError::Unavailable` with its sentence.
pub(super) async fn open_stream(
    api: &ApiClient,
    path: &str,
    last_event: Option<&str>,
) -> Result<StreamedResponse, ClientError> {
    let mut request = api.request(Method::GET, path, None)?;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    if let Some(last) = last_event {
        let last = HeaderValue::from_str(last).map_err(|_| {
            ClientError::Refused("the id of an event is two numbers, such as 12.0".into())
        })?;
        headers.insert(HeaderName::from_static("last-event-id"), last);
    }
    let response = api.begin_response(request).await?;
    if response.status() == StatusCode::OK {
        return Ok(StreamedResponse::new(response));
    }
    let (status, body) = api.read_json(response).await?;
    Err(failed_response(status, &body))
}

/// Sends a request that the API executes as a job (`Prefer: respond-async`). A request with an idempotency key may be
/// sent again.
pub(super) async fn send_as_job(
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

/// Returns one segment of a path, percent-encoded.
pub(super) fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Returns the query of the parameters that have a value, with its `?`.
pub(super) fn query(parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    let query = query.finish();
    if query.is_empty() {
        query
    } else {
        format!("?{query}")
    }
}

/// Returns the sentence of a failed response, and its details below.
pub(super) fn error_text(body: &Value) -> String {
    let error = body["error"].as_str().unwrap_or("the API gave no reason");
    match body["details"].as_str() {
        Some(details) => format!("{error}\n{details}"),
        None => error.to_owned(),
    }
}

/// Runs a command on its own runtime.
pub(super) fn block_on(work: impl Future<Output = CommandResult>) -> CommandResult {
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

    #[test]
    fn no_error_shows_a_token_or_a_password() {
        for (url, token) in [("http://u:hidden@h", "t"), ("http://h", "hid\nden")] {
            let api = ApiClient::new(url.into(), Some(token.into()));
            let error = api.request(Method::GET, "/p", None).expect_err("an error");
            assert!(!format!("{error} {error:?}").contains("hid"), "{error:?}");
        }
    }

    #[test]
    fn a_query_has_only_the_given_parameters() {
        assert_eq!(query(&[("a", None)]), "");
        let given = [("a", Some("x y&z")), ("b", None), ("c", Some("ü"))];
        assert_eq!(query(&given), "?a=x+y%26z&c=%C3%BC");
        assert_eq!(path_segment("../a"), "%2E%2E%2Fa");
    }
}
