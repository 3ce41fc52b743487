//! The JSON of a token, without its secret.

use std::sync::Arc;

use serde::Serialize;
use utoipa::ToSchema;

use crate::core::catalog::Catalog;
use crate::core::catalog::token_table::StoredToken;
use crate::core::ids::TokenId;
use crate::core::model::caller::{AllowedServers, Caller, Scopes};
use crate::core::names::{ServerName, UserName};
use crate::http::state::ApiState;
use crate::time::rfc3339::format_ms;

/// A token of a user. Times are RFC 3339 in UTC.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenView {
    #[schema(value_type = String)]
    id: TokenId,
    #[schema(value_type = String)]
    username: UserName,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// `null` means all servers. Deleted servers, and servers that the caller may not use, are not named.
    #[schema(value_type = Option<Vec<String>>)]
    servers: Option<Vec<ServerName>>,
    #[schema(value_type = Option<String>)]
    label: Option<Arc<str>>,
    created_at: String,
    /// The user who made the token, or `null` for an administrator without a user.
    #[schema(value_type = Option<String>)]
    created_by: Option<UserName>,
    expires_at: Option<String>,
    /// The last use that this process has seen, to the second.
    last_used_at: Option<String>,
    revoked_at: Option<String>,
}

impl TokenView {
    pub(super) fn new(
        state: &ApiState,
        catalog: &Catalog,
        caller: &Caller,
        stored: &StoredToken,
    ) -> Self {
        Self {
            id: stored.id,
            username: stored.user.clone(),
            scopes: stored.scopes,
            servers: server_names(catalog, caller, &stored.servers()),
            label: stored.label(),
            created_at: format_ms(stored.created_at),
            created_by: stored.created_by(),
            expires_at: stored.expires_at().map(format_ms),
            last_used_at: state.token_last_used(stored.id).map(format_ms),
            revoked_at: stored.revoked_at().map(format_ms),
        }
    }
}

/// Returns the names of the listed servers that exist and that the caller may use, or `None` for all servers.
pub(crate) fn server_names(
    catalog: &Catalog,
    caller: &Caller,
    servers: &AllowedServers,
) -> Option<Vec<ServerName>> {
    let AllowedServers::Only(ids) = servers else {
        return None;
    };
    let mut names: Vec<_> = ids
        .iter()
        .filter(|id| caller.servers.contains(**id))
        .filter_map(|id| catalog.server_by_id(*id))
        .map(|server| server.name.clone())
        .collect();
    names.sort_unstable();
    Some(names)
}
