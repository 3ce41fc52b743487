//! `/connections`: the values and grants of one user for each server. No answer holds a value.

pub(super) mod link;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::SecretsCaller;
use super::extract::idempotency::IdempotencyHeader;
use super::extract::path::{SecretsServer, ServerNamePath};
use super::extract::query::QueryParams;
use super::respond::json::{ApiError, EmptyBody, Success, success};
use super::state::{ApiState, change_origin};
use crate::core::command::Disconnect;
use crate::core::decide::access::{Action, may};
use crate::core::failure::Failure;
use crate::core::model::caller::Caller;
use crate::core::names::UserName;
use crate::time::clock::now_ms;
use crate::views::connection::ConnectionView;
use crate::views::failure::ErrorBody;

/// The longest time for the removal of a user's values.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UserQuery {
    /// The user of the connections; the caller if absent, and `default` for a caller without a user.
    #[param(value_type = Option<String>)]
    username: Option<UserName>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ConnectionList {
    connections: Vec<ConnectionView>,
}

/// List the servers that the caller may use, with the values and grants of one user.
///
/// The answer says which values are stored. No request reads a value.
#[utoipa::path(
    get, operation_id = "list_connections", path = "/connections", tag = "connections",
    params(UserQuery),
    responses((status = 200, description = "The connections", body = Success<ConnectionList>))
)]
pub(super) async fn list(
    State(state): State<Arc<ApiState>>,
    SecretsCaller(caller): SecretsCaller,
    QueryParams(query): QueryParams<UserQuery>,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(query.username)?;
    success(ConnectionList {
        connections: connections_of(&state, &caller, &user),
    })
}

/// Returns the connections of a user to all servers that the caller may use, sorted by name.
pub(super) fn connections_of(
    state: &ApiState,
    caller: &Caller,
    user: &UserName,
) -> Vec<ConnectionView> {
    let now = now_ms();
    state
        .catalog()
        .servers()
        .into_iter()
        .filter(|server| may(caller, Action::ManageSecrets, Some(server.id)).is_ok())
        .map(|server| ConnectionView::new(server, user, now))
        .collect()
}

/// Remove all that one user has stored for a server: secrets, OAuth tokens and Google tokens.
///
/// Values that all users share stay. The store has no value of the user when the answer arrives.
#[utoipa::path(
    delete, operation_id = "disconnect", path = "/connections/{name}", tag = "connections",
    params(ServerNamePath, UserQuery, IdempotencyHeader),
    responses(
        (status = 200, description = "No value of the user is stored", body = Success<EmptyBody>),
        (status = 404, description = "No server has this name", body = ErrorBody),
    )
)]
pub(super) async fn disconnect(
    State(state): State<Arc<ApiState>>,
    SecretsServer { caller, server }: SecretsServer,
    QueryParams(query): QueryParams<UserQuery>,
    key: IdempotencyHeader,
) -> Result<Response, ApiError> {
    let user = caller.acts_for(query.username)?;
    let command = Disconnect {
        origin: change_origin(&caller, key.user_key(&state, &user, &[])?),
        server: server.id,
        server_name: server.name.clone(),
        user,
        part: None,
    };
    remove_values(&state, &command).await?;
    success(EmptyBody {})
}

/// Makes a worker remove values of a user.
///
/// # Errors
/// Fails if the server was deleted.
pub(super) async fn remove_values(state: &ApiState, command: &Disconnect) -> Result<(), Failure> {
    state.send_command(command, COMMAND_LIMIT).await
}
