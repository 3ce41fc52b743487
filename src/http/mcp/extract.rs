//! The context of a request as an extractor: the endpoint, the caller, its user, and the headers that all messages share.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::header::HOST;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};

use super::accept::Accepted;
use super::answer::error_response;
use super::endpoint::{Endpoint, Exchange};
use super::error::RpcError;
use super::headers::{self, USER};
use crate::core::failure::Failure;
use crate::core::names::UserName;
use crate::http::auth::ToolsCaller;
use crate::http::extract::headers::TraceParent;
use crate::http::respond::json::ApiError;
use crate::http::state::ApiState;

/// A request to one of the endpoints. The path without a name is the endpoint of all servers.
pub(crate) struct McpExchange(pub(super) Arc<Exchange>);

impl FromRequestParts<Arc<ApiState>> for McpExchange {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        state: &Arc<ApiState>,
    ) -> Result<Self, Response> {
        let ToolsCaller(caller) = ToolsCaller::from_request_parts(parts, state)
            .await
            .map_err(ApiError::into_response)?;
        let endpoint = endpoint(parts).await?;
        let user = named_user(&parts.headers).and_then(|named| caller.acts_for(named));
        let user = user.map_err(|failure| ApiError(failure).into_response())?;
        let Ok(TraceParent(traceparent)) = TraceParent::from_request_parts(parts, state).await;
        // A stream keeps the exchange. A header is a slice of the read buffer of the connection, so it must be copied.
        let host = parts.headers.get(HOST).map(HeaderValue::as_bytes);
        let host = host.and_then(|host| HeaderValue::from_bytes(host).ok());
        Ok(Self(Arc::new(Exchange {
            state: state.clone(),
            caller,
            user,
            endpoint,
            accepted: Accepted::read(&parts.headers),
            host,
            traceparent,
        })))
    }
}

async fn endpoint(parts: &mut Parts) -> Result<Endpoint, Response> {
    let name = Option::<Path<String>>::from_request_parts(parts, &()).await;
    match name {
        Ok(None) => Ok(Endpoint::All),
        Ok(Some(Path(name))) => name
            .parse()
            .map(Endpoint::Server)
            .map_err(|_| error_response(RpcError::not_found("No server has this name"), None)),
        Err(_) => {
            let failure = Failure::invalid("The name of the server in the path must be UTF-8");
            Err(ApiError(failure).into_response())
        }
    }
}

/// Returns the user that the header names. A name outside of ASCII stands in `=?base64?…?=`.
fn named_user(headers: &HeaderMap) -> Result<Option<UserName>, Failure> {
    let name = headers::single(headers, &USER)
        .and_then(|value| value.map(|value| headers::decode(&USER, value)).transpose());
    let name = name.map_err(|error| Failure::invalid(error.message))?;
    let Some(name) = name else {
        return Ok(None);
    };
    name.parse()
        .map(Some)
        .map_err(|error| Failure::invalid(format!("The header Mcp-Api-User {error}")))
}
