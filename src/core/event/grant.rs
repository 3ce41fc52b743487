//! What happens to grants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{ServerId, ValueId};
use crate::core::model::grant::GrantTokens;
use crate::core::names::{ServerName, UserName};

/// Tokens for a server were given: for that user alone, or for all where none is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStored {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub tokens: GrantTokens,
}

/// The tokens with this access token are about to be refreshed: the refresh token may be used up from here on. Twice
/// without an outcome between: the worker of the first is dead.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRefreshStarted {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub access: ValueId,
}

/// New tokens came in the place of the old ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRefreshed {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub tokens: GrantTokens,
}

/// No new tokens came: where refused, a person has to give access again; else it can be tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRefreshFailed {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub access: ValueId,
    pub refused: bool,
}
