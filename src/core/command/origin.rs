//! The origin of a change: the parts that every command of a client carries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::event::Actor;
use crate::core::ids::CommandId;
use crate::core::model::idempotency::IdempotencyKey;

/// Names a change, its request and its author.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeOrigin {
    /// The id of the change. The log stores a change once.
    pub id: CommandId,
    /// The idempotency key, if the client may send the request again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// The author, for the commit.
    #[serde(default, skip_serializing_if = "Actor::is_earlier")]
    pub actor: Actor,
}

impl ChangeOrigin {
    /// Returns the origin of a change without an idempotency key.
    pub fn new(id: CommandId, actor: Actor) -> Self {
        Self {
            id,
            key: None,
            actor,
        }
    }
}
