//! Finds the authorization server of an MCP server: with the metadata of the MCP server (RFC 9728) and
//! of the authorization server (RFC 8414, OpenID Connect Discovery). Without metadata of the MCP
//! server, it uses the rules of MCP 2025-03-26.

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::fetch::{FetchError, Fetcher};
use super::lenient::{flag_field, list_field, text_field};
use super::www_authenticate::Challenges;
use crate::core::loopback::is_loopback;
use crate::core::model::grant::ClientAuth;

/// The request without a token. Its refusal names the metadata of the MCP server.
const PROBE: &[u8] = br#"{"jsonrpc":"2.0","id":"c0","method":"ping"}"#;

/// The authorization server of an MCP server.
#[derive(Debug)]
pub struct AuthorizationServer {
    pub issuer: String,
    /// The resource that the tokens are for (RFC 8707).
    pub resource: String,
    /// The scopes that the MCP server asks for.
    pub scopes: Vec<String>,
    pub token_endpoint: Url,
    pub metadata: ServerMetadata,
}

/// The fields of an authorization server's metadata that the program uses.
#[derive(Debug, Default)]
pub struct ServerMetadata {
    issuer: String,
    pub authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    pub registration_endpoint: Option<String>,
    code_challenge_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Vec<String>,
    pub scopes_supported: Vec<String>,
    pub client_id_metadata_document_supported: bool,
    pub authorization_response_iss_parameter_supported: bool,
}

/// The fields of an MCP server's metadata that the program uses.
struct ResourceMetadata {
    resource: String,
    authorization_servers: Vec<String>,
    scopes_supported: Vec<String>,
}

/// The reason why no authorization server was found. Each sentence continues after the name of the
/// MCP server.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    #[error("names metadata at another origin, which is refused")]
    ForeignMetadata,
    #[error("names another resource in its metadata than itself, which is refused")]
    OtherResource,
    #[error("names no authorization server in its metadata")]
    NoAuthorizationServer,
    #[error("names an authorization server that is no URL")]
    InvalidIssuer,
    #[error("names the authorization server {issuer}, which has no metadata")]
    NoMetadata { issuer: String },
    #[error("names the authorization server {issuer}, whose metadata are another one's")]
    OtherIssuer { issuer: String },
    #[error("has the authorization server {issuer}, which names no token endpoint")]
    NoTokenEndpoint { issuer: String },
    #[error(transparent)]
    Insecure(#[from] InsecureUrl),
    #[error("has metadata that cannot be loaded: the server")]
    ResourceMetadata(#[source] DocumentError),
    #[error("has an authorization server whose metadata cannot be loaded: it")]
    ServerMetadata(#[source] DocumentError),
}

/// The reason why a document cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("responded with {0}")]
    Status(StatusCode),
}

/// A URL of an authorization server that is not protected by TLS.
#[derive(Debug, thiserror::Error)]
#[error("has an authorization server without https, which is refused")]
pub struct InsecureUrl;

/// Returns the authorization server of the MCP server at `server`.
///
/// # Errors
/// Fails if the metadata cannot be loaded, contradict each other or name no usable endpoint.
pub async fn discover(
    fetcher: Fetcher,
    server: &Url,
) -> Result<AuthorizationServer, DiscoveryError> {
    let challenges = probe(fetcher, server).await;
    let scope = challenges.parameter("scope");
    let location = challenges.parameter("resource_metadata");
    let Some(resource) = load_resource_metadata(fetcher, server, location).await? else {
        return discover_at_origin(fetcher, server, split_scopes(scope)).await;
    };
    if !covers(&resource.resource, server) {
        return Err(DiscoveryError::OtherResource);
    }
    let issuer = resource
        .authorization_servers
        .into_iter()
        .next()
        .ok_or(DiscoveryError::NoAuthorizationServer)?;
    let issuer_url = Url::parse(&issuer).map_err(|_| DiscoveryError::InvalidIssuer)?;
    require_secure(&issuer_url, server)?;
    let Some(metadata) = load_server_metadata(fetcher, &issuer_url).await? else {
        return Err(DiscoveryError::NoMetadata { issuer });
    };
    // RFC 8414, section 3.3: otherwise one authorization server could pose as another.
    if metadata.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err(DiscoveryError::OtherIssuer { issuer });
    }
    let scopes = match scope {
        Some(_) => split_scopes(scope),
        None => resource.scopes_supported,
    };
    authorization_server(server, issuer, resource.resource, scopes, metadata)
}

/// Returns the authorization server of an MCP server without metadata. Before MCP 2025-06-18 the
/// origin of the MCP server was its authorization server, and its endpoints had fixed paths.
async fn discover_at_origin(
    fetcher: Fetcher,
    server: &Url,
    scopes: Vec<String>,
) -> Result<AuthorizationServer, DiscoveryError> {
    let mut root = server.clone();
    root.set_path("/");
    root.set_query(None);
    let endpoint = |path: &str| root.join(path).map(String::from).ok();
    let metadata = load_server_metadata(fetcher, &root)
        .await?
        .unwrap_or_else(|| ServerMetadata {
            authorization_endpoint: endpoint("/authorize"),
            token_endpoint: endpoint("/token"),
            registration_endpoint: endpoint("/register"),
            ..ServerMetadata::default()
        });
    let mut resource = server.clone();
    resource.set_fragment(None);
    let issuer = root.origin().ascii_serialization();
    authorization_server(server, issuer, resource.into(), scopes, metadata)
}

fn authorization_server(
    server: &Url,
    issuer: String,
    resource: String,
    scopes: Vec<String>,
    metadata: ServerMetadata,
) -> Result<AuthorizationServer, DiscoveryError> {
    let token_endpoint = metadata
        .token_endpoint
        .as_deref()
        .and_then(|url| Url::parse(url).ok());
    let Some(token_endpoint) = token_endpoint else {
        return Err(DiscoveryError::NoTokenEndpoint { issuer });
    };
    require_secure(&token_endpoint, server)?;
    Ok(AuthorizationServer {
        issuer,
        resource,
        scopes,
        token_endpoint,
        metadata,
    })
}

impl ServerMetadata {
    fn from_document(document: &Value) -> Self {
        Self {
            issuer: text_field(document, "issuer").unwrap_or_default(),
            authorization_endpoint: text_field(document, "authorization_endpoint"),
            token_endpoint: text_field(document, "token_endpoint"),
            registration_endpoint: text_field(document, "registration_endpoint"),
            code_challenge_methods_supported: list_field(
                document,
                "code_challenge_methods_supported",
            ),
            token_endpoint_auth_methods_supported: list_field(
                document,
                "token_endpoint_auth_methods_supported",
            )
            .unwrap_or_default(),
            scopes_supported: list_field(document, "scopes_supported").unwrap_or_default(),
            client_id_metadata_document_supported: flag_field(
                document,
                "client_id_metadata_document_supported",
            ),
            authorization_response_iss_parameter_supported: flag_field(
                document,
                "authorization_response_iss_parameter_supported",
            ),
        }
    }

    /// Returns whether a client may authenticate in this way.
    pub fn supports_auth_method(&self, method: &str) -> bool {
        self.token_endpoint_auth_methods_supported
            .iter()
            .any(|supported| supported == method)
    }

    /// Returns whether the PKCE method S256 is supported. Metadata without the field say nothing.
    pub fn may_support_s256(&self) -> bool {
        self.code_challenge_methods_supported
            .as_ref()
            .is_none_or(|methods| methods.iter().any(|method| method == "S256"))
    }

    /// Returns the way in which a client authenticates. The default is `client_secret_basic`
    /// (RFC 8414, section 2).
    pub fn client_auth(&self, has_secret: bool) -> ClientAuth {
        let supports_post_only = self.supports_auth_method("client_secret_post")
            && !self.supports_auth_method("client_secret_basic");
        if !has_secret {
            ClientAuth::None
        } else if supports_post_only {
            ClientAuth::Post
        } else {
            ClientAuth::Basic
        }
    }
}

impl ResourceMetadata {
    fn from_document(document: &Value) -> Self {
        Self {
            resource: text_field(document, "resource").unwrap_or_default(),
            authorization_servers: list_field(document, "authorization_servers")
                .unwrap_or_default(),
            scopes_supported: list_field(document, "scopes_supported").unwrap_or_default(),
        }
    }
}

/// Returns the challenges with which the MCP server refuses a request without a token.
async fn probe(fetcher: Fetcher, server: &Url) -> Challenges {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        ACCEPT,
        HeaderValue::from_static("application/json, text/event-stream"),
    );
    let response = fetcher
        .send(Method::POST, server, headers, Bytes::from_static(PROBE))
        .await;
    response.map_or_else(
        |_| Challenges::default(),
        |response| Challenges::from_headers(&response.headers),
    )
}

/// Loads the metadata of the MCP server from `location`, otherwise from the well-known paths.
async fn load_resource_metadata(
    fetcher: Fetcher,
    server: &Url,
    location: Option<&str>,
) -> Result<Option<ResourceMetadata>, DiscoveryError> {
    let mut candidates = Vec::new();
    if let Some(location) = location {
        let location = server
            .join(location)
            .ok()
            .filter(|location| location.origin() == server.origin())
            .ok_or(DiscoveryError::ForeignMetadata)?;
        candidates.push(location);
    }
    let path = server.path().trim_end_matches('/');
    candidates.push(with_path(
        server,
        &format!("/.well-known/oauth-protected-resource{path}"),
    ));
    candidates.push(with_path(server, "/.well-known/oauth-protected-resource"));
    let document = first_document(fetcher, &candidates)
        .await
        .map_err(DiscoveryError::ResourceMetadata)?;
    Ok(document.map(|document| ResourceMetadata::from_document(&document)))
}

async fn load_server_metadata(
    fetcher: Fetcher,
    issuer: &Url,
) -> Result<Option<ServerMetadata>, DiscoveryError> {
    let path = issuer.path().trim_end_matches('/');
    let mut paths = vec![
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        paths.push(format!("{path}/.well-known/openid-configuration"));
    }
    let candidates: Vec<_> = paths.iter().map(|path| with_path(issuer, path)).collect();
    let document = first_document(fetcher, &candidates)
        .await
        .map_err(DiscoveryError::ServerMetadata)?;
    Ok(document.map(|document| ServerMetadata::from_document(&document)))
}

fn with_path(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(path);
    url
}

/// Returns the first JSON object that one of the URLs responds with.
async fn first_document(
    fetcher: Fetcher,
    candidates: &[Url],
) -> Result<Option<Value>, DocumentError> {
    for candidate in candidates {
        let response = fetcher.get(candidate).await?;
        if response.status.is_server_error() {
            return Err(DocumentError::Status(response.status));
        }
        if response.status.is_success()
            && let Ok(document) = serde_json::from_slice::<Value>(&response.body)
            && document.is_object()
        {
            return Ok(Some(document));
        }
    }
    Ok(None)
}

/// Returns whether the resource is the server or a path above it (RFC 9728, section 3.3).
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else {
        return false;
    };
    let resource_path = resource.path().trim_end_matches('/');
    let server_path = server.path().trim_end_matches('/');
    let is_above = server_path
        .strip_prefix(resource_path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.origin() == server.origin() && is_above
}

/// Checks that tokens travel over TLS, within one machine, or like the requests to the server itself.
///
/// # Errors
/// Fails for every other URL.
pub fn require_secure(url: &Url, server: &Url) -> Result<(), InsecureUrl> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(url) || server.scheme() == "http" => Ok(()),
        _ => Err(InsecureUrl),
    }
}

fn split_scopes(text: Option<&str>) -> Vec<String> {
    text.into_iter()
        .flat_map(str::split_ascii_whitespace)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn a_resource_is_the_server_or_above_it() {
        let server = url("https://h/a/mcp");
        for good in [
            "https://h/a/mcp",
            "https://h/a/mcp/",
            "https://h/a",
            "https://h",
            "https://h:443/",
        ] {
            assert!(covers(good, &server), "{good}");
        }
        for bad in [
            "",
            "https://other/a/mcp",
            "http://h/a/mcp",
            "https://h/a/mc",
            "https://h/a/mcp/x",
            "https://h:1/",
        ] {
            assert!(!covers(bad, &server), "{bad}");
        }
    }

    #[test]
    fn tokens_travel_over_tls() {
        let remote = url("https://h/mcp");
        let local = url("http://127.0.0.1:1/mcp");
        assert!(require_secure(&url("https://as"), &remote).is_ok());
        assert!(require_secure(&url("http://[::1]:1"), &remote).is_ok());
        assert!(require_secure(&url("http://as"), &local).is_ok());
        assert!(require_secure(&url("http://as"), &remote).is_err());
        assert!(require_secure(&url("file:///x"), &local).is_err());
    }

    #[test]
    fn a_client_authenticates_in_a_way_that_the_authorization_server_supports() {
        let auth = |methods: Value, has_secret| {
            let document = json!({ "token_endpoint_auth_methods_supported": methods });
            ServerMetadata::from_document(&document).client_auth(has_secret)
        };
        assert_eq!(auth(Value::Null, true), ClientAuth::Basic);
        assert_eq!(auth(json!(["client_secret_post"]), true), ClientAuth::Post);
        let both = json!(["client_secret_post", "client_secret_basic"]);
        assert_eq!(auth(both, true), ClientAuth::Basic);
        let without_secret = json!(["client_secret_post", "none"]);
        assert_eq!(auth(without_secret, false), ClientAuth::None);
    }

    #[test]
    fn null_means_absent_in_metadata() {
        let metadata = ServerMetadata::from_document(&json!({
            "issuer": "https://as", "token_endpoint": "https://as/token",
            "registration_endpoint": null, "scopes_supported": null,
            "code_challenge_methods_supported": null,
            "token_endpoint_auth_methods_supported": ["none", null, 7],
            "client_id_metadata_document_supported": null,
        }));
        assert_eq!(metadata.issuer, "https://as");
        assert_eq!(metadata.token_endpoint.as_deref(), Some("https://as/token"));
        assert_eq!(metadata.registration_endpoint, None);
        assert!(metadata.scopes_supported.is_empty());
        assert!(metadata.may_support_s256());
        assert!(metadata.supports_auth_method("none"));
        let resource = ResourceMetadata::from_document(&json!({
            "resource": "https://h/mcp", "authorization_servers": [null, "https://as"],
            "scopes_supported": null,
        }));
        assert_eq!(resource.authorization_servers, ["https://as"]);
    }
}
