//! What happens to jobs, to letters nobody can read, and to keys of requests.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::core::ids::{Digest, JobId, ValueId, WorkerId};
use crate::core::model::dead_letter::DeadLetter;
use crate::core::model::idempotency::{IdempotencyRecord, JobIdempotencyKey};
use crate::core::model::job::{JobProgress, JobState};
use crate::core::names::{ServerName, ToolName, UserName};

/// Somebody wants something done. What it is about lies in the Vault under `arguments`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobAccepted {
    pub job: JobId,
    pub user: UserName,
    /// The command's name.
    pub command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    pub arguments: ValueId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<JobIdempotencyKey>,
}

/// A worker has a job, for as long as it holds its lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobStarted {
    pub job: JobId,
    /// The first is 1.
    pub attempt: u32,
    pub worker: WorkerId,
}

/// A running job is further than it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgressed {
    pub job: JobId,
    pub progress: JobProgress,
}

/// A job waits again: nothing of it was begun, or its worker is gone and it may run twice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobRequeued {
    pub job: JobId,
}

/// Somebody wants a running job to stop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobCancelRequested {
    pub job: JobId,
}

/// A job is over. Its answer, where there is one, lies in the Vault under `answer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobFinished {
    pub job: JobId,
    pub state: JobState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ValueId>,
    /// Milliseconds since 1970: how long the answer is kept.
    pub until: u64,
}

/// The answers of jobs have expired, and nothing is known of them any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobExpired {
    pub jobs: Vec<JobId>,
}

/// A producer's message was set aside, because nobody can read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterStored {
    #[serde(flatten)]
    pub letter: DeadLetter,
}

/// Dead letters are gone: read after all, dropped, or too old.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterRemoved {
    pub letters: Vec<ValueId>,
}

/// The change beside this event was made under an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyRecorded {
    #[serde(flatten)]
    pub request: IdempotencyRecord,
}

/// Keys are not remembered any more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct IdempotencyExpired {
    pub scopes: Vec<Digest>,
}
