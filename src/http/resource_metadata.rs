//! `/.well-known/oauth-protected-resource`: tells MCP clients which issuer makes JWTs for this API (RFC 9728).

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use super::auth::oidc::{METADATA_PATH, is_mcp_endpoint};
use super::extract::path::ServerNamePath;
use super::respond::json::ApiError;
use super::state::ApiState;
use crate::config::Access;
use crate::core::failure::{Code, Failure};
use crate::views::failure::ErrorBody;

/// Read the protected resource metadata of the whole API (RFC 9728).
#[utoipa::path(
    get, operation_id = "resource_metadata", path = "/.well-known/oauth-protected-resource", tag = "oauth",
    security(()),
    responses(
        (status = 200, description = "Protected resource metadata", body = Object),
        (status = 404, description = "OIDC_ISSUER or PUBLIC_URL is not set", body = ErrorBody),
    )
)]
pub(super) async fn of_api(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    metadata(&state, "")
}

/// Read the protected resource metadata of the MCP endpoint with all servers (RFC 9728).
#[utoipa::path(
    get, operation_id = "mcp_resource_metadata", path = "/.well-known/oauth-protected-resource/mcp", tag = "oauth",
    security(()),
    responses(
        (status = 200, description = "Protected resource metadata", body = Object),
        (status = 404, description = "OIDC_ISSUER or PUBLIC_URL is not set", body = ErrorBody),
    )
)]
pub(super) async fn of_mcp(State(state): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    metadata(&state, "/mcp")
}

/// Read the protected resource metadata of the MCP endpoint of one server (RFC 9728). The server need not exist.
#[utoipa::path(
    get, operation_id = "server_resource_metadata",
    path = "/.well-known/oauth-protected-resource/mcp/servers/{name}/mcp", tag = "oauth",
    params(ServerNamePath), security(()),
    responses(
        (status = 200, description = "Protected resource metadata", body = Object),
        (status = 404, description = "OIDC_ISSUER or PUBLIC_URL is not set, or no server can have the name", body = ErrorBody),
    )
)]
pub(super) async fn of_server(
    State(state): State<Arc<ApiState>>,
    ServerNamePath(name): ServerNamePath,
) -> Result<Response, ApiError> {
    metadata(&state, &format!("/mcp/servers/{name}/mcp"))
}

fn metadata(state: &ApiState, endpoint: &str) -> Result<Response, ApiError> {
    let access = state.access();
    let (Some(oidc), Some(public)) = (&access.oidc, &access.public) else {
        return Err(ApiError(Failure::new(
            Code::RouteNotFound,
            "This document exists only if OIDC_ISSUER and PUBLIC_URL are set",
        )));
    };
    let document = json!({
        "resource": format!("{}{endpoint}", public.url),
        "resource_name": "MCP API",
        "authorization_servers": [oidc.issuer_text],
        "bearer_methods_supported": ["header"],
    });
    Ok(axum::Json(document).into_response())
}

/// Returns the challenge of a request without a valid token (RFC 9728, section 5.1), or `None` if there are no metadata.
pub(super) fn challenge(access: &Access, path: &str) -> Option<HeaderValue> {
    let public = access.public.as_ref().filter(|_| access.oidc.is_some())?;
    let endpoint = if is_mcp_endpoint(path) { path } else { "" };
    let url = format!("{}{METADATA_PATH}{endpoint}", public.url);
    HeaderValue::try_from(format!(r#"Bearer resource_metadata="{url}""#)).ok()
}
