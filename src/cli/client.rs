//! A small client of the HTTP API.

use clap::Args;
use serde_json::Value;

use super::Ended;

/// Where the API is.
#[derive(Args)]
pub struct ApiArgs {
    /// The API's URL
    #[arg(long, default_value_t = default_url())]
    url: String,
}

fn default_url() -> String {
    std::env::var("MCP_API_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".into())
}

/// Sends one request and gives its status and body. The token is taken from `ADMIN_TOKEN`.
pub async fn send(api: &ApiArgs, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value), String> {
    let url = format!("{}{path}", api.url.trim_end_matches('/'));
    let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    let mut request = reqwest::Client::new().request(method, &url);
    if let Ok(token) = std::env::var("ADMIN_TOKEN") {
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

/// Runs a client on a runtime of its own.
pub fn block_on(work: impl Future<Output = Ended>) -> Ended {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
