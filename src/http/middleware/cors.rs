//! Cross-origin requests to the MCP endpoints (Fetch, CORS protocol). An allowed page may read the answers.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

/// The request headers that these endpoints read.
const ALLOWED_HEADERS: &str = "authorization, content-type, accept, mcp-protocol-version, mcp-session-id, mcp-method, \
                               mcp-name, mcp-api-user, last-event-id, traceparent, log-position";
const EXPOSED_HEADERS: &str =
    "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After, Log-Position";
/// The prefix of the headers that a preflight request may name besides the fixed ones.
const MCP_PREFIX: &str = "mcp-";

/// Returns the answer to a preflight request of an allowed origin.
pub(super) fn preflight(headers: &HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let mut allowed = ALLOWED_HEADERS.to_owned();
    for name in requested_mcp_headers(headers) {
        allowed.push_str(", ");
        allowed.push_str(name.as_str());
    }
    let entries = [
        (
            ACCESS_CONTROL_ALLOW_METHODS,
            Some("GET, POST, DELETE, OPTIONS"),
        ),
        (ACCESS_CONTROL_ALLOW_HEADERS, Some(allowed.as_str())),
        (ACCESS_CONTROL_MAX_AGE, Some("600")),
    ];
    for (name, value) in entries {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Returns the requested headers that begin with `Mcp-`.
fn requested_mcp_headers(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().to_ascii_lowercase().parse::<HeaderName>().ok())
        .filter(|name| name.as_str().starts_with(MCP_PREFIX))
        .take(64)
}

/// Allows the page of an allowed origin to read a response.
pub(super) fn allow_origin(response: &mut Response, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED_HEADERS),
    );
    headers.append(VARY, HeaderValue::from_static("Origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_allows_the_requested_headers_of_mcp() {
        let mut headers = HeaderMap::new();
        headers.insert(
            ACCESS_CONTROL_REQUEST_HEADERS,
            HeaderValue::from_static("Mcp-Param-Region, x-other, content-type"),
        );
        let response = preflight(&headers);
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let allowed = response.headers()[ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .expect("text");
        assert!(allowed.contains("mcp-param-region") && allowed.contains("authorization"));
        assert!(!allowed.contains("x-other"));
    }
}
