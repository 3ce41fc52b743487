//! Tokens of users: bearer tokens of this API (`mcpu_<id>_<secret>`). The log keeps a digest of the token alone.

use std::fmt;
use std::sync::Arc;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::caller::{AllowedServers, Scopes};
use crate::core::ids::TokenId;
use crate::core::names::UserName;

/// The beginning of every token.
pub const TOKEN_PREFIX: &str = "mcpu_";
/// The most characters of a label.
const MAX_LABEL: usize = 256;

/// The SHA-256 digest of a token. A token has 256 random bits, so a plain digest reveals nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct TokenDigest(pub [u8; 32]);

impl fmt::Debug for TokenDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenDigest(***)")
    }
}

impl Serialize for TokenDigest {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for TokenDigest {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| D::Error::custom("a token digest must be 32 bytes in base64url"))
    }
}

/// A token of a user, without its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    #[serde(rename = "token")]
    pub id: TokenId,
    pub user: UserName,
    pub digest: TokenDigest,
    pub scopes: Scopes,
    #[serde(default, skip_serializing_if = "AllowedServers::is_all")]
    pub servers: AllowedServers,
    /// A text for people: the purpose of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub label: Option<Arc<str>>,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// The end of the token's life in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// The user who made the token. Absent if an administrator without a user made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<UserName>,
    /// The token that made this token. If the maker is revoked, this token is revoked too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maker: Option<TokenId>,
}

/// Returns the id of a token: the part after the prefix. Returns `None` for a text that is no token of this API.
pub fn token_id(token: &str) -> Option<TokenId> {
    let (id, secret) = token.strip_prefix(TOKEN_PREFIX)?.split_once('_')?;
    let is_canonical = id.len() == 32 && !id.bytes().any(|byte| byte.is_ascii_uppercase());
    if secret.is_empty() || !is_canonical {
        return None;
    }
    Uuid::try_parse(id).ok().map(TokenId)
}

/// Returns the text of a token with this secret.
pub fn token_text(id: TokenId, secret: &[u8; 32]) -> String {
    let secret = BASE64_URL_SAFE_NO_PAD.encode(secret);
    format!("{TOKEN_PREFIX}{}_{secret}", id.0.simple())
}

/// Returns whether a label is at most 256 characters without control characters.
pub fn is_label(text: &str) -> bool {
    text.len() <= 4 * MAX_LABEL
        && text.chars().count() <= MAX_LABEL
        && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_id() {
        let id = TokenId(Uuid::from_u128(7));
        let text = token_text(id, &[255; 32]);
        assert!(
            text.starts_with("mcpu_00000000000000000000000000000007_"),
            "{text}"
        );
        assert_eq!(token_id(&text), Some(id));
    }

    #[test]
    fn a_text_of_another_form_is_no_token() {
        for text in [
            "",
            "mcpu_",
            "mcpu_x_y",
            "mcpu_00000000000000000000000000000007_",
            "mcpu_00000000-0000-0000-0000-000000000007_x",
            "mcpu_0000000000000000000000000000000A_x",
            "MCPU_00000000000000000000000000000007_x",
        ] {
            assert_eq!(token_id(text), None, "{text}");
        }
    }

    #[test]
    fn a_digest_is_32_bytes() {
        let digest = TokenDigest([7; 32]);
        let json = serde_json::to_string(&digest).expect("JSON");
        assert_eq!(
            serde_json::from_str::<TokenDigest>(&json).expect("a digest"),
            digest
        );
        assert!(serde_json::from_str::<TokenDigest>("\"AAAA\"").is_err());
        assert!(!format!("{digest:?}").contains('7'));
    }

    #[test]
    fn a_label_is_one_short_line() {
        assert!(is_label("laptop"));
        assert!(is_label(&"ü".repeat(256)));
        assert!(!is_label(&"x".repeat(257)));
        assert!(!is_label("a\nb"));
    }
}
