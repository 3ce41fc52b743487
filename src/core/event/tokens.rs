//! Events about the tokens of users.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::TokenId;
use crate::core::model::token::Token;
use crate::core::names::UserName;

/// A user got a token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TokenCreated(pub Token);

/// A token is invalid from now on, because a caller revoked it or the token that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenRevoked {
    pub token: TokenId,
    pub user: UserName,
    /// Milliseconds since 1970.
    pub at: u64,
}

/// Tokens that ended long ago left the catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokensRemoved {
    pub tokens: Vec<TokenId>,
}
