//! `/dead`: dead letters, which are messages of producers that no worker can parse.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::AdminCaller;
use super::extract::path::PathText;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::ApiState;
use crate::core::command::{DiscardDeadLetter, RetryDeadLetter};
use crate::core::decide::dead_letter::dead_letter_not_found;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;
use crate::views::failure::ErrorBody;

/// The longest time for a retry or a removal.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

#[derive(Serialize, ToSchema)]
pub(super) struct DeadLettersView {
    #[serde(rename = "letters")]
    dead_letters: Vec<DeadLetter>,
}

/// List the dead letters, newest first. The list shows no message.
#[utoipa::path(
    get, operation_id = "list_dead_letters", path = "/dead", tag = "jobs",
    responses((status = 200, description = "The dead letters", body = Success<DeadLettersView>))
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
) -> Result<Response, ApiError> {
    let dead_letters = state.catalog().dead_letters.all().rev().cloned().collect();
    success(DeadLettersView { dead_letters })
}

/// Parse a dead letter again. A message that a worker can parse now becomes a job.
#[utoipa::path(
    post, operation_id = "retry_dead_letter", path = "/dead/{letter}/retry", tag = "jobs",
    params(("letter" = String, Path, description = "The id of the dead letter")),
    responses(
        (status = 200, description = "The message is a job now", body = Success<EmptyBody>),
        (status = 400, description = "No worker can parse the message; see `error`",
            body = ErrorBody),
        (status = 404, description = "No dead letter has this id", body = ErrorBody),
    )
)]
pub(super) async fn retry(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
    PathText(id): PathText,
) -> Result<Response, ApiError> {
    let id = parse_dead_letter_id(&id)?;
    state
        .send_command(&RetryDeadLetter { dead_letter: id }, COMMAND_LIMIT)
        .await?;
    success(EmptyBody {})
}

/// Remove a dead letter and its message.
#[utoipa::path(
    delete, operation_id = "drop_dead_letter", path = "/dead/{letter}", tag = "jobs",
    params(("letter" = String, Path, description = "The id of the dead letter")),
    responses(
        (status = 200, description = "The dead letter is removed", body = Success<EmptyBody>),
        (status = 404, description = "No dead letter has this id", body = ErrorBody),
    )
)]
pub(super) async fn discard(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
    PathText(id): PathText,
) -> Result<Response, ApiError> {
    let id = parse_dead_letter_id(&id)?;
    state
        .send_command(&DiscardDeadLetter { dead_letter: id }, COMMAND_LIMIT)
        .await?;
    success(EmptyBody {})
}

/// A text that is no id is the id of no dead letter.
fn parse_dead_letter_id(text: &str) -> Result<ValueId, Failure> {
    text.parse()
        .map(ValueId)
        .map_err(|_| dead_letter_not_found("with this id"))
}
