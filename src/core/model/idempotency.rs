//! Idempotency keys: a client's names for its requests. A repeat with the same key and body gets the first result.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{CommandId, Digest};

/// Identifies one use of an `Idempotency-Key`. A request with the same scope and body is a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyKey {
    /// A keyed digest of method, path, user and key.
    pub scope: Digest,
    /// A keyed digest of the body.
    pub body: Digest,
    /// A keyed digest of the user. The records of each user have a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Digest>,
}

/// Identifies the request that a job was created for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobIdempotencyKey {
    #[serde(flatten)]
    pub request: IdempotencyKey,
    /// The time until which the program keeps the job and its answer for repeats, in milliseconds since 1970.
    /// If it is absent, the program keeps the job only as long as its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl From<IdempotencyKey> for JobIdempotencyKey {
    /// Returns a key that expires together with the answer of its job.
    fn from(request: IdempotencyKey) -> Self {
        Self {
            request,
            until: None,
        }
    }
}

/// Records the command that a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyRecord {
    pub scope: Digest,
    pub body: Digest,
    /// The command that made the change.
    pub command: CommandId,
    /// The time when the record expires, in milliseconds since 1970.
    pub until: u64,
    /// A keyed digest of the user. Records of earlier versions have none and share one limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Digest>,
}
