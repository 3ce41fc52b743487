//! The door: who may come in. Behind it every request is from somebody who may do everything.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::facade::Facade;
use super::reply::Refused;
use crate::config::Access;
use crate::core::failure::{Code, Failure};
use crate::core::names::Position;

/// The newest position an answer has seen; sent back, the answer will have seen it too.
static LOG_POSITION: HeaderName = HeaderName::from_static("log-position");
/// How long a request waits for the position it has named.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Lets a request in, or says why not; every answer tells its position.
pub async fn pass(State(facade): State<Arc<Facade>>, request: Request, next: Next) -> Response {
    let _under_way = facade.requests.token();
    // Nothing of the request is borrowed while something is waited for: its body is nobody's to share.
    let admitted = match admit(&facade, &request) {
        Ok(None) => Ok(()),
        Ok(Some(position)) => seen(&facade, &position).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = admitted {
        return Refused(failure).into_response();
    }
    let mut response = next.run(request).await;
    let position = HeaderValue::from(facade.follow.position().0);
    response.headers_mut().insert(LOG_POSITION.clone(), position);
    response
}

/// Whether the request may come in, and the position it has named.
fn admit(facade: &Facade, request: &Request) -> Result<Option<HeaderValue>, Failure> {
    let path = request.uri().path();
    if path == "/healthz" || path == "/readyz" {
        return Ok(None);
    }
    match &facade.access.admin_token {
        Some(token) if !is_open(path) => authenticate(request.headers(), token)?,
        Some(_) => {}
        None => same_site(request, &facade.access)?,
    }
    Ok(request.headers().get(&LOG_POSITION).cloned())
}

/// What anybody may open although there is a token: the documentation, and pages for a user's browser, which look
/// at a signature themselves.
fn is_open(path: &str) -> bool {
    let pages =
        ["/auth/google/login", "/auth/google/callback", "/oauth/authorize", "/oauth/callback", "/oauth/client.json"];
    matches!(path, "/openapi.json" | "/docs") || path.starts_with("/docs/") || pages.contains(&path)
}

fn authenticate(headers: &HeaderMap, token: &str) -> Result<(), Failure> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    // Digests are of one length, so the comparison tells nothing about the token's.
    let (given, wanted) = (Sha256::digest(given.map_or("", |(_, token)| token.trim())), Sha256::digest(token));
    if bool::from(given[..].ct_eq(&wanted[..])) {
        return Ok(());
    }
    Err(Failure::new(Code::Unauthenticated, "The header Authorization: Bearer <ADMIN_TOKEN> is missing or wrong"))
}

/// Against DNS rebinding: a page in somebody's browser must not reach this API under a name of its own.
fn same_site(request: &Request, access: &Access) -> Result<(), Failure> {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).or(request.uri().host()).unwrap_or_default();
    if !is_ours(host_name(host), access) {
        let refusal = format!(
            "The Host header names {}, which is not this API's; add that name to ALLOWED_HOSTS to allow it",
            printable(host)
        );
        return Err(Failure::new(Code::Forbidden, refusal));
    }
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default();
    let site = origin.parse::<Uri>().ok();
    if site.as_ref().and_then(Uri::host).is_some_and(|host| is_ours(host, access)) {
        return Ok(());
    }
    let refusal = format!(
        "The Origin {} is not this API's; add its host to ALLOWED_HOSTS to allow it, or set ADMIN_TOKEN",
        printable(origin)
    );
    Err(Failure::new(Code::Forbidden, refusal))
}

fn is_ours(host: &str, access: &Access) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    loopback || access.hosts.contains(&host)
}

/// `name` of `name:port`, with the brackets of an IPv6 address.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

async fn seen(facade: &Facade, position: &HeaderValue) -> Result<(), Failure> {
    let wrong = || Failure::invalid("Log-Position must be a position that an earlier answer has told");
    let position = Position(position.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?);
    if facade.follow.position() >= position {
        return Ok(());
    }
    let head = facade.follow.log().head().await.map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    if position > head {
        return Err(Failure::invalid(format!("Log-Position is past the end of the log, which is at {head}")));
    }
    if facade.follow.reach(position, CATCH_UP).await {
        return Ok(());
    }
    Err(Failure::unavailable("This process has not yet reached that Log-Position; ask again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_lose_their_port() {
        for (host, name) in [("a:80", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")] {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn loopback_in_every_spelling_is_ours() {
        let access = Access { admin_token: None, hosts: vec!["mcp.example.com".into()], public: None };
        for ours in ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]", "mcp.example.com"] {
            assert!(is_ours(ours, &access), "{ours}");
        }
        for foreign in ["", "evil.example", "localhost.evil.example", "10.0.0.1", "0.0.0.0"] {
            assert!(!is_ours(foreign, &access), "{foreign}");
        }
    }
}
