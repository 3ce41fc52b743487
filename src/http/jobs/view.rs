//! The JSON of a job.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::core::ids::JobId;
use crate::core::model::job::{Job, JobProgress, JobStage, JobState};
use crate::core::names::{ServerName, ToolName, UserName};
use crate::views::job_answer::JobAnswer;

/// A job.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct JobView {
    #[schema(value_type = String)]
    id: JobId,
    state: JobState,
    #[schema(value_type = String)]
    username: UserName,
    /// The command that the job executes, such as `tools.call`.
    command: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    server_name: Option<ServerName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    method_name: Option<ToolName>,
    /// The time of acceptance in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<u64>,
    /// The number of times that a worker has claimed the job.
    attempts: u32,
    /// True if a user has cancelled the job and its worker still stops it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancelling: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<JobProgress>,
    /// The answer of the synchronous request; absent in lists and before the end of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<AnswerView>,
    /// The time at which the program deletes the answer, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
}

/// The answer of a job.
#[derive(Serialize, ToSchema)]
pub(super) struct AnswerView {
    /// The HTTP status.
    status: u16,
    #[schema(value_type = Object)]
    body: Box<RawValue>,
}

/// The answer to a request whose work is a job now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobAccepted {
    #[schema(default = true)]
    pub success: bool,
    #[schema(value_type = String)]
    pub job_id: JobId,
}

impl JobView {
    pub(super) fn new(job: &Job, answer: Option<JobAnswer>) -> Self {
        let running = match &job.stage {
            JobStage::Running(running) => Some(running),
            _ => None,
        };
        Self {
            id: job.id,
            state: job.state(),
            username: job.target.user.clone(),
            command: job.target.command.clone().into_owned(),
            server_name: job.target.server.clone(),
            method_name: job.target.tool.clone(),
            at: job.id.made_at(),
            attempts: job.attempts(),
            cancelling: running.is_some_and(|running| running.cancelled),
            progress: running.and_then(|running| running.progress.clone()),
            answer: answer.map(|answer| AnswerView {
                status: answer.status,
                body: answer.body,
            }),
            expires: job.ended().map(|ended| ended.until),
        }
    }

    pub(super) fn id(&self) -> JobId {
        self.id
    }
}
