//! Jobs: work that the log stores before a worker executes it.
//!
//! The log is the queue. One event accepts a job, a second event claims it before a worker starts it, and a third
//! event ends it. The Vault holds the sealed arguments and the sealed answer.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::idempotency::JobIdempotencyKey;
use super::tool_call::CallTool;
use crate::core::failure::{Code, Failure};
use crate::core::ids::{JobId, Position, ServerId, ValueId, WorkerId};
use crate::core::names::{ServerName, ToolName, UserName};

/// Owns the maintenance jobs: the sweep of the Vault, key rotations and installations at start.
pub const SYSTEM_USER: &str = "mcp-api";

/// The state of a job, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Waiting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// The worker of the job is gone, and no process knows whether the work was done.
    Unknown,
}

/// One accepted job, until its answer expires.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    /// Jobs with the same target share it, because a user can have many waiting jobs.
    #[serde(flatten)]
    pub target: Arc<JobTarget>,
    /// The id of the sealed arguments in the Vault.
    pub arguments: ValueId,
    pub key: Option<Box<JobIdempotencyKey>>,
    pub stage: JobStage,
}

/// The command of a job, the user for whom a worker executes it, and the tool that it calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobTarget {
    pub user: UserName,
    /// The name of the command. The name may be unknown if a newer version of the program accepted the job.
    pub command: Cow<'static, str>,
    pub server: Option<ServerName>,
    pub tool: Option<ToolName>,
}

/// The arguments of a job. The program seals the whole value, because arguments may hold secrets.
#[derive(Serialize, Deserialize)]
pub struct JobArguments {
    /// The fields of a tool call. Its arguments are in `body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallTool>,
    /// The answer holds the unchanged CallToolResult.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// The subject on which the producer expects the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// The only server that may execute the call, if the caller may not use every server. A server that is registered
    /// later under the same name is another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<ServerId>,
    /// The arguments of a tool call, or the command of any other job.
    pub body: Box<RawValue>,
}

/// The answer of a job as JSON: the status and body that the synchronous request would have had.
///
/// The rules never read it. `views::job_answer` defines its fields.
pub type StoredJobAnswer = Box<RawValue>;

/// The stage of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStage {
    Waiting {
        /// The number of earlier claims.
        attempts: u32,
    },
    Running(Box<RunningJob>),
    Ended(Box<EndedJob>),
}

/// The data of a job that a worker has claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    pub worker: WorkerId,
    /// The number of this claim. The first claim has number 1.
    pub attempt: u32,
    /// A user has requested cancellation.
    pub cancelled: bool,
    pub progress: Option<JobProgress>,
}

/// The progress of a running job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgress {
    /// The current phase, in one word.
    pub phase: String,
    /// The last line that the running command printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// The data of a job that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedJob {
    pub state: JobState,
    pub attempts: u32,
    /// The id of the sealed answer in the Vault, absent if the worker died or the job never started.
    pub answer: Option<ValueId>,
    /// The time when the answer expires, in milliseconds since 1970.
    pub until: u64,
    /// The position at which the job ended.
    pub at: Position,
}

impl Job {
    pub fn state(&self) -> JobState {
        match &self.stage {
            JobStage::Waiting { .. } => JobState::Waiting,
            JobStage::Running(_) => JobState::Running,
            JobStage::Ended(ended) => ended.state,
        }
    }

    /// Returns the number of claims so far.
    pub fn attempts(&self) -> u32 {
        match &self.stage {
            JobStage::Waiting { attempts } => *attempts,
            JobStage::Running(running) => running.attempt,
            JobStage::Ended(ended) => ended.attempts,
        }
    }

    pub fn ended(&self) -> Option<&EndedJob> {
        match &self.stage {
            JobStage::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Returns true if `worker` holds the claim with number `attempt`.
    pub fn is_run_by(&self, worker: WorkerId, attempt: u32) -> bool {
        match &self.stage {
            JobStage::Running(running) => running.worker == worker && running.attempt == attempt,
            _ => false,
        }
    }

    /// Returns true if the job has ended without an answer. Then a worker must still open the arguments, because they
    /// name the subject on which the producer expects the outcome.
    pub fn needs_notification(&self) -> bool {
        self.ended().is_some_and(|ended| ended.answer.is_none())
    }

    /// Returns the ids of all values of this job that the Vault must keep.
    pub fn values(&self) -> impl Iterator<Item = ValueId> {
        let answer = self.ended().and_then(|ended| ended.answer);
        // A job with an answer needs its arguments no more. A job without one needs them until its producer is
        // notified.
        let needs_arguments = self.ended().is_none() || self.needs_notification();
        let arguments = needs_arguments.then_some(self.arguments);
        arguments.into_iter().chain(answer)
    }
}

/// Returns the failure of a cancelled job.
pub fn job_cancelled() -> Failure {
    Failure::new(Code::Conflict, "The job was cancelled")
}

/// Returns the failure of a job that has ended without an answer.
pub fn failure_without_answer(state: JobState) -> Failure {
    if state == JobState::Cancelled {
        return job_cancelled();
    }
    Failure::new(
        Code::OutcomeUnknown,
        "The worker of this job is gone, and no worker may execute the job again, because its tool declares neither readOnlyHint nor idempotentHint, or because too many workers died with the job. The work may have been done",
    )
    .maybe_run()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn job(stage: JobStage) -> Job {
        Job {
            id: JobId(Uuid::from_u128(1)),
            target: Arc::new(JobTarget {
                user: UserName::default(),
                command: "tools.call".into(),
                server: None,
                tool: None,
            }),
            arguments: ValueId(Uuid::from_u128(2)),
            key: None,
            stage,
        }
    }

    fn ended(answer: Option<u128>) -> JobStage {
        JobStage::Ended(Box::new(EndedJob {
            state: JobState::Succeeded,
            attempts: 3,
            answer: answer.map(|id| ValueId(Uuid::from_u128(id))),
            until: 9,
            at: Position(1),
        }))
    }

    #[test]
    fn the_vault_keeps_arguments_until_there_is_an_answer() {
        let values = |stage| -> Vec<u128> {
            let job = job(stage);
            job.values().map(|value| value.0.as_u128()).collect()
        };
        assert_eq!(values(JobStage::Waiting { attempts: 0 }), [2]);
        assert_eq!(values(ended(Some(3))), [3]);
        assert_eq!(values(ended(None)), [2]);
    }

    #[test]
    fn only_a_job_that_ended_without_an_answer_needs_a_notification() {
        assert!(job(ended(None)).needs_notification());
        assert!(!job(ended(Some(3))).needs_notification());
        assert!(!job(JobStage::Waiting { attempts: 0 }).needs_notification());
    }

    #[test]
    fn a_claim_belongs_to_one_worker_and_one_attempt() {
        let worker = WorkerId(Uuid::from_u128(5));
        let running = job(JobStage::Running(Box::new(RunningJob {
            worker,
            attempt: 2,
            cancelled: false,
            progress: None,
        })));
        assert!(running.is_run_by(worker, 2));
        assert!(!running.is_run_by(worker, 1));
        assert!(!running.is_run_by(WorkerId(Uuid::from_u128(6)), 2));
        assert_eq!(running.attempts(), 2);
    }

    #[test]
    fn a_lost_job_may_have_run_and_a_cancelled_one_is_a_conflict() {
        let lost = failure_without_answer(JobState::Unknown);
        assert!(lost.code == Code::OutcomeUnknown && lost.may_have_run);
        let cancelled = failure_without_answer(JobState::Cancelled);
        assert!(cancelled.code == Code::Conflict && !cancelled.may_have_run);
    }

    #[test]
    fn a_job_of_a_newer_version_keeps_its_command() {
        let mut job = job(ended(None));
        Arc::make_mut(&mut job.target).command = "tools.dance".into();
        let text = serde_json::to_string(&job).expect("JSON");
        let read: Job = serde_json::from_str(&text).expect("a job");
        assert_eq!(read.target.command, "tools.dance");
    }
}
