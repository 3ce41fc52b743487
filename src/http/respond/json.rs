//! One way out: `{"success":true, …}` or `{"success":false,"error":…,"code":…}`, with the right status.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::core::failure::{Code, Failure};
use crate::telemetry::error::internal_error;
use crate::views::failure::ErrorBody;
use crate::views::job_answer::JobAnswer;

/// A successful answer.
#[derive(Serialize, ToSchema)]
pub struct Success<T> {
    #[schema(default = true)]
    success: bool,
    #[serde(flatten)]
    fields: T,
}

/// An answer without fields of its own.
#[derive(Serialize, ToSchema)]
pub struct EmptyBody {}

pub fn success<T: Serialize>(fields: T) -> Result<Response, ApiError> {
    success_as(StatusCode::OK, fields)
}

/// The same with another status.
pub fn success_as<T: Serialize>(status: StatusCode, fields: T) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(&Success {
        success: true,
        fields,
    })
    .map_err(|error| ApiError(internal_error(error)))?;
    Ok(json(status, body))
}

/// A body that is JSON already.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(axum::body::Body::from(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A failure as the caller sees it.
pub struct ApiError(pub Failure);

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json(
            status_of(self.0.code),
            ErrorBody::from_failure(&self.0).to_json(),
        );
        if let Some(seconds) = self.0.retry_after {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.code == Code::Unauthenticated {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The answer that a job has brought, as the request itself would have been answered.
pub fn job_answer_response(outcome: JobAnswer) -> Response {
    let JobAnswer {
        status: code,
        retry_after,
        body,
    } = outcome;
    let mut response = json(status(code), String::from(Box::<str>::from(body)));
    if let Some(seconds) = retry_after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The status of each code.
pub fn status_of(code: Code) -> StatusCode {
    status(code.status())
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
