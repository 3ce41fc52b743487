//! One way out: `{"success":true, …}` or `{"success":false,"error":…,"code":…}`, with the right status.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::core::failure::{Code, Failure};
use crate::telemetry::bug;

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
pub struct Nothing {}

pub fn success<T: Serialize>(fields: T) -> Result<Response, Refused> {
    let body = serde_json::to_vec(&Success { success: true, fields }).map_err(|error| Refused(bug(error)))?;
    Ok(json(StatusCode::OK, body))
}

/// A body that is JSON already.
pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(axum::body::Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A failure as the caller sees it.
pub struct Refused(pub Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// The body of every failure.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"success": false, "error": "Server everything not found", "code": "server_not_found"}))]
pub struct ErrorBody<'a> {
    #[schema(default = false)]
    success: bool,
    /// One sentence that says what is wrong and what would be right.
    error: &'a str,
    code: Code,
    /// The last lines that the MCP server printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    /// True where the MCP server may have done the work although no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    may_have_run: Option<bool>,
    /// The JSON-RPC error of the MCP server: `{code, message, data?}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    mcp_error: Option<&'a RawValue>,
    /// True where a person has to give access, or to give it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    reauth_required: Option<bool>,
    /// Where that person does so, in a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_url: Option<&'a str>,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Failure { code, message, details, may_have_run, mcp_error, authorization_url, retry_after, elsewhere: _ } =
            &self.0;
        let body = ErrorBody {
            success: false,
            error: message,
            code: *code,
            details: details.as_deref(),
            may_have_run: may_have_run.then_some(true),
            mcp_error: mcp_error.as_deref(),
            reauth_required: (*code == Code::ReauthRequired).then_some(true),
            authorization_url: authorization_url.as_deref(),
        };
        let mut response = json(status(*code), serde_json::to_vec(&body).unwrap_or_default());
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(*seconds));
        }
        if *code == Code::Unauthenticated {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The status of each code.
pub fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidRequest => StatusCode::BAD_REQUEST,
        Code::Unauthenticated | Code::ReauthRequired => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::ServerNotFound | Code::SecretNotFound | Code::RouteNotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::ServerAlreadyExists | Code::ServerDisabled | Code::Conflict => StatusCode::CONFLICT,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::UpstreamError | Code::OutcomeUnknown | Code::ResultTooLarge => StatusCode::BAD_GATEWAY,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
