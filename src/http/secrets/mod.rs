//! `/secrets`: set and delete. No route lists secrets or reads their values.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::auth::SecretsCaller;
use super::extract::idempotency::IdempotencyHeader;
use super::extract::json::JsonBody;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::{ApiState, change_origin};
use crate::core::command::{DeleteSecret, SetSecret};
use crate::core::decide::access::Action;
use crate::core::ids::ValueId;
use crate::core::model::secret::plain_name;
use crate::core::names::{SecretName, ServerName, UserName};
use crate::crypto::context::SecretContext;
use crate::views::failure::ErrorBody;

/// The longest time for setting or deleting a secret.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

/// A user's secret for one server.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "username": "ana", "serverName": "everything",
    "secretName": "message", "secretValue": "only for ana",
}))]
pub(super) struct SetBody {
    /// The user of the secret; the caller if absent, and `default` for a caller without a user.
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    #[schema(value_type = String, example = "everything")]
    server_name: ServerName,
    /// The argument that gets the value in every call of this user to this server.
    #[schema(value_type = String, example = "message")]
    secret_name: SecretName,
    #[schema(value_type = String, example = "only for ana")]
    secret_value: Zeroizing<String>,
    /// If true, a stored value stays, and the answer is 409 `conflict`.
    #[serde(default)]
    if_absent: bool,
}

/// The name of a user's secret for one server.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({
    "username": "ana", "serverName": "everything", "secretName": "message",
}))]
pub(super) struct DeleteBody {
    /// The user of the secret; the caller if absent, and `default` for a caller without a user.
    #[schema(value_type = Option<String>)]
    username: Option<UserName>,
    #[schema(value_type = String, example = "everything")]
    server_name: ServerName,
    #[schema(value_type = String, example = "message")]
    secret_name: SecretName,
}

/// Store a secret, encrypted. A stored value with this name is replaced.
#[utoipa::path(
    post, operation_id = "set_secret", path = "/secrets/set", tag = "secrets",
    params(IdempotencyHeader), request_body = SetBody,
    responses(
        (status = 200, description = "The secret is stored", body = Success<EmptyBody>),
        (status = 404, description = "No server has this name", body = ErrorBody),
        (status = 409, description = "With `ifAbsent`: a stored value stays", body = ErrorBody),
    )
)]
pub(super) async fn set(
    State(state): State<Arc<ApiState>>,
    SecretsCaller(caller): SecretsCaller,
    key: IdempotencyHeader,
    JsonBody { value: body, bytes }: JsonBody<SetBody>,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(body.username)?;
    let server = state
        .find_server_for(&caller, Action::ManageSecrets, &body.server_name)?
        .id;
    let name = plain_name(&body.server_name, body.secret_name);
    let context = SecretContext {
        server,
        user: &user,
        name: &name,
        value: ValueId(Uuid::now_v7()),
    };
    let sealed = state.seal(context, &body.secret_value)?;
    let command = SetSecret {
        origin: change_origin(&caller, key.user_key(&state, &user, &bytes)?),
        server,
        server_name: body.server_name,
        user,
        name,
        value: sealed.value,
        sealed: sealed.sealed,
        if_absent: body.if_absent,
    };
    state.send_command(&command, COMMAND_LIMIT).await?;
    success(EmptyBody {})
}

/// Delete a secret. The store has no value of it when the answer arrives.
#[utoipa::path(
    post, operation_id = "delete_secret", path = "/secrets/delete", tag = "secrets",
    params(IdempotencyHeader), request_body = DeleteBody,
    responses(
        (status = 200, description = "The secret is deleted", body = Success<EmptyBody>),
        (status = 404, description = "The server or the secret does not exist", body = ErrorBody),
    )
)]
pub(super) async fn delete(
    State(state): State<Arc<ApiState>>,
    SecretsCaller(caller): SecretsCaller,
    key: IdempotencyHeader,
    JsonBody { value: body, bytes }: JsonBody<DeleteBody>,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(body.username)?;
    state.find_server_for(&caller, Action::ManageSecrets, &body.server_name)?;
    let name = plain_name(&body.server_name, body.secret_name);
    let command = DeleteSecret {
        origin: change_origin(&caller, key.user_key(&state, &user, &bytes)?),
        server_name: body.server_name,
        user,
        name,
    };
    state.send_command(&command, COMMAND_LIMIT).await?;
    success(EmptyBody {})
}
