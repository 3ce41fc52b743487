//! What the program is asked about itself: its keys, its jobs, its dead letters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{JobId, ValueId, WorkerId};

/// Remove what lies in the Vault and has been named by nothing for an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepVault {}

/// Count which keys lie around what is sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CountKeys {}

/// What lies under which key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyUsage {
    /// Values in the Vault.
    pub values: u64,
    /// Of these, the ones under a key of SECRETS_KEYS_OLD.
    pub earlier: u64,
    /// Of these, the ones under a key that is not listed: nobody can open them.
    pub unreadable: u64,
    /// Whether SECRETS_KEY is enough: SECRETS_KEYS_OLD may be dropped.
    pub alone: bool,
}

/// Put everything that lies under another key under this one. Safe to run twice, and by several at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RotateKeys {
    /// The id of the key that the facade seals with, which tells nothing of it. A worker that seals with another
    /// one, because it was not started anew or was too early, must not turn everything round.
    pub to: String,
}

/// What came of a rotation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationReport {
    /// Values that were looked at; those that were looked at again count again.
    pub seen: u64,
    /// Values that were given the new key.
    pub rewrapped: u64,
    /// Whether SECRETS_KEY is enough now: SECRETS_KEYS_OLD may be dropped.
    pub finished: bool,
    /// The workers that seal with another key than the facade that was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<WorkerId>,
}

/// What a job that has ended has to say, opened for whoever may know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadJobAnswer {
    pub job: JobId,
}

/// Tell whoever sent a job that has ended without an answer what became of it, and drop its arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NotifyProducer {
    pub job: JobId,
}

/// Read a dead letter once more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetryDeadLetter {
    pub letter: ValueId,
}

/// Drop a dead letter and what it holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiscardDeadLetter {
    pub letter: ValueId,
}
