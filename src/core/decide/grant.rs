//! The decisions about grants: storing tokens and refreshing them.

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::event::{
    Event, GrantRefreshFailed, GrantRefreshStarted, GrantRefreshed, GrantStored,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{Grant, GrantId, GrantState, GrantTokens};
use crate::core::names::{ServerName, UserName};

/// Checks that the grant does not exist.
///
/// # Errors
/// Fails if tokens are stored. They stay, because a worker may have refreshed them, and older tokens would end the
/// access.
pub fn require_no_tokens(catalog: &Catalog, id: &GrantId) -> Result<(), Failure> {
    match catalog.server_by_id(id.server) {
        Some(server) if server.grant(id.user.as_ref()).is_some() => Err(Failure::new(
            Code::Conflict,
            format!(
                "Server {} has such tokens already, and they stay unchanged",
                server.name
            ),
        )),
        _ => Ok(()),
    }
}

/// Stores new tokens.
///
/// # Errors
/// Fails if the server does not exist or is not behind a URL.
pub fn store_tokens(
    catalog: &Catalog,
    id: &GrantId,
    tokens: GrantTokens,
) -> Result<Vec<Event>, Failure> {
    let server = find_server(catalog, id)?;
    if server.remote().is_none() {
        return Err(not_remote(server));
    }
    let stored = GrantStored {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        tokens,
    };
    Ok(vec![stored.into()])
}

/// Returns the failure for OAuth tokens of a stdio server.
pub fn not_remote(server: &Server) -> Failure {
    let transport = server.config.transport.as_str();
    Failure::invalid(format!(
        "Server {} is a {transport} server; only streamable_http servers have OAuth tokens",
        server.name
    ))
}

/// Records that a worker starts to refresh the tokens with the access token `access`. Returns no event if other tokens
/// have replaced them.
///
/// # Errors
/// Fails if the grant does not exist or if the authorization server has refused it.
pub fn start_refresh(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
) -> Result<Vec<Event>, Failure> {
    let (server, grant) = find_grant(catalog, id)?;
    if grant.tokens.access != access {
        return Ok(vec![]);
    }
    if grant.state == GrantState::Refused {
        return Err(reauth_required(
            &server.name,
            id.user.as_ref(),
            "its access was withdrawn",
        ));
    }
    let started = GrantRefreshStarted {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        access,
    };
    Ok(vec![started.into()])
}

/// Records the new tokens of a refresh. Returns no event if other tokens have replaced the old tokens.
pub fn record_refresh(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
    tokens: GrantTokens,
) -> Vec<Event> {
    let Some(server) = server_with_tokens(catalog, id, access) else {
        return vec![];
    };
    let refreshed = GrantRefreshed {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        tokens,
    };
    vec![refreshed.into()]
}

/// Records a refresh without new tokens. If the authorization server has refused it, a person must authorize again.
/// Returns no event if other tokens have replaced the old tokens.
pub fn record_refresh_failure(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
    refused: bool,
) -> Vec<Event> {
    let Some(server) = server_with_tokens(catalog, id, access) else {
        return vec![];
    };
    let failed = GrantRefreshFailed {
        server: server.id,
        server_name: server.name.clone(),
        user: id.user.clone(),
        access,
        refused,
    };
    vec![failed.into()]
}

fn find_server<'a>(catalog: &'a Catalog, id: &GrantId) -> Result<&'a Server, Failure> {
    catalog
        .server_by_id(id.server)
        .map(AsRef::as_ref)
        .ok_or_else(|| Failure::server_not_found(format!("with the id {}", id.server)))
}

fn find_grant<'a>(catalog: &'a Catalog, id: &GrantId) -> Result<(&'a Server, Grant), Failure> {
    let server = find_server(catalog, id)?;
    let grant = server.grant(id.user.as_ref()).ok_or_else(|| {
        reauth_required(
            &server.name,
            id.user.as_ref(),
            "no tokens are stored for it",
        )
    })?;
    Ok((server, grant))
}

/// Returns the server if its grant still has the access token `access`.
fn server_with_tokens<'a>(
    catalog: &'a Catalog,
    id: &GrantId,
    access: ValueId,
) -> Option<&'a Server> {
    let (server, grant) = find_grant(catalog, id).ok()?;
    (grant.tokens.access == access).then_some(server)
}

/// Returns the failure for a server that a person must authorize again. `reason` completes "because …".
pub fn reauth_required(name: &ServerName, user: Option<&UserName>, reason: &str) -> Failure {
    let for_user = user.map_or(String::new(), |user| format!(" for user {user}"));
    Failure::new(
        Code::ReauthRequired,
        format!(
            "Server {name} must be authorized{for_user}: {reason}. Store tokens with POST /mcp/servers/{name}/oauth, or start an authorization with POST /mcp/servers/{name}/oauth/start"
        ),
    )
}

#[cfg(test)]
mod tests;
