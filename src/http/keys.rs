//! `/keys`: which keys lie around what is sealed, and everything under the new one. Never a key itself.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::facade::Facade;
use super::reply::{ErrorBody, Refused, Success, success};
use crate::core::command::{CountKeys, KeyUse, Rewrap, Rewrapped};
use crate::core::failure::Failure;
use crate::core::names::ValueId;

/// A part takes two seconds; at the end everything is looked at once more.
const TIME: Duration = Duration::from_secs(60);

/// Which part.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Part {
    /// `next` of the part before; from the beginning where absent.
    #[param(value_type = Option<String>)]
    after: Option<ValueId>,
}

/// How many sealed values lie under SECRETS_KEY, and how many under an earlier key.
#[utoipa::path(get, operation_id = "count_keys", path = "/keys", tag = "keys", responses((status = 200, description = "Done", body = Success<KeyUse>)))]
pub async fn count(State(facade): State<Arc<Facade>>) -> Result<Response, Refused> {
    success(facade.ask(&CountKeys {}, TIME).await?)
}

/// Put what lies under an earlier key under SECRETS_KEY, as much as fits into two seconds. Ask again with
/// `after` set to `next` until there is none; `finished` says that SECRETS_KEYS_OLD can be dropped.
#[utoipa::path(post, operation_id = "rotate_keys", path = "/keys/rotate", tag = "keys", params(Part),
    responses((status = 200, description = "Done", body = Success<Rewrapped>), (status = 400, description = "The request is wrong; `error` says which field, and what would be right", body = ErrorBody)))]
pub async fn rotate(
    State(facade): State<Arc<Facade>>,
    part: Result<Query<Part>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(Part { after }) = part.map_err(|_| Failure::invalid("after must be the next of an earlier answer"))?;
    success(facade.ask(&Rewrap { after }, TIME).await?)
}
