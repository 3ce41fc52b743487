//! Checks against DNS rebinding and cross-site requests, for requests that need no token.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{HOST, HeaderMap, ORIGIN};
use axum::http::{HeaderValue, Uri};

use crate::config::Access;
use crate::core::failure::{Code, Failure};
use crate::http::extract::headers::FetchSite;

/// The longest part of a header that an error shows, in characters.
const MAX_SHOWN: usize = 100;

/// Checks that `Host` and `Origin` name this API.
///
/// A page in a user's browser must not reach this API under another name.
///
/// # Errors
/// `forbidden`.
pub(super) fn check_host_and_origin(request: &Request, access: &Access) -> Result<(), Failure> {
    let headers = request.headers();
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or(request.uri().host())
        .unwrap_or_default();
    if !is_allowed_host(host_name(host), access) {
        return Err(Failure::new(
            Code::Forbidden,
            format!(
                "The Host header names {}, which is not a name of this API; \
                 add that name to ALLOWED_HOSTS to allow it",
                printable(host)
            ),
        ));
    }
    headers
        .get(ORIGIN)
        .map_or(Ok(()), |origin| check_origin(origin, access))
}

/// Checks that an `Origin` names this API.
///
/// # Errors
/// `forbidden`.
pub(super) fn check_origin(origin: &HeaderValue, access: &Access) -> Result<(), Failure> {
    let is_allowed = origin
        .to_str()
        .ok()
        .and_then(|text| text.parse::<Uri>().ok())
        .as_ref()
        .and_then(Uri::host)
        .is_some_and(|host| is_allowed_host(host, access));
    if is_allowed {
        return Ok(());
    }
    // The header is not repeated, because a client may put anything into it.
    Err(Failure::new(
        Code::Forbidden,
        "The header Origin names no page of this API; add the host of the page to ALLOWED_HOSTS to allow it",
    ))
}

/// Checks that no page of another site made the browser send the request.
///
/// # Errors
/// `forbidden`.
pub(super) fn check_fetch_site(headers: &HeaderMap) -> Result<(), Failure> {
    if FetchSite::from_headers(headers) == FetchSite::CrossSite {
        return Err(Failure::new(
            Code::Forbidden,
            "A page of another site made the browser send this request \
             (Sec-Fetch-Site: cross-site); open this API directly, or set ADMIN_TOKEN",
        ));
    }
    Ok(())
}

fn is_allowed_host(host: &str, access: &Access) -> bool {
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    let is_loopback = host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    is_loopback || access.hosts.contains(&host)
}

/// Returns `name` of `name:port`. An IPv6 address keeps its brackets.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn printable(text: &str) -> String {
    text.chars()
        .filter(|character| !character.is_control())
        .take(MAX_SHOWN)
        .collect()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_host_name_has_no_port() {
        for (host, name) in [
            ("a:80", "a"),
            ("a", "a"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
    }

    #[test]
    fn loopback_is_allowed_in_every_spelling() {
        let access = Access {
            admin_token: None,
            oidc: None,
            hosts: vec!["mcp.example.com".into()],
            public: None,
            longest_token_life: std::time::Duration::from_secs(60),
        };
        for allowed in [
            "localhost",
            "LOCALHOST",
            "127.0.0.1",
            "127.1.2.3",
            "[::1]",
            "mcp.example.com",
        ] {
            assert!(is_allowed_host(allowed, &access), "{allowed}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "0.0.0.0",
        ] {
            assert!(!is_allowed_host(foreign, &access), "{foreign}");
        }
    }

    #[test]
    fn a_cross_site_request_is_refused() {
        let refused = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", HeaderValue::from_static(value));
            check_fetch_site(&headers).is_err()
        };
        assert!(refused("cross-site"));
        for value in ["same-origin", "same-site", "none"] {
            assert!(!refused(value), "{value}");
        }
        assert!(check_fetch_site(&HeaderMap::new()).is_ok());
    }
}
