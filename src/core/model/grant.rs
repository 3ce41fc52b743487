//! Grants: the access that somebody has given us to a server behind a URL, and how it is kept alive.
//!
//! A grant is two sealed values: the access token, which goes with every request, and what a new one is got with,
//! which only the tokens pool opens. Refreshing is an intent, a request and an outcome, each in the log: so a
//! refresh token is used once, and whoever finds an intent without an outcome knows that its worker is dead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Builder;
use zeroize::Zeroizing;

use crate::core::failure::Failure;
use crate::core::ids::{LeaseId, Position, ServerId, ValueId};
use crate::core::names::UserName;

/// How long before its end a token is refreshed; of a short-lived one, a quarter of its life.
const MARGIN_MS: u64 = 60_000;

/// Whose grant it is: that user's alone, or all users' of the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct GrantId {
    pub server: ServerId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
}

impl GrantId {
    /// What the one who refreshes it holds.
    pub fn lease(&self) -> LeaseId {
        let user = self
            .user
            .as_ref()
            .map_or(String::new(), |user| format!("user {user}"));
        let digest = Sha256::new()
            .chain_update(b"grant")
            .chain_update(self.server.0)
            .chain_update(user)
            .finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        LeaseId(Builder::from_custom_bytes(bytes).into_uuid())
    }
}

/// Where a grant's halves lie, and how long the first is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantTokens {
    /// The access token, as its header has it.
    pub access: ValueId,
    /// What a new one is got with.
    pub renewal: ValueId,
    /// There is a refresh token.
    pub refreshable: bool,
    /// Milliseconds since 1970, by the clock of whoever was given the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// A little before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_at: Option<u64>,
}

impl GrantTokens {
    /// Tokens of which the first was given at `now` and lives for so many seconds.
    pub fn new(
        access: ValueId,
        renewal: ValueId,
        refreshable: bool,
        now: u64,
        expires_in: Option<u64>,
    ) -> Self {
        let life = expires_in.map(|seconds| seconds.saturating_mul(1000));
        let expires_at = life.map(|life| now.saturating_add(life));
        let early = |life: u64| now.saturating_add(life - MARGIN_MS.min(life / 4));
        Self {
            access,
            renewal,
            refreshable,
            expires_at,
            refresh_at: life.filter(|_| refreshable).map(early),
        }
    }
}

/// A grant as the catalogue knows it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub tokens: GrantTokens,
    /// Where it was given: a session belongs to one grant.
    pub since: Position,
    pub state: GrantState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantState {
    Good,
    /// Somebody is about to ask for new tokens, or died of it.
    Refreshing,
    /// The authorization server gives no more tokens for it.
    Refused,
}

/// What new tokens are got with; the Vault has it, sealed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefreshCredentials {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Zeroizing<String>>,
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Zeroizing<String>>,
    pub redirect_uri: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code_verifier: Option<Zeroizing<String>>,
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Where they are got, once that was found out: a server cannot send its tokens to another one later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<TokenEndpoint>,
}

/// Where tokens are got, and how a client shows there who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEndpoint {
    pub url: String,
    pub auth: ClientAuth,
    /// What the tokens are for (RFC 8707).
    pub resource: String,
    /// The authorization server refuses the parameter `resource`, and accepts requests without it.
    #[serde(
        default,
        rename = "omitResource",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub omit_resource: bool,
}

/// RFC 6749, section 2.3.1, and RFC 7591, section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAuth {
    #[serde(rename = "client_secret_basic")]
    Basic,
    #[serde(rename = "client_secret_post")]
    Post,
    #[serde(rename = "none")]
    None,
}

/// An authorization that was begun; the Vault has it, sealed, until the browser comes back.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingAuthorization {
    pub issuer: String,
    /// The authorization server says with every code whose it is.
    pub says_issuer: bool,
    pub renewal: RefreshCredentials,
}

/// The client that somebody wants us to be.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthClient {
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Zeroizing<String>>,
}

/// Characters of a token or a secret, at most.
pub const LONGEST: usize = 16 * 1024;

/// No sentence repeats the text: it may be a secret.
pub fn check_text(field: &str, text: Option<&str>) -> Result<(), Failure> {
    if text.is_some_and(|text| {
        text.is_empty() || text.len() > LONGEST || text.chars().any(char::is_control)
    }) {
        let right = format!("{field} must be 1 to {LONGEST} characters without control characters");
        return Err(Failure::invalid(right));
    }
    Ok(())
}

pub fn check_scopes(scopes: Option<&[String]>) -> Result<(), Failure> {
    let word = |scope: &String| !scope.is_empty() && scope.bytes().all(|b| b.is_ascii_graphic());
    if scopes.is_some_and(|scopes| !scopes.iter().all(word)) {
        return Err(Failure::invalid("scopes must be a list of words"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn tokens(refreshable: bool, expires_in: Option<u64>) -> (Option<u64>, Option<u64>) {
        let id = ValueId(Uuid::nil());
        let tokens = GrantTokens::new(id, id, refreshable, 1_000_000, expires_in);
        (tokens.expires_at, tokens.refresh_at)
    }

    #[test]
    fn a_token_is_refreshed_a_little_before_its_end() {
        assert_eq!(tokens(true, Some(3600)), (Some(4_600_000), Some(4_540_000)));
        assert_eq!(tokens(true, Some(20)), (Some(1_020_000), Some(1_015_000)));
        assert_eq!(tokens(true, Some(0)), (Some(1_000_000), Some(1_000_000)));
        assert_eq!(
            tokens(true, Some(u64::MAX)),
            (Some(u64::MAX), Some(u64::MAX))
        );
        assert_eq!(tokens(false, Some(3600)), (Some(4_600_000), None));
        assert_eq!(tokens(true, None), (None, None));
    }

    #[test]
    fn each_grant_has_a_lease_of_its_own() {
        let of = |server: u128, user: Option<&str>| {
            let user = user.map(|user| user.parse().expect("a name"));
            GrantId {
                server: ServerId(Uuid::from_u128(server)),
                user,
            }
            .lease()
        };
        assert_eq!(of(1, Some("ana")), of(1, Some("ana")));
        assert!(of(1, None) != of(1, Some("ana")) && of(1, Some("ana")) != of(2, Some("ana")));
    }
}
