//! `/dead`: messages of producers that nobody can read.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::ApiState;
use crate::core::command::{DiscardDeadLetter, RetryDeadLetter};
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::dead_letter::DeadLetter;
use crate::views::failure::ErrorBody;

const TIME: Duration = Duration::from_secs(15);

#[derive(Serialize, ToSchema)]
pub struct DeadLettersView {
    letters: Vec<DeadLetter>,
}

/// The dead letters, the newest first. What they hold is not shown.
#[utoipa::path(get, operation_id = "list_dead_letters", path = "/dead", tag = "jobs", responses((status = 200, description = "Done", body = Success<DeadLettersView>)))]
pub async fn list(State(facade): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    success(DeadLettersView {
        letters: facade
            .projection
            .catalog()
            .dead_letters
            .all()
            .rev()
            .cloned()
            .collect(),
    })
}

/// Read a dead letter once more; what can be read now is a job, and the letter is gone.
#[utoipa::path(post, operation_id = "retry_dead_letter", path = "/dead/{letter}/retry", tag = "jobs", params(("letter" = String, Path)),
    responses((status = 200, description = "It is a job now", body = Success<EmptyBody>), (status = 400, description = "It still cannot be read; `error` says why", body = ErrorBody), (status = 404, description = "There is no such letter", body = ErrorBody)))]
pub async fn retry(
    State(facade): State<Arc<ApiState>>,
    Path(letter): Path<String>,
) -> Result<Response, ApiError> {
    facade
        .send_command(
            &RetryDeadLetter {
                letter: parse(&letter)?,
            },
            TIME,
        )
        .await?;
    success(EmptyBody {})
}

/// Drop a dead letter and what it holds.
#[utoipa::path(delete, operation_id = "drop_dead_letter", path = "/dead/{letter}", tag = "jobs", params(("letter" = String, Path)),
    responses((status = 200, description = "Done", body = Success<EmptyBody>), (status = 404, description = "There is no such letter", body = ErrorBody)))]
pub async fn drop_letter(
    State(facade): State<Arc<ApiState>>,
    Path(letter): Path<String>,
) -> Result<Response, ApiError> {
    facade
        .send_command(
            &DiscardDeadLetter {
                letter: parse(&letter)?,
            },
            TIME,
        )
        .await?;
    success(EmptyBody {})
}

/// What is no id is the id of no letter.
fn parse(letter: &str) -> Result<ValueId, Failure> {
    letter
        .parse()
        .map(ValueId)
        .map_err(|_| crate::core::decide::dead_letter::dead_letter_not_found("of that id"))
}
