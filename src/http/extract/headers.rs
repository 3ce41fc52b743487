//! Request headers: `Host`, `Prefer`, `traceparent`, `Content-Type` and `Sec-Fetch-Site`.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{Object, Type};
use utoipa::{IntoParams, openapi::Required};

use crate::core::arguments::is_traceparent;

/// The `Host` header, from which the program makes URLs where `PUBLIC_URL` is not set.
pub(crate) struct RequestHost(pub Option<HeaderValue>);

impl<S: Send + Sync> FromRequestParts<S> for RequestHost {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.headers.get(HOST).cloned()))
    }
}

/// Whether the client prefers an asynchronous answer (RFC 7240, section 4.1).
#[derive(Clone, Copy)]
pub(crate) struct PreferAsync(pub bool);

impl<S: Send + Sync> FromRequestParts<S> for PreferAsync {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(prefers_async(&parts.headers)))
    }
}

impl IntoParams for PreferAsync {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = "`respond-async`: the program answers 202 at once, and the job has the answer";
        vec![header_parameter("Prefer", text)]
    }
}

/// The trace context of the caller (W3C Trace Context), if it is valid.
pub(crate) struct TraceParent(pub Option<Arc<str>>);

impl<S: Send + Sync> FromRequestParts<S> for TraceParent {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let traceparent = parts
            .headers
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .filter(|text| is_traceparent(text));
        Ok(Self(traceparent.map(Into::into)))
    }
}

/// Returns whether the body has this media type, with any parameters (RFC 9110, section 8.3).
pub(crate) fn has_media_type(headers: &HeaderMap, expected: &str) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|content_type| content_type.to_str().ok())
        .is_some_and(|content_type| {
            content_type == expected || media_type(content_type).eq_ignore_ascii_case(expected)
        })
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

/// The relation of this API to the site that made the browser send a request (`Sec-Fetch-Site`, W3C Fetch Metadata).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FetchSite {
    /// The client is no browser with Fetch Metadata.
    Unknown,
    /// The user opened the URL, and no page sent the request.
    None,
    SameOrigin,
    SameSite,
    CrossSite,
    /// A word that the specification does not have.
    Other,
}

impl FetchSite {
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let Some(site) = headers.get("sec-fetch-site") else {
            return Self::Unknown;
        };
        match site.as_bytes().to_ascii_lowercase().as_slice() {
            b"none" => Self::None,
            b"same-origin" => Self::SameOrigin,
            b"same-site" => Self::SameSite,
            b"cross-site" => Self::CrossSite,
            _ => Self::Other,
        }
    }
}

/// Returns the description of an optional request header.
pub(crate) fn header_parameter(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(Object::with_type(Type::String)))
        .build()
}

fn prefers_async(headers: &HeaderMap) -> bool {
    headers
        .get_all("prefer")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .any(|preference| preference.trim().eq_ignore_ascii_case("respond-async"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_media_type_may_have_parameters_and_any_case() {
        for (value, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            (" application/json ;a=b", true),
            ("application/jsonx", false),
            ("text/plain; application/json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            let found = has_media_type(&headers, "application/json");
            assert_eq!(found, expected, "{value:?}");
        }
        assert!(!has_media_type(&HeaderMap::new(), "application/json"));
    }

    #[test]
    fn a_fetch_site_is_one_of_the_words_of_fetch_metadata() {
        assert_eq!(
            FetchSite::from_headers(&HeaderMap::new()),
            FetchSite::Unknown
        );
        for (value, expected) in [
            ("none", FetchSite::None),
            ("same-origin", FetchSite::SameOrigin),
            ("same-site", FetchSite::SameSite),
            ("Cross-Site", FetchSite::CrossSite),
            ("", FetchSite::Other),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", HeaderValue::from_static(value));
            assert_eq!(FetchSite::from_headers(&headers), expected, "{value:?}");
        }
    }

    #[test]
    fn a_preference_is_found_among_others() {
        for (value, expected) in [
            ("respond-async", true),
            ("Respond-Async", true),
            ("wait=10, respond-async", true),
            ("respond-async; foo", true),
            ("respond-asynchronously", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", HeaderValue::from_static(value));
            assert_eq!(prefers_async(&headers), expected, "{value}");
        }
        assert!(!prefers_async(&HeaderMap::new()));
    }
}
