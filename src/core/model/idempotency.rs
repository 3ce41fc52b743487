//!

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{CommandId, Digest};

/// What an `Idempotency-Key` was used for: whoever uses it again gets the same job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyKey {
    /// A keyed digest of method, path, user and key.
    pub scope: Digest,
    /// A keyed digest of the body.
    pub body: Digest,
}

/// What a job is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobIdempotencyKey {
    #[serde(flatten)]
    pub request: IdempotencyKey,
    /// Milliseconds since 1970: how long the job and its answer are kept at least, for whoever asks under the key
    /// again. Absent: no longer than answers are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl From<IdempotencyKey> for JobIdempotencyKey {
    /// One that is known as long as the answer.
    fn from(request: IdempotencyKey) -> Self {
        Self {
            request,
            until: None,
        }
    }
}

/// What a key was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyRecord {
    pub scope: Digest,
    pub body: Digest,
    /// The command that made the change.
    pub command: CommandId,
    /// Milliseconds since 1970: how long it is remembered.
    pub until: u64,
}
