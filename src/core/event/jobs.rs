//! Events of jobs, dead letters and idempotency keys.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{Digest, JobId, TokenId, ValueId, WorkerId};
use crate::core::model::dead_letter::DeadLetter;
use crate::core::model::idempotency::{IdempotencyRecord, JobIdempotencyKey};
use crate::core::model::job::{JobProgress, JobState};
use crate::core::names::{ServerName, ToolName, UserName};

/// A job was accepted. The Vault holds its arguments under `arguments`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobAccepted {
    pub job: JobId,
    pub user: UserName,
    /// The name of the command.
    pub command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    pub arguments: ValueId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<JobIdempotencyKey>,
    /// The token of the caller who submitted the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
}

/// A worker has started a job. The worker executes the job while it holds its worker lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobStarted {
    pub job: JobId,
    /// The number of the attempt. The first attempt is 1.
    pub attempt: u32,
    pub worker: WorkerId,
}

/// A running job has made progress.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgressed {
    pub job: JobId,
    pub progress: JobProgress,
}

/// A job is queued again. Its work has not started, or its worker is gone and the job may run twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobRequeued {
    pub job: JobId,
}

/// A client has requested that a running job stops.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobCancelRequested {
    pub job: JobId,
}

/// A job has ended. If the job has an answer, the Vault holds it under `answer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobFinished {
    pub job: JobId,
    pub state: JobState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ValueId>,
    /// The time when the answer expires, in milliseconds since 1970.
    pub until: u64,
}

/// The answers of jobs have expired, and the jobs are removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobExpired {
    pub jobs: Vec<JobId>,
}

/// A message of a producer was stored as a dead letter, because no worker can parse it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterStored {
    #[serde(flatten)]
    pub dead_letter: DeadLetter,
}

/// Dead letters were removed, because they were retried, discarded or too old.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterRemoved {
    /// The ids of the dead letters.
    #[serde(rename = "letters")]
    pub dead_letters: Vec<ValueId>,
}

/// The commit of this event belongs to a request with an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyRecorded {
    #[serde(flatten)]
    pub request: IdempotencyRecord,
}

/// Idempotency keys have expired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyExpired {
    pub scopes: Vec<Digest>,
}
