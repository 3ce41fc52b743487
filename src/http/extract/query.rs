//! Query parameters. A parameter that the program does not know is an error.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::core::failure::Failure;
use crate::http::respond::html::HtmlError;
use crate::http::respond::json::ApiError;

/// The query of a JSON route.
pub(crate) struct QueryParams<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(parse_query(parts)?))
    }
}

/// The query of a page for browsers.
pub(crate) struct PageQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for PageQuery<T> {
    type Rejection = HtmlError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, HtmlError> {
        Ok(Self(parse_query(parts)?))
    }
}

fn parse_query<T: DeserializeOwned>(parts: &Parts) -> Result<T, Failure> {
    Query::try_from_uri(&parts.uri)
        .map(|Query(query)| query)
        .map_err(|error| Failure::invalid(error.body_text()))
}
