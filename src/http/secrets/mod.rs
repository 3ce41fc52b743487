//! `/secrets`: set and delete. There is no way to list secrets or to read one back.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::extract::idempotency::IdempotencyHeader;
use super::extract::json;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::{ApiState, new_command_id};
use crate::core::command::{DeleteSecret, SetSecret};
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::secret::plain_name;
use crate::core::names::{SecretName, ServerName, UserName};
use crate::crypto::context::SecretContext;
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;

const TIME: Duration = Duration::from_secs(15);

/// A user's secret for a server.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"username": "ana", "serverName": "everything", "secretName": "message", "secretValue": "only for ana"}))]
pub struct SetBody {
    /// `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    username: UserName,
    #[schema(value_type = String, example = "everything")]
    server_name: ServerName,
    /// The argument it becomes in every tool call of that user to that server.
    #[schema(value_type = String, example = "message")]
    secret_name: SecretName,
    #[schema(value_type = String, example = "only for me")]
    secret_value: Zeroizing<String>,
    /// A value that is there already stays: 409 `conflict`.
    #[serde(default)]
    if_absent: bool,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"username": "ana", "serverName": "everything", "secretName": "message"}))]
pub struct DeleteBody {
    /// `default` where absent.
    #[serde(default)]
    #[schema(value_type = String, required = false)]
    username: UserName,
    #[schema(value_type = String, example = "everything")]
    server_name: ServerName,
    #[schema(value_type = String, example = "message")]
    secret_name: SecretName,
}

/// Store a secret, encrypted; an earlier value of the same name is replaced.
#[utoipa::path(post, operation_id = "set_secret", path = "/secrets/set", tag = "secrets", request_body = SetBody,
    responses((status = 200, description = "Done", body = Success<EmptyBody>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody), (status = 404, description = "There is no such server", body = ErrorBody), (status = 409, description = "With `ifAbsent`: one is there already, and stays", body = ErrorBody)))]
pub async fn set(
    State(facade): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let keyed = IdempotencyHeader::of(&request)?;
    let body = json::read_json(request, facade.limits.payload).await?;
    let SetBody {
        username: user,
        server_name,
        secret_name,
        secret_value,
        if_absent,
    } = json::parse_json(&body)?;
    let server = facade
        .projection
        .catalog()
        .server(server_name.as_str())
        .map(|server| server.id);
    let server = server.ok_or_else(|| Failure::server_not_found(&server_name))?;
    let name = plain_name(&server_name, secret_name);
    let value = ValueId(Uuid::now_v7());
    // Sealed at the door: from here on nobody has the value but the worker that injects it.
    let place = SecretContext {
        server,
        user: &user,
        name: &name,
        value,
    };
    let sealed = facade
        .sealer
        .seal(place, &secret_value)
        .map_err(internal_error)?;
    let sealed = BASE64_STANDARD.encode(&sealed.0);
    let key = keyed
        .map(|keyed| keyed.key(&facade, &user, &body))
        .transpose()?;
    facade
        .send_command(
            &SetSecret {
                id: new_command_id(),
                key,
                server,
                server_name,
                user,
                name,
                value,
                sealed,
                if_absent,
            },
            TIME,
        )
        .await?;
    success(EmptyBody {})
}

/// Remove a secret: once this is answered its value is gone from the store.
#[utoipa::path(post, operation_id = "delete_secret", path = "/secrets/delete", tag = "secrets", request_body = DeleteBody,
    responses((status = 200, description = "Done", body = Success<EmptyBody>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody),
        (status = 404, description = "There is no such server or secret", body = ErrorBody)))]
pub async fn delete(
    State(facade): State<Arc<ApiState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let keyed = IdempotencyHeader::of(&request)?;
    let body = json::read_json(request, facade.limits.payload).await?;
    let DeleteBody {
        username: user,
        server_name,
        secret_name,
    } = json::parse_json(&body)?;
    let name = plain_name(&server_name, secret_name);
    let key = keyed
        .map(|keyed| keyed.key(&facade, &user, &body))
        .transpose()?;
    facade
        .send_command(
            &DeleteSecret {
                id: new_command_id(),
                key,
                server_name,
                user,
                name,
            },
            TIME,
        )
        .await?;
    success(EmptyBody {})
}
