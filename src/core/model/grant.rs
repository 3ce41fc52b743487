//! Grants: the OAuth tokens of one server, for one user or for all users.
//!
//! A grant has two sealed values: the access token, which every request carries, and the refresh credentials, which only
//! workers of the pool `tokens` open. The log records the start and the outcome of each refresh, so that a refresh token
//! is used once. A start without an outcome shows that its worker is dead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Builder;
use zeroize::Zeroizing;

use crate::core::failure::Failure;
use crate::core::ids::{LeaseId, Position, ServerId, ValueId};
use crate::core::names::UserName;

/// The time before its expiry at which a worker refreshes a token, in milliseconds. For a token with a short life it is
/// at most a quarter of that life.
const REFRESH_MARGIN_MS: u64 = 60_000;

/// Identifies a grant: the grant of one user, or the grant for all users of the server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct GrantId {
    pub server: ServerId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
}

impl GrantId {
    /// Returns the lease that a worker holds while it refreshes the grant.
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

/// The ids of the sealed values of a grant, and the expiry of the access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantTokens {
    /// The id of the access token, in the form of its header.
    pub access: ValueId,
    /// The id of the refresh credentials.
    pub renewal: ValueId,
    /// The grant has a refresh token.
    pub refreshable: bool,
    /// The expiry of the access token in milliseconds since 1970, by the clock of the process that received the tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The time at which a worker refreshes the access token, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_at: Option<u64>,
}

impl GrantTokens {
    /// Returns tokens that were issued at `now` (milliseconds since 1970) and expire after `expires_in` seconds.
    pub fn new(
        access: ValueId,
        renewal: ValueId,
        refreshable: bool,
        now: u64,
        expires_in: Option<u64>,
    ) -> Self {
        let life_ms = expires_in.map(|seconds| seconds.saturating_mul(1000));
        let expires_at = life_ms.map(|life| now.saturating_add(life));
        let refresh_time = |life: u64| now.saturating_add(life - REFRESH_MARGIN_MS.min(life / 4));
        Self {
            access,
            renewal,
            refreshable,
            expires_at,
            refresh_at: life_ms.filter(|_| refreshable).map(refresh_time),
        }
    }
}

/// A grant as the catalog knows it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub tokens: GrantTokens,
    /// The position at which the tokens were stored. A session belongs to one grant.
    pub since: Position,
    pub state: GrantState,
}

/// The state of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantState {
    Good,
    /// A worker refreshes the tokens, or it died while it did.
    Refreshing,
    /// The authorization server has refused a refresh. A person must authorize again.
    Refused,
}

/// The values that a refresh sends to the authorization server. The Vault holds them sealed.
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
    /// The token endpoint, once a worker has found it. It is stored, so that a server cannot send its tokens to another
    /// endpoint later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<TokenEndpoint>,
}

/// The token endpoint, and the way in which the client authenticates there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEndpoint {
    pub url: String,
    pub auth: ClientAuth,
    /// The resource that the tokens are for (RFC 8707).
    pub resource: String,
    /// The authorization server refuses the parameter `resource`, and accepts requests without it.
    #[serde(
        default,
        rename = "omitResource",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub omit_resource: bool,
}

/// The client authentication (RFC 6749, section 2.3.1, and RFC 7591, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientAuth {
    #[serde(rename = "client_secret_basic")]
    Basic,
    #[serde(rename = "client_secret_post")]
    Post,
    #[serde(rename = "none")]
    None,
}

/// An authorization that waits for the browser. The Vault holds it sealed until then.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingAuthorization {
    pub issuer: String,
    /// The authorization server names itself in every response with a code (RFC 9207).
    #[serde(rename = "saysIssuer")]
    pub iss_supported: bool,
    pub renewal: RefreshCredentials,
}

/// The OAuth client that a user has registered for this program.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OAuthClient {
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Zeroizing<String>>,
}

/// The largest length of a token or a client secret, in bytes.
pub const MAX_TOKEN_LENGTH: usize = 16 * 1024;

/// Checks a token or a client secret. `field` is its name in the request.
///
/// # Errors
/// The failure never repeats the text, because it may be a secret.
pub fn check_text(field: &str, text: Option<&str>) -> Result<(), Failure> {
    if text.is_some_and(|text| {
        text.is_empty() || text.len() > MAX_TOKEN_LENGTH || text.chars().any(char::is_control)
    }) {
        return Err(Failure::invalid(format!(
            "{field} must be 1 to {MAX_TOKEN_LENGTH} characters without control characters"
        )));
    }
    Ok(())
}

/// Checks that scopes are words of visible ASCII characters.
///
/// # Errors
/// The failure never repeats a scope.
pub fn check_scopes(scopes: Option<&[String]>) -> Result<(), Failure> {
    let is_scope =
        |scope: &String| !scope.is_empty() && scope.bytes().all(|byte| byte.is_ascii_graphic());
    if scopes.is_some_and(|scopes| !scopes.iter().all(is_scope)) {
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
        let lease = |server: u128, user: Option<&str>| {
            let user = user.map(|user| user.parse().expect("a name"));
            GrantId {
                server: ServerId(Uuid::from_u128(server)),
                user,
            }
            .lease()
        };
        assert_eq!(lease(1, Some("ana")), lease(1, Some("ana")));
        assert!(lease(1, None) != lease(1, Some("ana")));
        assert!(lease(1, Some("ana")) != lease(2, Some("ana")));
    }

    #[test]
    fn a_token_has_a_length_limit_and_no_control_characters() {
        assert!(check_text("accessToken", None).is_ok());
        assert!(check_text("accessToken", Some("abc")).is_ok());
        for bad in ["", "a\nb", &"x".repeat(MAX_TOKEN_LENGTH + 1)] {
            let failure = check_text("accessToken", Some(bad)).expect_err("a bad token");
            assert!(failure.message.starts_with("accessToken must be"));
        }
    }

    #[test]
    fn a_scope_is_one_visible_word() {
        let check = |scope: &str| check_scopes(Some(&[scope.to_owned()]));
        assert!(check("read:all").is_ok() && check_scopes(None).is_ok());
        for bad in ["", "a b", "ü", "a\n"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pending_authorization_keeps_its_stored_field_names() {
        let text = r#"{"issuer":"https://as","saysIssuer":true,"renewal":{"clientId":"c","redirectUri":"r","scopes":[]}}"#;
        let pending: PendingAuthorization = serde_json::from_str(text).expect("JSON");
        assert!(pending.iss_supported);
        assert_eq!(serde_json::to_string(&pending).expect("JSON"), text);
    }
}
