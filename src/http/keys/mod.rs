//! `/keys`: the use of the deployment keys, and key rotation. No route shows a key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;

use super::auth::AdminCaller;
use super::extract::headers::PreferAsync;
use super::jobs::JobAccepted;
use super::jobs::submit::submit;
use super::respond::json::{ApiError, Success, success};
use super::state::ApiState;
use crate::core::command::{CountKeys, KeyUsage, RotateKeys, RotationReport};
use crate::core::event::Actor;
use crate::jobs::client::NewJob;
use crate::views::failure::ErrorBody;

/// The longest time for counting the wrappings of all values.
const COUNT_LIMIT: Duration = Duration::from_secs(60);

/// Count the sealed values under `SECRETS_KEY` and under earlier keys.
#[utoipa::path(
    get, operation_id = "count_keys", path = "/keys", tag = "keys",
    responses((status = 200, description = "The counts", body = Success<KeyUsage>))
)]
pub(super) async fn count(
    State(state): State<Arc<ApiState>>,
    _caller: AdminCaller,
) -> Result<Response, ApiError> {
    success(state.send_command(&CountKeys {}, COUNT_LIMIT).await?)
}

/// Encrypt the wrappings of all values with `SECRETS_KEY`.
///
/// The rotation is a job of the user `mcp-api`. Only one rotation runs at a time, and a second
/// request gets the answer of the running job. If `finished` is true, `SECRETS_KEYS_OLD` can be
/// removed.
#[utoipa::path(
    post, operation_id = "rotate_keys", path = "/keys/rotate", tag = "keys",
    params(PreferAsync),
    responses(
        (status = 200, description = "The rotation has ended; see `finished`",
            body = Success<RotationReport>),
        (status = 202, description = "The job is accepted; see `Location`", body = JobAccepted),
        (status = 409, description = "A user has cancelled the job", body = ErrorBody),
    )
)]
pub(super) async fn rotate(
    State(state): State<Arc<ApiState>>,
    AdminCaller(caller): AdminCaller,
    prefer: PreferAsync,
) -> Result<Response, ApiError> {
    let command = RotateKeys {
        to: state.sealer().key_id(),
    };
    let job = NewJob::maintenance(&command, Actor::from(&*caller))?;
    submit(&state, &caller, prefer, job).await
}
