//! `/keys`: which keys lie around what is sealed, and everything under the new one. Never a key itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::jobs;
use super::respond::json::{ApiError, Success, success};
use super::state::ApiState;
use crate::core::command::{CountKeys, KeyUsage, RotateKeys, RotationReport};
use crate::core::event::Actor;
use crate::jobs::client::NewJob;
use crate::views::failure::ErrorBody;

/// How long everything may take to be looked at.
const TIME: Duration = Duration::from_secs(60);

/// How many sealed values lie under SECRETS_KEY, and how many under an earlier key.
#[utoipa::path(get, operation_id = "count_keys", path = "/keys", tag = "keys", responses((status = 200, description = "Done", body = Success<KeyUsage>)))]
pub async fn count(State(facade): State<Arc<ApiState>>) -> Result<Response, ApiError> {
    success(facade.send_command(&CountKeys {}, TIME).await?)
}

/// Put everything that lies under an earlier key under SECRETS_KEY. It is a job of the user `mcp-api`, one at a time:
/// who asks while it waits or runs gets that one. `finished` says that SECRETS_KEYS_OLD can be dropped.
#[utoipa::path(post, operation_id = "rotate_keys", path = "/keys/rotate", tag = "keys",
    responses((status = 200, description = "Everything was looked at; `finished` says whether it is enough", body = Success<RotationReport>), (status = 202, description = "With Prefer: respond-async; Location says where the answer will be", body = jobs::Accepted), (status = 409, description = "Somebody has cancelled it", body = ErrorBody)))]
pub async fn rotate(
    State(facade): State<Arc<ApiState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let new = NewJob::maintenance(
        &RotateKeys {
            to: facade.sealer.key_id(),
        },
        Actor::Api,
    )?;
    if jobs::prefers_async(&headers) {
        jobs::submit_and_accept(&facade, new).await
    } else {
        jobs::submit_and_wait(&facade, new).await
    }
}
