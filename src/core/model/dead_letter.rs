//! Dead letters: messages of producers that no worker can parse. The log keeps the reason for seven days.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::ValueId;

/// Describes a message of a producer that no worker can parse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// The id of the dead letter. The Vault holds the sealed message under this id.
    #[serde(rename = "letter")]
    pub dead_letter: ValueId,
    /// The id of the job, as the producer wrote it.
    pub id: String,
    /// The name of the command, as the producer wrote it.
    pub command: String,
    pub reason: String,
    /// The size of the message body in bytes.
    pub size: u64,
    /// The time when the dead letter expires, in milliseconds since 1970.
    pub until: u64,
}
