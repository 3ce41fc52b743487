//! Commands for maintenance: keys, answers of jobs and dead letters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{JobId, Position, ValueId, WorkerId};

/// Removes the values of the Vault that no event has named for an hour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SweepVault {}

/// Counts the sealed values by their key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CountKeys {}

/// The number of sealed values by their key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyUsage {
    /// The number of values in the Vault.
    pub values: u64,
    /// The number of these values under a key of SECRETS_KEYS_OLD.
    pub earlier: u64,
    /// The number of these values under a key that is not listed. No worker can open them.
    pub unreadable: u64,
    /// Whether all values are under SECRETS_KEY, so that SECRETS_KEYS_OLD may be removed.
    pub alone: bool,
}

/// Encrypts every wrapping with this key. The job may run twice, and several workers may run it at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RotateKeys {
    /// The id of the key of the facade. The id does not reveal the key. A worker with another key does not execute
    /// the job, because it was not restarted yet or was restarted too early.
    pub to: String,
}

/// The result of a key rotation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationReport {
    /// The number of values that were checked. A value that was checked twice counts twice.
    pub seen: u64,
    /// The number of values whose wrapping has the new key now.
    pub rewrapped: u64,
    /// Whether all values are under SECRETS_KEY now, so that SECRETS_KEYS_OLD may be removed.
    pub finished: bool,
    /// The workers with another key than the facade.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits_for: Vec<WorkerId>,
}

/// Moves old entries of the event log to an archive. A repeat completes an interrupted compaction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CompactLog {
    /// Entries that were appended earlier leave the log, in milliseconds since 1970.
    pub before: u64,
}

/// The result of a compaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompactionReport {
    /// The oldest position that the log still has.
    pub oldest: Position,
    /// The entries that this compaction archived.
    pub entries: u64,
    /// The events of these entries.
    pub events: u64,
    /// The entries that this compaction removed, with the entries that an interrupted compaction left.
    pub removed: u64,
    /// The archive on the worker that ran the job, unless no entry was old enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}

/// Opens the answer of a job that has ended, for the user of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReadJobAnswer {
    pub job: JobId,
}

/// Notifies the producer of a job that has ended without an answer, and removes the arguments of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NotifyProducer {
    pub job: JobId,
}

/// Parses a dead letter again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetryDeadLetter {
    #[serde(rename = "letter")]
    pub dead_letter: ValueId,
}

/// Removes a dead letter and its message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DiscardDeadLetter {
    #[serde(rename = "letter")]
    pub dead_letter: ValueId,
}
