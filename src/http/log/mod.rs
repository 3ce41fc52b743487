//! `POST /log/compact`: shortens the event log.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

use super::auth::AdminCaller;
use super::extract::headers::PreferAsync;
use super::extract::json::JsonBody;
use super::jobs::JobAccepted;
use super::jobs::submit::submit;
use super::respond::json::{ApiError, Success};
use super::state::ApiState;
use crate::config::parse_retention;
use crate::core::command::{CompactLog, CompactionReport};
use crate::core::event::Actor;
use crate::core::failure::Failure;
use crate::jobs::client::NewJob;
use crate::time::clock::now_ms;
use crate::views::failure::ErrorBody;

/// The events that leave the log.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"before": "90d"}))]
pub(super) struct CompactBody {
    /// The age of the events that leave the log, at least `1d`.
    before: String,
}

/// Move old events to an archive.
///
/// A worker writes the events to a file in `DATA_DIR/archive`, and removes them from the log. No
/// state is lost. Requests for a removed position get 410 `log_truncated`. The compaction is a job of
/// the user `mcp-api`. Only one compaction runs at a time, and a second request gets the answer of the
/// running job.
#[utoipa::path(
    post, operation_id = "compact_log", path = "/log/compact", tag = "events",
    params(PreferAsync), request_body = CompactBody,
    responses(
        (status = 200, description = "The compaction has ended",
            body = Success<CompactionReport>),
        (status = 202, description = "The job is accepted; see `Location`", body = JobAccepted),
        (status = 409, description = "A user has cancelled the job", body = ErrorBody),
    )
)]
pub(super) async fn compact(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    prefer: PreferAsync,
    JsonBody { value: body, .. }: JsonBody<CompactBody>,
) -> Result<Response, ApiError> {
    let age =
        parse_retention(&body.before).map_err(|why| Failure::invalid(format!("before {why}")))?;
    let command = CompactLog {
        before: now_ms().saturating_sub(age.as_millis() as u64),
    };
    let job = NewJob::maintenance(&command, Actor::from(&*caller))?;
    submit(&state, &caller, prefer, job).await
}
