//! A small client of the HTTP API.

use std::net::IpAddr;
use std::sync::OnceLock;

use clap::Args;
use serde_json::Value;

use super::CommandResult;
use crate::config::{BadConfig, ClientConfig, Env};

/// Where the API is.
#[derive(Args)]
pub struct ApiArgs {
    /// The API's URL, instead of MCP_API_URL
    #[arg(long)]
    url: Option<String>,
}

/// An API to speak to.
pub struct ApiClient {
    pub url: String,
    pub token: Option<String>,
    http: OnceLock<reqwest::Client>,
}

impl ApiClient {
    pub fn new(url: String, token: Option<String>) -> Self {
        Self {
            url,
            token,
            http: OnceLock::new(),
        }
    }

    /// Made with the first request; its connections serve the others.
    fn http(&self, url: &str) -> Result<reqwest::Client, String> {
        match self.http.get() {
            Some(client) => Ok(client.clone()),
            None => http(url).map(|client| self.http.get_or_init(|| client).clone()),
        }
    }
}

impl ApiArgs {
    /// The variables say what the arguments do not, in the environment or in `.env`.
    pub fn api(&self) -> Result<ApiClient, BadConfig> {
        let ClientConfig { url, token } = ClientConfig::read(&Env::of_process()?)?;
        Ok(ApiClient::new(self.url.clone().unwrap_or(url), token))
    }
}

/// Sends one request and gives its status and body.
pub async fn send(
    api: &ApiClient,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<(u16, Value), String> {
    answer(api, request(api, method, path, body)?).await
}

/// Sends a request that is to be answered later, as a job. Under the same key it may be sent again.
pub async fn send_later(
    api: &ApiClient,
    method: &str,
    path: &str,
    body: Value,
    key: Option<&str>,
) -> Result<(u16, Value), String> {
    let mut request = request(api, method, path, Some(body))?.header("prefer", "respond-async");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    answer(api, request).await
}

fn request(
    api: &ApiClient,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<reqwest::RequestBuilder, String> {
    let url = format!("{}{path}", api.url.trim_end_matches('/'));
    let method =
        reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let mut request = api.http(&url)?.request(method, &url);
    if let Some(token) = &api.token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    Ok(request)
}

async fn answer(api: &ApiClient, request: reqwest::RequestBuilder) -> Result<(u16, Value), String> {
    let response = request.send().await;
    let response = response.map_err(|_| {
        format!(
            "{} cannot be reached; is `mcp-api serve` running there?",
            api.url
        )
    })?;
    let status = response.status().as_u16();
    let body = response.json().await;
    let body = body.map_err(|_| {
        format!(
            "{} answered {status} with something that is not JSON",
            api.url
        )
    })?;
    Ok((status, body))
}

/// A proxy's loopback is not ours: what listens on this machine is spoken to directly.
fn http(url: &str) -> Result<reqwest::Client, String> {
    let url = reqwest::Url::parse(url).map_err(|error| format!("{url} is not a URL: {error}"))?;
    if url.scheme() != "http" {
        return Err(format!(
            "{url} cannot be spoken to: this client speaks http:// only"
        ));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let near = host.parse().map_or(host == "localhost", |ip: IpAddr| {
        ip.is_loopback() || ip.is_unspecified()
    });
    let client = reqwest::Client::builder();
    let client = if near { client.no_proxy() } else { client };
    client.build().map_err(|error| error.to_string())
}

/// Runs a client on a runtime of its own.
pub fn block_on(work: impl Future<Output = CommandResult>) -> CommandResult {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}
