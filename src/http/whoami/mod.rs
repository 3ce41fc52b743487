//! `GET /whoami`: the caller of the request.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::AnyCaller;
use super::respond::json::{ApiError, Success, success};
use super::state::ApiState;
use super::tokens::server_names;
use crate::core::ids::TokenId;
use crate::core::model::caller::{CallerKind, Scopes};
use crate::core::names::{ServerName, UserName};
use crate::time::rfc3339::format_ms;

/// The caller, and the caller's rights.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallerView {
    #[schema(value_type = String, example = "token")]
    kind: CallerKind,
    /// The user that a request acts for if it names none.
    #[schema(value_type = String)]
    username: UserName,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// `null` means all servers.
    #[schema(value_type = Option<Vec<String>>)]
    servers: Option<Vec<ServerName>>,
    expires_at: Option<String>,
    #[schema(value_type = Option<String>)]
    token_id: Option<TokenId>,
}

/// Read who the caller is.
#[utoipa::path(
    get, operation_id = "whoami", path = "/whoami", tag = "tokens",
    responses((status = 200, description = "The caller", body = Success<CallerView>))
)]
pub(super) async fn whoami(
    State(state): State<Arc<ApiState>>,
    AnyCaller(caller): AnyCaller,
) -> Result<Response, ApiError> {
    success(CallerView {
        kind: caller.kind,
        username: caller.user.clone(),
        scopes: caller.scopes,
        servers: server_names(&state.catalog(), &caller, &caller.servers),
        expires_at: caller.expires_at.map(format_ms),
        token_id: caller.token,
    })
}
