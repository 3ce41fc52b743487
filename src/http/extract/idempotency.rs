//! The header `Idempotency-Key`: a repeat with the same key and body gets the first result.

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::headers::header_parameter;
use crate::core::failure::Failure;
use crate::core::model::idempotency::{IdempotencyKey, JobIdempotencyKey};
use crate::core::names::{ServerName, UserName};
use crate::http::respond::json::ApiError;
use crate::http::state::ApiState;

/// The longest key in characters.
const MAX_KEY: usize = 255;
/// The name of the header.
const HEADER: &str = "idempotency-key";

/// The `Idempotency-Key` of a request, if the client sent one.
pub(crate) struct IdempotencyHeader(Option<KeyedRequest>);

struct KeyedRequest {
    key: String,
    /// Method and path of the request.
    route: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyHeader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let key = header_value(&parts.headers)?;
        Ok(Self(key.map(|key| KeyedRequest {
            key,
            route: format!("{} {}", parts.method, parts.uri.path()),
        })))
    }
}

impl IntoParams for IdempotencyHeader {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let text = "A repeat with the same key and body gets the first result";
        vec![header_parameter("Idempotency-Key", text)]
    }
}

fn header_value(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(key) = values.next() else {
        return Ok(None);
    };
    let is_single = values.next().is_none();
    key.to_str()
        .ok()
        .filter(|key| is_single && !key.is_empty() && key.len() <= MAX_KEY)
        .map(|key| Some(key.to_owned()))
        .ok_or_else(|| {
            Failure::invalid(format!(
                "Idempotency-Key must be one text of 1 to {MAX_KEY} visible ASCII characters"
            ))
        })
}

impl IdempotencyHeader {
    pub(crate) fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the key of a change that belongs to no user.
    ///
    /// # Errors
    /// `internal` if the deployment key cannot be used.
    pub(crate) fn shared_key(
        &self,
        state: &ApiState,
        body: &[u8],
    ) -> Result<Option<IdempotencyKey>, Failure> {
        self.user_key(state, &UserName::default(), body)
    }

    /// Returns the key of a user's change. Keys of other methods, paths and users differ.
    ///
    /// # Errors
    /// `internal` if the deployment key cannot be used.
    pub(crate) fn user_key(
        &self,
        state: &ApiState,
        user: &UserName,
        body: &[u8],
    ) -> Result<Option<IdempotencyKey>, Failure> {
        let Some(request) = &self.0 else {
            return Ok(None);
        };
        let scope = [
            request.route.as_bytes(),
            user.as_str().as_bytes(),
            request.key.as_bytes(),
        ];
        Ok(Some(IdempotencyKey {
            scope: state.digest("request", &scope)?,
            body: state.digest("body", &[body])?,
            user: Some(state.digest("user of a request", &[user.as_str().as_bytes()])?),
        }))
    }

    /// Returns the key of a user's job.
    ///
    /// # Errors
    /// `internal` if the deployment key cannot be used.
    pub(crate) fn job_key(
        &self,
        state: &ApiState,
        user: &UserName,
        body: &[u8],
    ) -> Result<Option<JobIdempotencyKey>, Failure> {
        let request = self.user_key(state, user, body)?;
        Ok(request.map(|request| JobIdempotencyKey {
            // The limits of jobs apply to the user of a job.
            request: IdempotencyKey {
                user: None,
                ..request
            },
            until: Some(state.job_client().idempotency_expiry()),
        }))
    }
}

/// Returns the key of one job of a request that makes a job for each of several servers.
///
/// # Errors
/// `internal` if the deployment key cannot be used.
pub(crate) fn key_for_server(
    state: &ApiState,
    key: JobIdempotencyKey,
    server: &ServerName,
) -> Result<JobIdempotencyKey, Failure> {
    let scope = [key.request.scope.0.as_bytes(), server.as_str().as_bytes()];
    Ok(JobIdempotencyKey {
        request: IdempotencyKey {
            scope: state.digest("request for a server", &scope)?,
            ..key.request
        },
        until: key.until,
    })
}
