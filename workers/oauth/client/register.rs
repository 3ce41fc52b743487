//! Registers a client (RFC 7591).

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use url::Url;
use zeroize::Zeroizing;

use super::discovery::{AuthorizationServer, allowed};
use super::fetch::{FetchError, send};
use crate::core::model::grant::{ClientAuth, OAuthClient};

#[derive(Deserialize)]
struct RegisteredClient {
    client_id: String,
    client_secret: Option<Zeroizing<String>>,
    token_endpoint_auth_method: Option<ClientAuth>,
}

/// A new client. The sentence of a failure goes on after the server's name.
pub async fn register_client(
    site: &AuthorizationServer,
    redirect_uri: &str,
    scopes: &[String],
) -> Result<(OAuthClient, ClientAuth), String> {
    let AuthorizationServer {
        issuer,
        metadata,
        token_endpoint,
        ..
    } = site;
    let url = metadata
        .registration_endpoint
        .as_deref()
        .and_then(|url| Url::parse(url).ok());
    let url = url.ok_or_else(|| {
        format!("has the authorization server {issuer}, which registers no clients; give it a clientId that it knows")
    })?;
    allowed(&url, token_endpoint)?;
    let ways = ["none", "client_secret_basic", "client_secret_post"];
    let method = ways
        .into_iter()
        .find(|way| metadata.knows(way))
        .unwrap_or("client_secret_basic");
    let mut client = json!({
        "client_name": "MCP API",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
    });
    if !scopes.is_empty() {
        client["scope"] = scopes.join(" ").into();
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = send(Method::POST, &url, headers, Bytes::from(client.to_string())).await;
    let answer = answer
        .map_err(FetchError::reason)
        .map_err(|why| format!("has an authorization server that {why}"))?;
    let body = Zeroizing::new(answer.body);
    let registered = serde_json::from_slice::<RegisteredClient>(&body)
        .ok()
        .filter(|_| answer.status.is_success());
    let registered = registered.ok_or_else(|| {
        format!(
            "has an authorization server that answered {} and registered no client; give it a clientId that it knows",
            answer.status
        )
    })?;
    let RegisteredClient {
        client_id,
        client_secret,
        token_endpoint_auth_method,
    } = registered;
    let auth = token_endpoint_auth_method.unwrap_or_else(|| metadata.auth(client_secret.is_some()));
    Ok((
        OAuthClient {
            client_id,
            client_secret,
        },
        auth,
    ))
}
