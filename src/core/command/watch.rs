//! The command with which a facade names the resources that its streams watch.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::FacadeId;
use crate::core::names::{ServerName, UserName};

/// The most resources that the streams of one facade watch.
pub const MAX_WATCHED: usize = 1024;

/// Names all resources of one server that the streams of one facade watch. The worker drops them after 60 s without a repeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WatchResources {
    pub facade: FacadeId,
    /// Grows with each list of the facade. A worker ignores an older list.
    pub number: u64,
    pub server: ServerName,
    /// Replaces the earlier list of the facade. At most 1,024.
    pub resources: Vec<WatchedResource>,
}

/// A resource that a user watches.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub struct WatchedResource {
    pub user: UserName,
    /// The URI as the server knows it. At most 2,048 bytes.
    pub uri: String,
}
