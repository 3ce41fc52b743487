//! A small client of the HTTP API.

use std::net::IpAddr;

use clap::Args;
use serde_json::Value;

use super::Ended;

/// Where the API is.
#[derive(Args)]
pub struct ApiArgs {
    /// The API's URL
    #[arg(long, default_value_t = default_url())]
    pub url: String,
    /// Where it is not that of the environment.
    #[arg(skip)]
    pub token: Option<String>,
}

pub fn default_url() -> String {
    std::env::var("MCP_API_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into())
}

/// Sends one request and gives its status and body. The token is taken from `ADMIN_TOKEN`.
pub async fn send(api: &ApiArgs, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value), String> {
    let url = format!("{}{path}", api.url.trim_end_matches('/'));
    let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let mut request = http(&url)?.request(method, &url);
    if let Some(token) = api.token.clone().or_else(|| std::env::var("ADMIN_TOKEN").ok()) {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await;
    let response = response.map_err(|_| format!("{} cannot be reached; is `mcp-api serve` running there?", api.url))?;
    let status = response.status().as_u16();
    let body = response.json().await.map_err(|_| format!("{url} answered {status} with something that is not JSON"))?;
    Ok((status, body))
}

/// A proxy's loopback is not ours: what listens on this machine is spoken to directly.
fn http(url: &str) -> Result<reqwest::Client, String> {
    let url = reqwest::Url::parse(url).map_err(|error| format!("{url} is not a URL: {error}"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let near = host.parse().map_or(host == "localhost", |ip: IpAddr| ip.is_loopback() || ip.is_unspecified());
    let client = reqwest::Client::builder();
    let client = if near { client.no_proxy() } else { client };
    client.build().map_err(|error| error.to_string())
}

/// Runs a client on a runtime of its own.
pub fn block_on(work: impl Future<Output = Ended>) -> Ended {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
