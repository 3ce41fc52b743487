//! What goes wrong, as its three readers need it: a code for programs, a sentence for the caller,
//! and (in the log alone) the whole chain.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The stable code of a failure, spelled in `snake_case` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    InvalidRequest,
    Unauthenticated,
    ReauthRequired,
    Forbidden,
    ServerNotFound,
    PackageNotFound,
    SecretNotFound,
    JobNotFound,
    RouteNotFound,
    MethodNotAllowed,
    ServerAlreadyExists,
    ServerDisabled,
    Conflict,
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
    pub const ALL: [Self; 22] = [
        Self::InvalidRequest,
        Self::Unauthenticated,
        Self::ReauthRequired,
        Self::Forbidden,
        Self::ServerNotFound,
        Self::PackageNotFound,
        Self::SecretNotFound,
        Self::JobNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::ServerAlreadyExists,
        Self::ServerDisabled,
        Self::Conflict,
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

    /// As it stands in answers, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthenticated => "unauthenticated",
            Self::ReauthRequired => "reauth_required",
            Self::Forbidden => "forbidden",
            Self::ServerNotFound => "server_not_found",
            Self::PackageNotFound => "package_not_found",
            Self::SecretNotFound => "secret_not_found",
            Self::JobNotFound => "job_not_found",
            Self::RouteNotFound => "route_not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ServerAlreadyExists => "server_already_exists",
            Self::ServerDisabled => "server_disabled",
            Self::Conflict => "conflict",
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

/// A failed request: what a worker answers and what the facade shows.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    pub code: Code,
    /// One sentence for the caller: it names the field and says what would be right.
    pub message: String,
    /// The last lines a server or a tool printed, secrets masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<String>,
    /// The MCP server may have done the work although no answer came.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_have_run: bool,
    /// The JSON-RPC error of the MCP server: `{code, message, data?}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_error: Option<Box<RawValue>>,
    /// Where a person gives the access that a `reauth_required` misses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_url: Option<String>,
    /// The scopes that person has to allow, where they are more than before; the address asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Box<str>>,
    /// Another worker runs the server; nothing was begun. It is told among us and never shown.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// Seconds after which asking again makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            may_have_run: false,
            mcp_error: None,
            authorization_url: None,
            scope: None,
            elsewhere: false,
            retry_after: None,
        }
    }

    /// The caller's request cannot be carried out as it is.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, message)
    }

    /// Nothing was begun; asking again in a second may help.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(Code::Unavailable, message)
        }
    }

    /// This worker does not run the server and must not.
    pub fn elsewhere(server: impl std::fmt::Display) -> Self {
        let moving = format!("Server {server} is being moved to another worker; ask again");
        Self {
            elsewhere: true,
            ..Self::unavailable(moving)
        }
    }

    /// Our bug. The caller learns nothing of our insides: see `telemetry::bug`, which logs the cause.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            "The request failed because of a bug in mcp-api; its log says more",
        )
    }

    pub fn server_not_found(name: impl std::fmt::Display) -> Self {
        Self::new(Code::ServerNotFound, format!("Server {name} not found"))
    }

    pub fn job_not_found(id: impl std::fmt::Display) -> Self {
        Self::new(
            Code::JobNotFound,
            format!("Job {id} not found; its user may be another one, or its answer has expired"),
        )
    }

    #[must_use]
    pub fn with_details(mut self, details: Option<String>) -> Self {
        self.details = details.filter(|text| !text.is_empty());
        self
    }

    #[must_use]
    pub fn maybe_run(mut self) -> Self {
        self.may_have_run = true;
        self
    }
}
