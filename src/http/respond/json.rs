//! JSON responses: `{"success":true, …}` or `{"success":false,"error":…,"code":…}`.

use axum::body::Body;
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
pub(crate) struct Success<T> {
    #[schema(default = true)]
    success: bool,
    #[serde(flatten)]
    fields: T,
}

/// An answer without further fields.
#[derive(Serialize, ToSchema)]
pub(crate) struct EmptyBody {}

/// Returns a successful answer with the status 200.
///
/// # Errors
/// `internal` if the fields cannot be encoded.
pub(crate) fn success<T: Serialize>(fields: T) -> Result<Response, ApiError> {
    success_as(StatusCode::OK, fields)
}

/// Returns a successful answer with another status.
///
/// # Errors
/// `internal` if the fields cannot be encoded.
pub(crate) fn success_as<T: Serialize>(
    status: StatusCode,
    fields: T,
) -> Result<Response, ApiError> {
    let answer = Success {
        success: true,
        fields,
    };
    let body = serde_json::to_vec(&answer).map_err(internal_error)?;
    Ok(json(status, body))
}

/// Returns a response whose body is JSON already.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A failure as a JSON response.
pub(crate) struct ApiError(pub Failure);

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
        set_retry_after(&mut response, self.0.retry_after);
        if let Some(challenge) = challenge(&self.0) {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Returns the challenge of a failed authentication (RFC 6750, section 3).
fn challenge(failure: &Failure) -> Option<HeaderValue> {
    match (failure.code, &failure.scope) {
        (Code::Unauthenticated, _) => Some(HeaderValue::from_static("Bearer")),
        (Code::Forbidden, Some(scope)) => {
            let challenge = format!(r#"Bearer error="insufficient_scope", scope="{scope}""#);
            HeaderValue::try_from(challenge).ok()
        }
        _ => None,
    }
}

/// Returns the answer of a job as the response of its request.
pub(crate) fn job_answer_response(answer: JobAnswer) -> Response {
    let mut response = json(
        status_from(answer.status),
        String::from(Box::<str>::from(answer.body)),
    );
    set_retry_after(&mut response, answer.retry_after);
    response
}

/// Returns the HTTP status of a code.
pub(crate) fn status_of(code: Code) -> StatusCode {
    status_from(code.status())
}

/// Sets `Retry-After`, in seconds.
pub(crate) fn set_retry_after(response: &mut Response, seconds: Option<u16>) {
    if let Some(seconds) = seconds {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

fn status_from(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
