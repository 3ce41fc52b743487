//! Finds the authorization server of an MCP server: by what the server says of itself (RFC 9728), and what the
//! authorization server says (RFC 8414, OpenID Connect Discovery); as 2025-03-26 had it where nothing is said.

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::{Host, Url};

use super::fetch::{FetchError, HttpResponse, get, send};
use super::www_authenticate::parameter;
use crate::core::model::grant::ClientAuth;

/// Asked without a token, a server says where its metadata are.
const PROBE: &[u8] = br#"{"jsonrpc":"2.0","id":"c0","method":"ping"}"#;

/// Where access to a server is given.
#[derive(Debug)]
pub struct AuthorizationServer {
    pub issuer: String,
    /// What the tokens are for (RFC 8707).
    pub resource: String,
    /// The scopes that the server asks for.
    pub scopes: Vec<String>,
    pub token_endpoint: Url,
    pub metadata: ServerMetadata,
}

/// What an authorization server says of itself, as far as it is used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServerMetadata {
    issuer: String,
    pub authorization_endpoint: Option<String>,
    token_endpoint: Option<String>,
    pub registration_endpoint: Option<String>,
    pub code_challenge_methods_supported: Option<Vec<String>>,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
    pub scopes_supported: Vec<String>,
    pub client_id_metadata_document_supported: bool,
    pub authorization_response_iss_parameter_supported: bool,
}

/// What a server says of itself.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ResourceMetadata {
    resource: String,
    authorization_servers: Vec<String>,
    scopes_supported: Vec<String>,
}

/// The authorization server of the MCP server at that URL. The sentence of a failure goes on after the server's name.
pub async fn discover(server: &Url) -> Result<AuthorizationServer, String> {
    let challenge = challenge(server).await;
    let asked = challenge
        .as_deref()
        .and_then(|challenge| parameter(challenge, "scope"));
    let place = challenge
        .as_deref()
        .and_then(|challenge| parameter(challenge, "resource_metadata"));
    let resource = protected_resource(server, place.as_deref()).await?;
    let Some(ResourceMetadata {
        resource,
        authorization_servers,
        scopes_supported,
    }) = resource
    else {
        return at_its_origin(server, scope_list(asked.as_deref())).await;
    };
    if !covers(&resource, server) {
        return Err("names another resource in its metadata than itself, which is refused".into());
    }
    let issuer = authorization_servers
        .into_iter()
        .next()
        .ok_or("names no authorization server in its metadata")?;
    let url = Url::parse(&issuer).map_err(|_| "names an authorization server that is no URL")?;
    allowed(&url, server)?;
    let metadata = authorization_server(&url)
        .await?
        .ok_or_else(|| format!("names the authorization server {issuer}, which has no metadata"))?;
    // RFC 8414, section 3.3: or one could pass itself off as another.
    if metadata.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err(format!(
            "names the authorization server {issuer}, whose metadata are another one's"
        ));
    }
    let scopes = if asked.is_some() {
        scope_list(asked.as_deref())
    } else {
        scopes_supported
    };
    site(server, issuer, resource, scopes, metadata)
}

/// Before 2025-06-18 the server was its own authorization server, with usual paths where it had no metadata.
async fn at_its_origin(server: &Url, scopes: Vec<String>) -> Result<AuthorizationServer, String> {
    let mut root = server.clone();
    root.set_path("/");
    root.set_query(None);
    let at = |path: &str| root.join(path).map(String::from).ok();
    let metadata = authorization_server(&root)
        .await?
        .unwrap_or_else(|| ServerMetadata {
            authorization_endpoint: at("/authorize"),
            token_endpoint: at("/token"),
            registration_endpoint: at("/register"),
            ..ServerMetadata::default()
        });
    let mut resource = server.clone();
    resource.set_fragment(None);
    site(
        server,
        root.origin().ascii_serialization(),
        resource.into(),
        scopes,
        metadata,
    )
}

fn site(
    server: &Url,
    issuer: String,
    resource: String,
    scopes: Vec<String>,
    metadata: ServerMetadata,
) -> Result<AuthorizationServer, String> {
    let token_endpoint = metadata
        .token_endpoint
        .as_deref()
        .and_then(|url| Url::parse(url).ok());
    let token_endpoint = token_endpoint.ok_or_else(|| {
        format!("has the authorization server {issuer}, which names no token endpoint")
    })?;
    allowed(&token_endpoint, server)?;
    Ok(AuthorizationServer {
        issuer,
        resource,
        scopes,
        token_endpoint,
        metadata,
    })
}

impl ServerMetadata {
    /// Whether a client may show who it is in that way.
    pub fn knows(&self, method: &str) -> bool {
        self.token_endpoint_auth_methods_supported
            .as_ref()
            .is_some_and(|all| all.iter().any(|one| one == method))
    }

    /// How a client shows who it is.
    pub fn auth(&self, has_secret: bool) -> ClientAuth {
        match has_secret {
            false => ClientAuth::None,
            // The default (RFC 8414, section 2), where both are known too.
            true if self.knows("client_secret_post") && !self.knows("client_secret_basic") => {
                ClientAuth::Post
            }
            true => ClientAuth::Basic,
        }
    }
}

/// What the server says to a request without a token, if it refuses it.
async fn challenge(server: &Url) -> Option<String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        "accept",
        HeaderValue::from_static("application/json, text/event-stream"),
    );
    let answer = send(Method::POST, server, headers, Bytes::from_static(PROBE))
        .await
        .ok()?;
    Some(
        answer
            .headers
            .get(WWW_AUTHENTICATE)?
            .to_str()
            .ok()?
            .to_owned(),
    )
}

/// What it says of itself: where it says, else at the well-known places.
async fn protected_resource(
    server: &Url,
    place: Option<&str>,
) -> Result<Option<ResourceMetadata>, String> {
    let mut places = Vec::new();
    if let Some(place) = place {
        let place = server
            .join(place)
            .ok()
            .filter(|place| place.origin() == server.origin());
        places.push(place.ok_or("names metadata at another origin, which is refused")?);
    }
    let path = server.path().trim_end_matches('/');
    places.extend(well_known(
        server,
        &format!("/.well-known/oauth-protected-resource{path}"),
    ));
    places.extend(well_known(server, "/.well-known/oauth-protected-resource"));
    first_document(&places)
        .await
        .map_err(|why| format!("has metadata that cannot be had: it {why}"))
}

async fn authorization_server(issuer: &Url) -> Result<Option<ServerMetadata>, String> {
    let path = issuer.path().trim_end_matches('/');
    let mut places = vec![
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
    ];
    if !path.is_empty() {
        places.push(format!("{path}/.well-known/openid-configuration"));
    }
    let places: Vec<_> = places
        .iter()
        .filter_map(|path| well_known(issuer, path))
        .collect();
    first_document(&places).await.map_err(|why| {
        format!("has an authorization server whose metadata cannot be had: it {why}")
    })
}

fn well_known(of: &Url, path: &str) -> Option<Url> {
    let mut url = of.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.set_path(path);
    Some(url)
}

/// The first of these documents that there is.
async fn first_document<T: DeserializeOwned>(places: &[Url]) -> Result<Option<T>, String> {
    for place in places {
        let HttpResponse { status, body, .. } = get(place).await.map_err(FetchError::reason)?;
        if status.is_server_error() {
            return Err(format!("answered {status}"));
        }
        if status.is_success()
            && let Ok(found) = serde_json::from_slice(&body)
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A resource is the server itself, or a path that it is under (RFC 9728, section 3.3).
fn covers(resource: &str, server: &Url) -> bool {
    let Ok(resource) = Url::parse(resource) else {
        return false;
    };
    let (above, path) = (
        resource.path().trim_end_matches('/'),
        server.path().trim_end_matches('/'),
    );
    let under = path
        .strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    resource.origin() == server.origin() && under
}

/// Tokens go over TLS, but within one machine, and where the server itself is spoken to without.
pub fn allowed(url: &Url, server: &Url) -> Result<(), String> {
    let near = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(()),
        "http" if near || server.scheme() == "http" => Ok(()),
        _ => Err("has an authorization server without https, which is refused".into()),
    }
}

fn scope_list(text: Option<&str>) -> Vec<String> {
    text.into_iter()
        .flat_map(str::split_ascii_whitespace)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
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
    fn tokens_go_over_tls() {
        let (far, near) = (url("https://h/mcp"), url("http://127.0.0.1:1/mcp"));
        assert!(
            allowed(&url("https://as"), &far).is_ok()
                && allowed(&url("http://[::1]:1"), &far).is_ok()
        );
        assert!(
            allowed(&url("http://as"), &near).is_ok() && allowed(&url("http://as"), &far).is_err()
        );
        assert!(allowed(&url("file:///x"), &near).is_err());
    }

    #[test]
    fn a_client_shows_itself_as_the_server_wants_it() {
        let of = |methods: Option<&[&str]>, secret| {
            let methods = methods.map(|all| all.iter().map(|one| (*one).to_owned()).collect());
            ServerMetadata {
                token_endpoint_auth_methods_supported: methods,
                ..ServerMetadata::default()
            }
            .auth(secret)
        };
        assert_eq!(of(None, true), ClientAuth::Basic);
        assert_eq!(of(Some(&["client_secret_post"]), true), ClientAuth::Post);
        assert_eq!(
            of(Some(&["client_secret_post", "client_secret_basic"]), true),
            ClientAuth::Basic
        );
        assert_eq!(
            of(Some(&["client_secret_post", "none"]), false),
            ClientAuth::None
        );
    }
}
