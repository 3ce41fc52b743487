//! Commands about the tokens of users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ChangeOrigin;
use crate::core::ids::TokenId;
use crate::core::model::token::Token;
use crate::core::names::UserName;

/// Create a token. The facade made the token and sends the digest alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CreateToken {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub created: Token,
}

/// Revoke a token and all tokens that it made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RevokeToken {
    #[serde(flatten)]
    pub origin: ChangeOrigin,
    pub token: TokenId,
    /// The user whose token it must be. Absent for an administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Milliseconds since 1970.
    pub at: u64,
}
