//! The JSON of a connection: the values that one server needs of one user, without the values.

use serde::Serialize;
use utoipa::ToSchema;

use super::server::time;
use crate::core::catalog::server::{SecretRef, Server};
use crate::core::model::credential::{Credential, CredentialLocation, CredentialOwner};
use crate::core::model::google;
use crate::core::model::grant::{Grant, GrantState};
use crate::core::names::{SecretName, ServerName, UserName};

/// The connection of one user to one server. No field holds a value.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    #[schema(value_type = String)]
    pub server_name: ServerName,
    pub slots: Vec<SlotView>,
    /// The OAuth tokens that the server uses for the user. `null` if the server is no server behind a URL, or if the
    /// program stores no OAuth tokens for the server.
    pub oauth: Option<AuthorizationView>,
    /// The Google tokens of the user. `null` if the server does not act for its users at Google.
    pub google: Option<AuthorizationView>,
}

/// A place for one value.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotView {
    /// The name of the secret that fills the slot.
    #[schema(value_type = String)]
    pub name: SecretName,
    #[serde(rename = "in")]
    pub location: CredentialLocation,
    pub required: bool,
    pub owner: CredentialOwner,
    pub description: Option<String>,
    /// Whether a value is stored.
    pub set: bool,
    /// The time at which the value was stored. `null` if no value is stored, or if the log does not hold the time.
    pub set_at: Option<String>,
}

/// The state of the OAuth or Google tokens of a user.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationView {
    /// Whether tokens are stored that the server can use.
    pub connected: bool,
    /// Always `null`, because the event log does not hold the scopes of tokens, and a facade cannot open them.
    pub scopes: Option<Vec<String>>,
    /// The expiry of the access token. A worker refreshes the token before, if there is a refresh token. `null` if the
    /// event log does not hold the expiry.
    pub expires_at: Option<String>,
    /// Whether tokens are stored that the authorization server refuses, or that have expired without a refresh token.
    pub needs_reauthorization: bool,
}

impl ConnectionView {
    /// Returns the connection of a user. `now` is the time in milliseconds since 1970.
    pub fn new(server: &Server, user: &UserName, now: u64) -> Self {
        Self {
            server_name: server.name.clone(),
            slots: slots(server, user),
            oauth: oauth_state(server, user, now),
            google: google_state(server, user),
        }
    }
}

impl SlotView {
    /// Returns a slot that the configuration declares by name alone, or that only a stored secret shows.
    fn undeclared(name: &SecretName, stored: Option<&SecretRef>) -> Self {
        Self {
            name: name.clone(),
            location: CredentialLocation::Argument,
            required: false,
            owner: CredentialOwner::User,
            description: None,
            set: stored.is_some(),
            set_at: set_at(stored),
        }
    }

    fn declared(credential: &Credential, stored: Option<&SecretRef>) -> Self {
        Self {
            name: credential.name.clone(),
            location: credential.location,
            required: credential.required,
            owner: credential.owner,
            description: credential.description.clone(),
            set: stored.is_some(),
            set_at: set_at(stored),
        }
    }
}

fn slots(server: &Server, user: &UserName) -> Vec<SlotView> {
    let own = server.secrets_of(user.as_str());
    let config = &server.config;
    if !config.credentials.is_empty() {
        let slot = |credential: &Credential| {
            let stored = match credential.owner {
                CredentialOwner::User => own,
                CredentialOwner::Shared => &server.shared_secrets,
            };
            SlotView::declared(credential, find(stored, &credential.name))
        };
        return config.credentials.iter().map(slot).collect();
    }
    if config.secret_names.is_empty() {
        let slot = |secret: &SecretRef| SlotView::undeclared(&secret.name, Some(secret));
        return own.iter().map(slot).collect();
    }
    let slot = |name: &SecretName| SlotView::undeclared(name, find(own, name));
    config.secret_names.iter().map(slot).collect()
}

fn find<'a>(stored: &'a [SecretRef], name: &SecretName) -> Option<&'a SecretRef> {
    stored.iter().find(|secret| secret.name == *name)
}

fn set_at(stored: Option<&SecretRef>) -> Option<String> {
    stored?.value.made_at().map(time)
}

/// Returns the state of the grant that serves the user: the one of this user, or else the one for all users.
fn oauth_state(server: &Server, user: &UserName, now: u64) -> Option<AuthorizationView> {
    server.remote()?;
    if let Some(grant) = server.grant(Some(user)).or(server.grant) {
        return Some(AuthorizationView::of_grant(&grant, now));
    }
    // The tokens of another user show that the server asks for an authorization.
    (!server.user_grants.is_empty()).then(|| AuthorizationView::stored(false))
}

fn google_state(server: &Server, user: &UserName) -> Option<AuthorizationView> {
    let is_connected = server.google_tokens_of(user.as_str()).is_some();
    google::is_marked(&server.config).then(|| AuthorizationView::stored(is_connected))
}

impl AuthorizationView {
    fn stored(connected: bool) -> Self {
        Self {
            connected,
            scopes: None,
            expires_at: None,
            needs_reauthorization: false,
        }
    }

    fn of_grant(grant: &Grant, now: u64) -> Self {
        let tokens = &grant.tokens;
        let has_expired = !tokens.refreshable && tokens.expires_at.is_some_and(|end| end <= now);
        let is_void = grant.state == GrantState::Refused || has_expired;
        Self {
            expires_at: tokens.expires_at.map(time),
            needs_reauthorization: is_void,
            ..Self::stored(!is_void)
        }
    }
}

#[cfg(test)]
mod tests;
