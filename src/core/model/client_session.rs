//! The settings of a client's session, which the facades keep in memory and tell each other.

use serde::{Deserialize, Serialize};

use crate::core::ids::{Digest, FacadeId};
use crate::core::mcp::log_level::LogLevel;

/// A change of a setting of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionChange {
    /// Names user, endpoint and session.
    pub session: Digest,
    /// The facade that has made the change already.
    pub facade: FacadeId,
    #[serde(flatten)]
    pub setting: SessionSetting,
}

/// The new value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "setting", content = "value", rename_all = "snake_case")]
pub enum SessionSetting {
    /// The client watches the resource with this URI, as the client spells it.
    Watched(String),
    /// The client watches a resource no longer.
    Unwatched(String),
    /// The client takes log lines from this level on.
    LogLevel(LogLevel),
}
