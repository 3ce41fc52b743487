//! Events of grants.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{ServerId, ValueId};
use crate::core::model::grant::GrantTokens;
use crate::core::names::{ServerName, UserName};

/// Tokens for a server were stored, for one user or, without `user`, for all users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantStored {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub tokens: GrantTokens,
}

/// A worker starts to refresh the tokens with this access token. From this event on, the refresh token may have
/// been used. If a second event follows without an outcome, the worker of the first event died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRefreshStarted {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub access: ValueId,
}

/// New tokens have replaced the old tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRefreshed {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub tokens: GrantTokens,
}

/// The refresh failed. If the authorization server refused it, a person must give access again. In all other
/// cases a worker can retry.
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

/// The user has disconnected the server. The tokens are void.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GrantRemoved {
    pub server: ServerId,
    pub server_name: ServerName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub tokens: GrantTokens,
}
