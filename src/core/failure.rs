//! Failures: the error of a request. A program reads the code, and the caller reads the sentence. The whole chain of
//! causes is in the log only.

use std::num::NonZeroU64;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::ids::Position;
use super::names::SecretName;

/// The stable code of a failure, in `snake_case` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    InvalidRequest,
    Unauthenticated,
    ReauthRequired,
    CredentialRequired,
    Forbidden,
    ServerNotFound,
    PackageNotFound,
    SecretNotFound,
    JobNotFound,
    TokenNotFound,
    RouteNotFound,
    MethodNotAllowed,
    ServerAlreadyExists,
    ServerDisabled,
    Conflict,
    LogTruncated,
    PayloadTooLarge,
    UnsupportedMediaType,
    RateLimited,
    UpstreamError,
    OutcomeUnknown,
    ResultTooLarge,
    Unavailable,
    Timeout,
    Internal,
}

impl Code {
    pub const ALL: [Self; 25] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::ReauthRequired,
        Self::CredentialRequired,
        Self::Forbidden,
        Self::ServerNotFound,
        Self::PackageNotFound,
        Self::SecretNotFound,
        Self::JobNotFound,
        Self::TokenNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::ServerAlreadyExists,
        Self::ServerDisabled,
        Self::Conflict,
        Self::LogTruncated,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::RateLimited,
        Self::UpstreamError,
        Self::OutcomeUnknown,
        Self::ResultTooLarge,
        Self::Unavailable,
        Self::Timeout,
        Self::Internal,
    ];

    /// Returns the code as responses, logs and metrics show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::ReauthRequired => "reauth_required",
            Self::CredentialRequired => "credential_required",
            Self::Forbidden => "forbidden",
            Self::ServerNotFound => "server_not_found",
            Self::PackageNotFound => "package_not_found",
            Self::SecretNotFound => "secret_not_found",
            Self::JobNotFound => "job_not_found",
            Self::TokenNotFound => "token_not_found",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ServerAlreadyExists => "server_already_exists",
            Self::ServerDisabled => "server_disabled",
            Self::Conflict => "conflict",
            Self::LogTruncated => "log_truncated",
            Self::PayloadTooLarge => "payload_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RateLimited => "rate_limited",
            Self::UpstreamError => "upstream_error",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::ResultTooLarge => "result_too_large",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// The error of a request. A worker returns it, and a facade shows it.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub code: Code,
    /// One sentence for the caller, with the field, the problem and the remedy.
    pub message: String,
    /// The last lines that a server or an installer printed. Secrets are masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// `details` may hold lines that calls of other users or an installer printed, so only administrators see them.
    /// Processes exchange this field and never show it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub details_for_admins: bool,
    /// The MCP server may have done the work although no answer came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_have_run: bool,
    /// The JSON-RPC error of the MCP server: `{code, message, data?}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_error: Option<Box<RawValue>>,
    /// The URL at which a person authorizes the access, for `reauth_required`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_url: Option<Box<str>>,
    /// For `credential_required`. It is boxed, so that a failure stays small.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Box<MissingCredentials>>,
    /// For `reauth_required`: the scopes that the person must allow, if there are more than before. `authorization_url`
    /// requests them. For `forbidden`: the scope that the caller needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Box<str>>,
    /// Another worker runs the server, and nothing has started. Processes exchange this field and never show it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// The time after which a retry makes sense, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u16>,
    /// The oldest position of a shortened log, for `log_truncated`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<NonZeroU64>,
}

/// The credentials that are not set: those of the user, or the shared ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingCredentials {
    pub names: Vec<SecretName>,
    /// The page on which the user sets them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_url: Option<String>,
}

impl Failure {
    /// Returns the names of the credentials that are not set.
    pub fn missing_names(&self) -> &[SecretName] {
        self.missing.as_ref().map_or(&[], |missing| &missing.names)
    }

    /// Returns the page on which the user sets the missing credentials.
    pub fn connect_url(&self) -> Option<&str> {
        self.missing.as_ref()?.connect_url.as_deref()
    }

    /// Adds the page on which the user sets the missing credentials.
    #[must_use]
    pub fn with_connect_url(mut self, url: String) -> Self {
        if let Some(missing) = &mut self.missing {
            missing.connect_url = Some(url);
        }
        self
    }

    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            details_for_admins: false,
            may_have_run: false,
            mcp_error: None,
            authorization_url: None,
            missing: None,
            scope: None,
            elsewhere: false,
            retry_after: None,
            oldest: None,
        }
    }

    /// Returns the failure for a request that breaks a rule.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// Returns the failure for work that has not started. A retry after one second may succeed.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(Code::Unavailable, message)
        }
    }

    /// Returns the failure of a worker that must not run the server, because another worker owns it.
    pub fn elsewhere(server: impl std::fmt::Display) -> Self {
        Self {
            elsewhere: true,
            ..Self::unavailable(format!("Server {server} moves to another worker; retry"))
        }
    }

    /// Returns the failure for a bug of the program. `telemetry::internal_error` logs the cause, and the caller does not
    /// see it.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "The request failed because of a bug in mcp-api; its log says more",
        )
    }

    /// Returns the failure of a request for a position that is not in the log any more.
    pub fn log_truncated(oldest: Position, message: impl Into<String>) -> Self {
        Self {
            oldest: NonZeroU64::new(oldest.0),
            ..Self::new(Code::LogTruncated, message)
        }
    }

    pub fn server_not_found(name: impl std::fmt::Display) -> Self {
        Self::new(Code::ServerNotFound, format!("Server {name} not found"))
    }

    pub fn job_not_found(id: impl std::fmt::Display) -> Self {
        Self::new(
            Code::JobNotFound,
            format!(
                "Job {id} not found; it may belong to another user, or its answer may have expired"
            ),
        )
    }

    /// Adds the last lines that a server or an installer printed.
    #[must_use]
    pub fn with_details(mut self, details: Option<String>) -> Self {
        self.details = details.filter(|text| !text.is_empty());
        self
    }

    /// Adds lines that only administrators see.
    #[must_use]
    pub fn with_details_for_admins(self, details: Option<String>) -> Self {
        let failure = self.with_details(details);
        Self {
            details_for_admins: failure.details.is_some(),
            ..failure
        }
    }

    /// Removes the details that only administrators see.
    #[must_use]
    pub fn without_details_for_admins(mut self) -> Self {
        if self.details_for_admins {
            self.details = None;
            self.details_for_admins = false;
        }
        self
    }

    /// Marks work that may have been done although no answer came.
    #[must_use]
    pub fn maybe_run(mut self) -> Self {
        self.may_have_run = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_has_one_spelling() {
        for code in Code::ALL {
            let json = serde_json::to_string(&code).expect("JSON");
            assert_eq!(json, format!("\"{}\"", code.as_str()));
        }
    }

    #[test]
    fn empty_details_are_no_details() {
        let failure = Failure::internal().with_details(Some(String::new()));
        assert_eq!(failure.details, None);
    }

    #[test]
    fn details_for_admins_are_removed_and_other_details_stay() {
        let lines = || Some("a line".to_owned());
        let for_all = Failure::internal().with_details(lines());
        assert_eq!(for_all.without_details_for_admins().details, lines());
        let for_admins = Failure::internal().with_details_for_admins(lines());
        assert!(for_admins.details_for_admins);
        assert_eq!(for_admins.without_details_for_admins().details, None);
    }

    #[test]
    fn an_optional_field_without_a_value_is_not_written() {
        let json = serde_json::to_string(&Failure::invalid("no")).expect("JSON");
        assert_eq!(json, r#"{"code":"invalid_request","message":"no"}"#);
    }
}
