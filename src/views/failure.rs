//! The JSON body of failures, and the HTTP status of each code.

use std::num::NonZeroU64;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::core::failure::{Code, Failure};
use crate::core::names::SecretName;

/// The body of every failed request.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({"success": false, "error": "Server everything not found", "code": "server_not_found"}))]
pub struct ErrorBody<'a> {
    #[schema(default = false)]
    success: bool,
    /// One sentence that names the problem and the remedy.
    error: &'a str,
    code: Code,
    /// The last lines that the MCP server printed.
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    /// True if the MCP server may have done the work although no answer came.
    #[serde(skip_serializing_if = "Option::is_none")]
    may_have_run: Option<bool>,
    /// The JSON-RPC error of the MCP server: `{code, message, data?}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    mcp_error: Option<&'a RawValue>,
    /// True if a person must authorize the access, or authorize it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    reauth_required: Option<bool>,
    /// The URL at which a person authorizes the access in a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_url: Option<&'a str>,
    /// The names of the credentials that the call needs and that are not set.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Option<Vec<String>>)]
    missing: &'a [SecretName],
    /// The page on which the user sets the missing credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_url: Option<&'a str>,
    /// The oldest position that the event log still has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    oldest: Option<NonZeroU64>,
}

impl<'a> ErrorBody<'a> {
    pub fn from_failure(failure: &'a Failure) -> Self {
        let Failure {
            code,
            message,
            details,
            details_for_admins: _,
            may_have_run,
            mcp_error,
            authorization_url,
            missing: _,
            scope: _,
            retry_after: _,
            elsewhere: _,
            oldest,
        } = failure;
        Self {
            success: false,
            error: message,
            code: *code,
            details: details.as_deref(),
            may_have_run: may_have_run.then_some(true),
            mcp_error: mcp_error.as_deref(),
            reauth_required: (*code == Code::ReauthRequired).then_some(true),
            authorization_url: authorization_url.as_deref(),
            missing: failure.missing_names(),
            connect_url: failure.connect_url(),
            oldest: *oldest,
        }
    }

    /// Returns the body as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Code {
    /// Returns the HTTP status of this code.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthenticated | Self::ReauthRequired | Self::CredentialRequired => 401,
            Self::Forbidden => 403,
            Self::ServerNotFound
            | Self::PackageNotFound
            | Self::SecretNotFound
            | Self::JobNotFound
            | Self::TokenNotFound
            | Self::RouteNotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::ServerAlreadyExists | Self::ServerDisabled | Self::Conflict => 409,
            Self::LogTruncated => 410,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::UpstreamError | Self::OutcomeUnknown | Self::ResultTooLarge => 502,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }
}
