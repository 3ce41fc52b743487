//! The decisions about the tokens of users.

use std::collections::HashSet;
use std::time::Duration;

use crate::core::catalog::Catalog;
use crate::core::command::{CreateToken, RevokeToken};
use crate::core::event::{Event, TokenCreated, TokenRevoked, TokensRemoved};
use crate::core::failure::{Code, Failure};
use crate::core::ids::TokenId;
use crate::core::model::caller::{AllowedServers, Caller, CallerKind, Scope, Scopes};
use crate::core::model::token::is_label;
use crate::core::names::UserName;

/// The most valid tokens of one user.
const MAX_TOKENS: usize = 1000;
/// The most ended tokens of one user that the catalog keeps.
const MAX_ENDED: usize = 1000;
/// The time for which lists show a token after its end.
const SHOWN_AFTER_END: Duration = Duration::from_secs(30 * 24 * 3600);

/// The token that a caller asks for.
#[derive(Debug, Clone, Default)]
pub struct TokenRequest {
    pub user: Option<UserName>,
    pub scopes: Option<Scopes>,
    pub servers: AllowedServers,
    /// The life of the token.
    pub life: Option<Duration>,
    pub label: Option<String>,
}

/// The lives of tokens that people make after a sign-in.
#[derive(Debug, Clone, Copy)]
pub struct TokenLives {
    pub longest: Duration,
    pub usual: Duration,
}

/// The rights of a token that a caller may make.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenRights {
    pub user: UserName,
    pub scopes: Scopes,
    pub servers: AllowedServers,
    /// Milliseconds since 1970.
    pub expires_at: Option<u64>,
}

/// Decides which rights a new token has. No token has more scopes, more servers or a longer life than its maker.
///
/// # Errors
/// `forbidden` if the caller may not give these rights. `invalid_request` if a value is wrong.
pub fn token_rights(
    caller: &Caller,
    request: &TokenRequest,
    lives: TokenLives,
    now_ms: u64,
) -> Result<TokenRights, Failure> {
    let user = caller.acts_for(request.user.clone())?;
    if request
        .label
        .as_deref()
        .is_some_and(|label| !is_label(label))
    {
        return Err(Failure::invalid(
            "label must have at most 256 characters and no control characters",
        ));
    }
    let scopes = request
        .scopes
        .unwrap_or_else(|| default_scopes(caller.scopes));
    let servers = match &request.servers {
        AllowedServers::All => caller.servers.clone(),
        only => only.clone(),
    };
    check_scopes(scopes, &servers)?;
    if !caller.scopes.include(scopes) {
        return Err(Failure::new(
            Code::Forbidden,
            format!(
                "scopes must not contain a scope that the caller does not have; the caller has {:?}",
                caller.scopes
            ),
        ));
    }
    if !caller.servers.include(&servers) {
        return Err(Failure::invalid(
            "servers must not contain a server that the caller may not use; leave servers out for all servers of the caller",
        ));
    }
    Ok(TokenRights {
        user,
        scopes,
        servers,
        expires_at: expiry(caller, request.life, lives, now_ms)?,
    })
}

/// Returns the default scopes, without those that the caller does not have.
fn default_scopes(caller: Scopes) -> Scopes {
    Scopes::DEFAULT
        .into_iter()
        .filter(|scope| caller.allow(*scope))
        .collect()
}

fn check_scopes(scopes: Scopes, servers: &AllowedServers) -> Result<(), Failure> {
    if scopes.is_empty() {
        return Err(Failure::invalid("scopes must contain at least one scope"));
    }
    if scopes.contains(Scope::Admin) && !servers.is_all() {
        return Err(Failure::invalid(
            "servers cannot be used with the scope admin; leave servers out",
        ));
    }
    Ok(())
}

fn expiry(
    caller: &Caller,
    life: Option<Duration>,
    lives: TokenLives,
    now_ms: u64,
) -> Result<Option<u64>, Failure> {
    let until = |life: Duration| {
        let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_add(life)
    };
    if life.is_some_and(|life| life.is_zero()) {
        return Err(Failure::invalid("expiresIn must be at least 1 second"));
    }
    let (latest, usual) = match caller.kind {
        CallerKind::AdminToken | CallerKind::Local => (None, None),
        CallerKind::Token => (caller.expires_at, caller.expires_at),
        CallerKind::Oidc | CallerKind::Browser => {
            (Some(until(lives.longest)), Some(until(lives.usual)))
        }
    };
    let Some(life) = life else {
        return Ok(usual);
    };
    let asked = until(life);
    if latest.is_some_and(|latest| asked > latest) {
        return Err(Failure::invalid(format!(
            "expiresIn must be at most {} seconds, because no token outlives the caller that makes it (a JWT makes tokens for USER_TOKEN_MAX_LIFE)",
            latest.unwrap_or(u64::MAX).saturating_sub(now_ms) / 1000
        )));
    }
    Ok(Some(asked))
}

/// Creates a token. The facade has decided its rights with [`token_rights`].
///
/// # Errors
/// `unauthenticated` if the maker was revoked in between. `rate_limited` if the user has too many valid tokens.
pub fn create_token(catalog: &Catalog, command: &CreateToken) -> Result<Vec<Event>, Failure> {
    let created = &command.created;
    let now_ms = created.created_at;
    if let Some(maker) = created.maker {
        let is_valid = catalog
            .tokens
            .get(maker)
            .is_some_and(|maker| maker.is_valid(now_ms));
        if !is_valid {
            return Err(Failure::new(
                Code::Unauthenticated,
                "The token of this request has expired or was revoked",
            ));
        }
    }
    let valid = catalog
        .tokens
        .of_user(&created.user)
        .filter(|stored| stored.is_valid(now_ms));
    if valid.count() >= MAX_TOKENS {
        return Err(Failure::new(
            Code::RateLimited,
            format!("The user has {MAX_TOKENS} valid tokens; revoke a token first"),
        ));
    }
    let mut events = vec![TokenCreated(created.clone()).into()];
    let ended = ended_tokens(catalog, &created.user, now_ms);
    if !ended.is_empty() {
        events.push(TokensRemoved { tokens: ended }.into());
    }
    Ok(events)
}

/// Returns the tokens of a user that leave the catalog: those that ended long ago, and the oldest above [`MAX_ENDED`].
fn ended_tokens(catalog: &Catalog, user: &UserName, now_ms: u64) -> Vec<TokenId> {
    let oldest_shown = now_ms.saturating_sub(SHOWN_AFTER_END.as_millis() as u64);
    let mut ended: Vec<_> = catalog
        .tokens
        .of_user(user)
        .filter_map(|stored| Some((stored.ended_at(now_ms)?, stored.id)))
        .collect();
    ended.sort_unstable();
    let excess = ended.len().saturating_sub(MAX_ENDED);
    ended
        .into_iter()
        .enumerate()
        .filter(|(index, (ended_at, _))| *index < excess || *ended_at < oldest_shown)
        .map(|(_, (_, id))| id)
        .collect()
}

/// Revokes a token and every token that it made, directly or through another token.
///
/// # Errors
/// `token_not_found` if no token has the id, or if it belongs to another user.
pub fn revoke_token(catalog: &Catalog, command: &RevokeToken) -> Result<Vec<Event>, Failure> {
    let is_visible = |user: &UserName| command.user.as_ref().is_none_or(|own| own == user);
    let is_found = catalog
        .tokens
        .get(command.token)
        .is_some_and(|stored| is_visible(&stored.user));
    if !is_found {
        return Err(token_not_found(command.token));
    }
    let revoked = with_descendants(catalog, command.token);
    let valid = catalog
        .tokens
        .all()
        .filter(|stored| stored.revoked_at().is_none() && revoked.contains(&stored.id));
    Ok(valid
        .map(|stored| {
            TokenRevoked {
                token: stored.id,
                user: stored.user.clone(),
                at: command.at,
            }
            .into()
        })
        .collect())
}

/// Returns a token and all tokens that descend from it.
fn with_descendants(catalog: &Catalog, token: TokenId) -> HashSet<TokenId> {
    let made: Vec<(TokenId, TokenId)> = catalog
        .tokens
        .all()
        .filter_map(|stored| Some((stored.maker()?, stored.id)))
        .collect();
    let mut found = HashSet::from([token]);
    loop {
        let before = found.len();
        for (maker, id) in &made {
            if found.contains(maker) {
                found.insert(*id);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Returns the failure for an unknown token.
pub fn token_not_found(id: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::TokenNotFound,
        format!("Token {id} not found; GET /tokens lists the tokens of a user"),
    )
}

#[cfg(test)]
mod tests;
