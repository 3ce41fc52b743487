//! Jobs: work that somebody asked for and does not wait for, or that outlives whoever waits for it.
//!
//! The log is the queue. A job is accepted by one event, claimed by another before the world is touched, and
//! ended by a third; what it works on and what came of it lie sealed in the Vault.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::idempotency::JobIdempotencyKey;
use super::tool_call::CallTool;
use crate::core::command::{Area, known};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{JobId, ValueId, WorkerId};
use crate::core::names::{ServerName, ToolName, UserName};
use crate::views::job_answer::JobAnswer;

/// Whose jobs those are by which the program looks after itself.
pub const SYSTEM_USER: &str = "mcp-api";

/// How a job stands, as users see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Waiting,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// Its worker is gone, and whether the work was done cannot be known.
    Unknown,
}

/// One accepted job, until its answer has expired.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub user: UserName,
    /// The command's name; one that only a newer version knows stays as it is.
    #[serde(deserialize_with = "command_name")]
    pub command: Cow<'static, str>,
    pub server: Option<ServerName>,
    pub tool: Option<ToolName>,
    /// Where its arguments lie.
    pub arguments: ValueId,
    pub key: Option<Box<JobIdempotencyKey>>,
    pub stage: JobStage,
}

/// What a job works on. It is sealed whole: arguments are nobody's business.
#[derive(Serialize, Deserialize)]
pub struct JobArguments {
    /// The fields of a tool call, whose body is its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<CallTool>,
    /// The answer is to hold the untouched CallToolResult.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw: bool,
    /// Where a producer wants its outcome told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Of a tool call its arguments, else the command.
    pub body: Box<RawValue>,
}

/// Where a job is on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStage {
    Waiting {
        /// How often it was claimed already.
        attempts: u32,
    },
    Running(Box<RunningJob>),
    Ended(Box<EndedJob>),
}

/// A job in a worker's hands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningJob {
    pub worker: WorkerId,
    pub attempt: u32,
    /// Somebody wants it to stop.
    pub cancelled: bool,
    pub progress: Option<JobProgress>,
}

/// How far a running job is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
pub struct JobProgress {
    /// What is being done, in one word.
    pub phase: String,
    /// The last line that the tool at work printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<String>,
}

/// A job that is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedJob {
    pub state: JobState,
    pub attempts: u32,
    /// Where its answer lies; there is none where its worker died or it never ran.
    pub answer: Option<ValueId>,
    /// Milliseconds since 1970: how long the answer is kept.
    pub until: u64,
}

impl Job {
    pub fn area(&self) -> Option<Area> {
        known(&self.command).map(|(_, area, _)| area)
    }

    pub fn state(&self) -> JobState {
        match &self.stage {
            JobStage::Waiting { .. } => JobState::Waiting,
            JobStage::Running(_) => JobState::Running,
            JobStage::Ended(ended) => ended.state,
        }
    }

    /// How often it was claimed.
    pub fn attempts(&self) -> u32 {
        match &self.stage {
            JobStage::Waiting { attempts } => *attempts,
            JobStage::Running(run) => run.attempt,
            JobStage::Ended(ended) => ended.attempts,
        }
    }

    pub fn ended(&self) -> Option<&EndedJob> {
        match &self.stage {
            JobStage::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Whether that worker has it, at that attempt.
    pub fn is_run_by(&self, by: WorkerId, at: u32) -> bool {
        matches!(&self.stage, JobStage::Running(run) if run.worker == by && run.attempt == at)
    }

    /// Whether it has ended where nobody could open its arguments: they say who wants to be told.
    pub fn needs_notification(&self) -> bool {
        self.ended().is_some_and(|ended| ended.answer.is_none())
    }

    /// What of it lies in the Vault, or may.
    pub fn values(&self) -> impl Iterator<Item = ValueId> {
        let answer = self.ended().and_then(|ended| ended.answer);
        // Of one that has an answer the arguments may go; of the others, once somebody has been told.
        let arguments =
            (self.ended().is_none() || self.needs_notification()).then_some(self.arguments);
        arguments.into_iter().chain(answer)
    }
}

/// What a job says that was cancelled.
pub fn job_cancelled() -> Failure {
    Failure::new(Code::Conflict, "The job was cancelled")
}

/// Why there is no answer of a job that has ended.
pub fn why_without_answer(state: JobState) -> Failure {
    if state == JobState::Cancelled {
        return job_cancelled();
    }
    let lost = "The worker that had this job is gone, and it must not be done again: its tool is not declared readOnlyHint or idempotentHint, or too many workers were lost with it. Whether it was done is unknown";
    Failure::new(Code::OutcomeUnknown, lost).maybe_run()
}

/// What a job says for which nobody could say anything.
pub fn without_answer(state: JobState) -> JobAnswer {
    JobAnswer::failed(&why_without_answer(state))
}

/// A command's name as the program itself has it, where it does.
pub fn interned(name: &str) -> Cow<'static, str> {
    known(name).map_or_else(
        || Cow::Owned(name.to_owned()),
        |(name, ..)| Cow::Borrowed(name),
    )
}

fn command_name<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Cow<'static, str>, D::Error> {
    Cow::<'de, str>::deserialize(from).map(|name| interned(&name))
}
