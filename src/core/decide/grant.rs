//!

use crate::core::catalog::Catalog;
use crate::core::catalog::server::Server;
use crate::core::event::{
    Event, GrantRefreshFailed, GrantRefreshStarted, GrantRefreshed, GrantStored,
};
use crate::core::failure::{Code, Failure};
use crate::core::ids::ValueId;
use crate::core::model::grant::{Grant, GrantId, GrantState, GrantTokens};
use crate::core::names::{ServerName, UserName};

/// Tokens that are there already stay: they may have been refreshed, and then others would end the access.
pub fn require_no_tokens(catalog: &Catalog, id: &GrantId) -> Result<(), Failure> {
    match catalog.server_by_id(id.server) {
        Some(server) if server.grant(id.user.as_ref()).is_some() => {
            let there = format!("Server {} has such tokens already; they stay", server.name);
            Err(Failure::new(Code::Conflict, there))
        }
        _ => Ok(()),
    }
}

/// New tokens were given by somebody who has the user's consent.
pub fn store_tokens(
    catalog: &Catalog,
    id: &GrantId,
    tokens: GrantTokens,
) -> Result<Vec<Event>, Failure> {
    let server = catalog
        .server_by_id(id.server)
        .ok_or_else(|| Failure::server_not_found("of that id"))?;
    if server.remote().is_none() {
        return Err(not_remote(server));
    }
    let (server_name, user) = (server.name.clone(), id.user.clone());
    Ok(vec![
        GrantStored {
            server: server.id,
            server_name,
            user,
            tokens,
        }
        .into(),
    ])
}

pub fn not_remote(server: &Server) -> Failure {
    let what = format!(
        "Server {} is a {} server",
        server.name,
        server.config.transport.as_str()
    );
    Failure::invalid(format!(
        "{what}; only streamable_http servers have OAuth tokens"
    ))
}

/// The tokens are about to be refreshed. Nothing where others are there meanwhile.
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
    let (server_name, user) = (server.name.clone(), id.user.clone());
    Ok(vec![
        GrantRefreshStarted {
            server: server.id,
            server_name,
            user,
            access,
        }
        .into(),
    ])
}

/// New tokens came, and were put into the Vault. Nothing where others were given meanwhile.
pub fn record_refresh(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
    tokens: GrantTokens,
) -> Vec<Event> {
    let Ok((server, _)) =
        find_grant(catalog, id).and_then(|known| require_same_tokens(known, access))
    else {
        return vec![];
    };
    let (server_name, user) = (server.name.clone(), id.user.clone());
    vec![
        GrantRefreshed {
            server: server.id,
            server_name,
            user,
            tokens,
        }
        .into(),
    ]
}

/// No new tokens came, for now or for good.
pub fn record_refresh_failure(
    catalog: &Catalog,
    id: &GrantId,
    access: ValueId,
    refused: bool,
) -> Vec<Event> {
    let Ok((server, _)) =
        find_grant(catalog, id).and_then(|known| require_same_tokens(known, access))
    else {
        return vec![];
    };
    let (server_name, user) = (server.name.clone(), id.user.clone());
    vec![
        GrantRefreshFailed {
            server: server.id,
            server_name,
            user,
            access,
            refused,
        }
        .into(),
    ]
}

fn find_grant<'a>(catalog: &'a Catalog, id: &GrantId) -> Result<(&'a Server, Grant), Failure> {
    let server = catalog
        .server_by_id(id.server)
        .ok_or_else(|| Failure::server_not_found("of that id"))?;
    let grant = server.grant(id.user.as_ref()).ok_or_else(|| {
        reauth_required(
            &server.name,
            id.user.as_ref(),
            "no tokens are stored for it",
        )
    })?;
    Ok((server, grant))
}

fn require_same_tokens(
    known: (&Server, Grant),
    access: ValueId,
) -> Result<(&Server, Grant), Failure> {
    if known.1.tokens.access == access {
        Ok(known)
    } else {
        Err(Failure::new(Code::Conflict, "other tokens are there"))
    }
}

/// Access to the server has to be given again: why, and what to do.
pub fn reauth_required(name: &ServerName, user: Option<&UserName>, why: &str) -> Failure {
    let whose = user.map_or(String::new(), |user| format!(" for user {user}"));
    Failure::new(
        Code::ReauthRequired,
        format!(
            "Server {name} must be authorized{whose}: {why}. Give it tokens with POST /mcp/servers/{name}/oauth, or let POST /mcp/servers/{name}/oauth/start begin the authorization"
        ),
    )
}
