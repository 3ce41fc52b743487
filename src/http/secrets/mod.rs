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
use crate::core::catalog::server::Server;
use crate::core::command::{ChangeOrigin, DeleteSecret, SetSecret};
use crate::core::decide::access::{Action, missing_scope};
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::model::caller::{Caller, Scope};
use crate::core::model::credential::CredentialOwner;
use crate::core::model::credential_check::check_value;
use crate::core::model::idempotency::IdempotencyKey;
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
    /// If true, the value serves all users: the credential has `"owner": "shared"`. Only an administrator sets such a
    /// value, and the request has no `username`.
    #[serde(default)]
    shared: bool,
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
    /// If true, the request deletes the value that serves all users. Only an administrator deletes such a value, and
    /// the request has no `username`.
    #[serde(default)]
    shared: bool,
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
    let owner = SecretOwner::from_request(&caller, body.username, body.shared)?;
    let server = state.find_server_for(&caller, Action::ManageSecrets, &body.server_name)?;
    let name = plain_name(&body.server_name, body.secret_name);
    if let Some(credential) = server.config.credential(&name, owner.kind()) {
        check_value(credential, &body.secret_value)?;
    }
    let secret = NewSecret {
        origin: change_origin(&caller, owner.key(&state, &key, &bytes)?),
        user: owner.into_user(),
        name,
        if_absent: body.if_absent,
    };
    store_secret(&state, &server, secret, &body.secret_value).await?;
    success(EmptyBody {})
}

/// A secret to store, without its value.
pub(super) struct NewSecret {
    pub(super) origin: ChangeOrigin,
    /// `None` for a value that all users share.
    pub(super) user: Option<UserName>,
    pub(super) name: SecretName,
    /// Whether an existing value stays.
    pub(super) if_absent: bool,
}

/// Seals the value of a secret, and makes a worker store it.
///
/// # Errors
/// Fails if the server was deleted, or if a stored value stays.
pub(super) async fn store_secret(
    state: &ApiState,
    server: &Server,
    secret: NewSecret,
    value: &str,
) -> Result<(), Failure> {
    let context = SecretContext {
        server: server.id,
        user: secret.user.as_ref(),
        name: &secret.name,
        value: ValueId(Uuid::now_v7()),
    };
    let sealed = state.seal(context, value)?;
    let command = SetSecret {
        origin: secret.origin,
        server: server.id,
        server_name: server.name.clone(),
        user: secret.user,
        name: secret.name,
        value: sealed.value,
        sealed: sealed.sealed,
        if_absent: secret.if_absent,
    };
    state.send_command(&command, COMMAND_LIMIT).await
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
    let owner = SecretOwner::from_request(&caller, body.username, body.shared)?;
    state.find_server_for(&caller, Action::ManageSecrets, &body.server_name)?;
    let name = plain_name(&body.server_name, body.secret_name);
    let command = DeleteSecret {
        origin: change_origin(&caller, owner.key(&state, &key, &bytes)?),
        server_name: body.server_name,
        user: owner.into_user(),
        name,
    };
    delete_secret(&state, &command).await?;
    success(EmptyBody {})
}

/// Makes a worker delete a secret.
///
/// # Errors
/// Fails if no value is stored, or if the server was deleted.
pub(super) async fn delete_secret(state: &ApiState, command: &DeleteSecret) -> Result<(), Failure> {
    state.send_command(command, COMMAND_LIMIT).await
}

/// The owner of a secret: one user, or all users.
enum SecretOwner {
    User(UserName),
    Shared,
}

impl SecretOwner {
    /// Returns the owner that a request names.
    ///
    /// # Errors
    /// Fails if the caller may not act for the owner, or if the request names a user of a shared value.
    fn from_request(
        caller: &Caller,
        username: Option<UserName>,
        shared: bool,
    ) -> Result<Self, Failure> {
        if !shared {
            return Ok(Self::User(caller.acts_for(username)?));
        }
        if username.is_some() {
            return Err(Failure::invalid(
                "username and \"shared\": true exclude each other; remove username",
            ));
        }
        if !caller.is_admin() {
            return Err(missing_scope(Scope::Admin));
        }
        Ok(Self::Shared)
    }

    fn kind(&self) -> CredentialOwner {
        match self {
            Self::User(_) => CredentialOwner::User,
            Self::Shared => CredentialOwner::Shared,
        }
    }

    fn into_user(self) -> Option<UserName> {
        match self {
            Self::User(user) => Some(user),
            Self::Shared => None,
        }
    }

    /// Returns the idempotency key of the request, which belongs to the owner.
    fn key(
        &self,
        state: &ApiState,
        key: &IdempotencyHeader,
        bytes: &[u8],
    ) -> Result<Option<IdempotencyKey>, Failure> {
        match self {
            Self::User(user) => key.user_key(state, user, bytes),
            Self::Shared => key.shared_key(state, bytes),
        }
    }
}
