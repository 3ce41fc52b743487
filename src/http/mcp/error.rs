//! JSON-RPC errors, and the answers for failures of tool calls.

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::core::failure::{Code, Failure};
use crate::core::json_object::{ObjectWriter, push_json_text};
use crate::core::mcp::version::{Era, ProtocolVersion};
use crate::core::names::SecretName;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
pub(super) const INTERNAL_ERROR: i64 = -32603;
/// MCP 2025-11-25 and earlier: a resource does not exist. In 2026-07-28 the code is -32602, with `data.uri`.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// MCP 2026-07-28: a header differs from the body.
const HEADER_MISMATCH: i64 = -32020;
/// MCP 2026-07-28: the client has not declared a capability that the server needs. The HTTP status must be 400.
const MISSING_CAPABILITY: i64 = -32021;
/// MCP 2026-07-28: the server does not know the version.
const UNSUPPORTED_VERSION: i64 = -32022;
/// The client has cancelled the request. The client ignores this answer.
const CANCELLED: i64 = -32800;

/// A JSON-RPC error and the HTTP status of its response.
#[derive(Debug)]
pub(super) struct RpcError {
    pub code: i64,
    pub message: String,
    pub data: Option<Value>,
    pub status: StatusCode,
    /// The raw id of the request, if the error was found before the request was parsed.
    pub id: Option<String>,
}

impl RpcError {
    fn new(code: i64, status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
            status,
            id: None,
        }
    }

    pub(super) fn parse_error() -> Self {
        let sentence = "The body is not JSON in UTF-8 without a byte order mark";
        Self::new(PARSE_ERROR, StatusCode::BAD_REQUEST, sentence)
    }

    pub(super) fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(INVALID_REQUEST, StatusCode::BAD_REQUEST, message)
    }

    /// Returns the error for parameters that break a rule of the protocol.
    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, StatusCode::BAD_REQUEST, message)
    }

    /// Returns the error for parameters that name something unknown, or that break a rule of a method.
    pub(super) fn wrong_params(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, StatusCode::OK, message)
    }

    /// Returns the error for a server or a session that does not exist.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(INVALID_PARAMS, StatusCode::NOT_FOUND, message)
    }

    pub(super) fn method_not_found(era: Era) -> Self {
        let status = match era {
            Era::Modern => StatusCode::NOT_FOUND,
            Era::Legacy => StatusCode::OK,
        };
        let sentence = "This endpoint does not have the method";
        Self::new(METHOD_NOT_FOUND, status, sentence)
    }

    pub(super) fn header_mismatch(message: impl Into<String>) -> Self {
        Self::new(HEADER_MISMATCH, StatusCode::BAD_REQUEST, message)
    }

    /// Returns the error for a version that this request cannot use.
    pub(super) fn unsupported_version(requested: &str) -> Self {
        let is_legacy = ProtocolVersion::parse(requested).is_some();
        let supported: Vec<_> = ProtocolVersion::ALL
            .into_iter()
            // A client would retry for ever with a legacy version, which belongs into `initialize`.
            .filter(|version| !is_legacy || version.era() == Era::Modern)
            .map(ProtocolVersion::as_str)
            .collect();
        let sentence = if is_legacy {
            "This version begins with the method initialize; in _meta, use 2026-07-28"
        } else {
            "This endpoint does not support the version; use a version of data.supported"
        };
        Self {
            data: Some(json!({ "supported": supported, "requested": requested })),
            ..Self::new(UNSUPPORTED_VERSION, StatusCode::BAD_REQUEST, sentence)
        }
    }

    pub(super) fn cancelled() -> Self {
        Self::new(CANCELLED, StatusCode::OK, "Request cancelled")
    }

    #[must_use]
    pub(super) fn with_id(mut self, id: Option<&str>) -> Self {
        self.id = self.id.or_else(|| id.map(str::to_owned));
        self
    }

    /// Returns the JSON object `error`.
    pub(super) fn json(&self) -> String {
        let mut writer = ObjectWriter::with_capacity(self.message.len() + 64);
        writer.raw("code", &self.code.to_string());
        writer.text("message", &self.message);
        if let Some(data) = &self.data {
            writer.raw("data", &data.to_string());
        }
        writer.finish()
    }
}

/// The answer to a call that failed.
#[derive(Debug)]
pub(super) enum CallFailure {
    /// A result with `isError`, which the model can act on.
    Result(String),
    Error(RpcError),
}

/// Returns the answer for a failed call.
///
/// A failure of a server or of the access to it is a result, so that the model can act on it. A wrong request and a
/// failure of the program are errors.
pub(super) fn call_failure(failure: &Failure, era: Era) -> CallFailure {
    if let Some(error) = failure
        .mcp_error
        .as_deref()
        .and_then(|error| upstream_error(error, era))
    {
        return CallFailure::Error(error);
    }
    let error = |code, data| {
        CallFailure::Error(RpcError {
            data,
            ..RpcError::new(code, StatusCode::OK, failure.message.clone())
        })
    };
    match failure.code {
        Code::Timeout
        | Code::UpstreamError
        | Code::OutcomeUnknown
        | Code::ResultTooLarge
        | Code::ReauthRequired
        | Code::CredentialRequired => CallFailure::Result(failed_result(failure, era)),
        Code::Unavailable | Code::RateLimited => {
            let data = json!({ "code": failure.code, "retryAfter": failure.retry_after });
            error(INTERNAL_ERROR, Some(data))
        }
        Code::Internal => error(INTERNAL_ERROR, None),
        _ => error(INVALID_PARAMS, None),
    }
}

/// Returns the error for a failed request that is no tool call. Such a request has no result with `isError`.
pub(super) fn request_failure(failure: &Failure, era: Era) -> RpcError {
    let own = |code, data| RpcError {
        data,
        ..RpcError::new(code, StatusCode::OK, failure.message.clone())
    };
    match call_failure(failure, era) {
        CallFailure::Error(error) => error,
        CallFailure::Result(_) => {
            let data = serde_json::to_value(FailureMeta::new(failure)).ok();
            own(INTERNAL_ERROR, data)
        }
    }
}

/// Returns the JSON-RPC error of the MCP server for a client of an era.
fn upstream_error(error: &RawValue, era: Era) -> Option<RpcError> {
    #[derive(serde::Deserialize)]
    struct Upstream {
        code: i64,
        message: String,
        data: Option<Value>,
    }
    let Upstream {
        code,
        message,
        data,
    } = serde_json::from_str(error.get()).ok()?;
    let names_resource = data.as_ref().is_some_and(|data| data.get("uri").is_some());
    let code = match (code, era) {
        // These codes describe the headers of a request, and the client did not send the request to the server.
        (HEADER_MISMATCH | UNSUPPORTED_VERSION, _) => INTERNAL_ERROR,
        (RESOURCE_NOT_FOUND, Era::Modern) => INVALID_PARAMS,
        (INVALID_PARAMS, Era::Legacy) if names_resource => RESOURCE_NOT_FOUND,
        (code, _) => code,
    };
    let status = match (code, era) {
        (MISSING_CAPABILITY, Era::Modern) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    };
    Some(RpcError {
        data,
        ..RpcError::new(code, status, message)
    })
}

/// The member of `_meta` that says to programs why a call failed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailureMeta<'a> {
    code: Code,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    may_have_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization_url: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    missing: &'a [SecretName],
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u16>,
}

impl<'a> FailureMeta<'a> {
    fn new(failure: &'a Failure) -> Self {
        Self {
            code: failure.code,
            may_have_run: failure.may_have_run,
            details: failure.details.as_deref(),
            authorization_url: failure.authorization_url.as_deref(),
            missing: failure.missing_names(),
            connect_url: failure.connect_url(),
            retry_after: failure.retry_after,
        }
    }
}

fn failed_result(failure: &Failure, era: Era) -> String {
    let meta = FailureMeta::new(failure);
    let mut sentence = failure.message.clone();
    let links = [failure.authorization_url.as_deref(), failure.connect_url()];
    for url in links.into_iter().flatten() {
        sentence.push_str(": ");
        sentence.push_str(url);
    }
    let mut content = String::from(r#"[{"type":"text","text":"#);
    push_json_text(&mut content, &sentence);
    content.push_str("}]");
    let mut writer = ObjectWriter::with_capacity(256);
    if era == Era::Modern {
        writer.text("resultType", "complete");
    }
    writer.raw("content", &content);
    writer.raw("isError", "true");
    writer.raw("_meta", &json!({ "mcp-api/failure": meta }).to_string());
    writer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::failure::MissingCredentials;

    fn error_code(failure: &Failure, era: Era) -> i64 {
        match call_failure(failure, era) {
            CallFailure::Error(error) => error.code,
            CallFailure::Result(result) => panic!("a result: {result}"),
        }
    }

    #[test]
    fn a_failure_of_the_server_is_a_result_that_names_the_failure() {
        let failure = Failure::new(Code::Timeout, "Server a did not answer").maybe_run();
        for era in [Era::Modern, Era::Legacy] {
            let CallFailure::Result(result) = call_failure(&failure, era) else {
                panic!("an error");
            };
            let result: Value = serde_json::from_str(&result).expect("JSON");
            assert_eq!(result["isError"], true);
            assert_eq!(result["content"][0]["text"], "Server a did not answer");
            assert_eq!(
                result["_meta"]["mcp-api/failure"],
                json!({ "code": "timeout", "mayHaveRun": true })
            );
            assert_eq!(result.get("resultType").is_some(), era == Era::Modern);
        }
    }

    #[test]
    fn a_missing_access_names_its_link_in_the_text() {
        let failure = Failure {
            authorization_url: Some("https://h.example/link".into()),
            ..Failure::new(Code::ReauthRequired, "Give access")
        };
        let CallFailure::Result(result) = call_failure(&failure, Era::Legacy) else {
            panic!("an error");
        };
        assert!(
            result.contains("Give access: https://h.example/link"),
            "{result}"
        );
    }

    #[test]
    fn a_missing_credential_is_a_result_with_the_link_of_its_user() {
        let missing = Failure {
            missing: Some(Box::new(MissingCredentials {
                names: vec!["KEY".parse().expect("a name")],
                connect_url: None,
            })),
            ..Failure::new(Code::CredentialRequired, "Server a needs KEY")
        };
        let with_link = missing
            .clone()
            .with_connect_url("https://h.example/connect/a".to_owned());
        let meta = json!({ "code": "credential_required", "missing": ["KEY"] });
        let mut meta_with_link = meta.clone();
        meta_with_link["connectUrl"] = json!("https://h.example/connect/a");
        let sentence = "Server a needs KEY";
        let sentence_with_link = "Server a needs KEY: https://h.example/connect/a";
        for era in [Era::Modern, Era::Legacy] {
            for (failure, sentence, meta) in [
                (&missing, sentence, &meta),
                (&with_link, sentence_with_link, &meta_with_link),
            ] {
                let CallFailure::Result(result) = call_failure(failure, era) else {
                    panic!("an error");
                };
                let result: Value = serde_json::from_str(&result).expect("JSON");
                assert_eq!(result["isError"], true);
                assert_eq!(result["content"][0]["text"], sentence);
                assert_eq!(&result["_meta"]["mcp-api/failure"], meta);
            }
        }
    }

    #[test]
    fn a_wrong_call_and_a_busy_worker_are_errors() {
        assert_eq!(
            error_code(&Failure::invalid("no"), Era::Modern),
            INVALID_PARAMS
        );
        assert_eq!(
            error_code(&Failure::server_not_found("a"), Era::Legacy),
            INVALID_PARAMS
        );
        assert_eq!(
            error_code(&Failure::unavailable("busy"), Era::Modern),
            INTERNAL_ERROR
        );
        assert_eq!(
            error_code(&Failure::internal(), Era::Modern),
            INTERNAL_ERROR
        );
    }

    #[test]
    fn an_error_of_the_server_is_passed_on_in_the_codes_of_the_era() {
        let failure = |error: Value| Failure {
            mcp_error: serde_json::value::to_raw_value(&error).ok(),
            ..Failure::new(Code::UpstreamError, "refused")
        };
        let uri = json!({ "uri": "a:b" });
        for (code, data, modern, legacy) in [
            (-32000, json!(null), -32000, -32000),
            (-32602, json!(null), -32602, -32602),
            (-32602, uri.clone(), -32602, -32002),
            (-32002, uri, -32602, -32002),
            (-32020, json!(null), -32603, -32603),
            (-32022, json!(null), -32603, -32603),
        ] {
            let failure = failure(json!({ "code": code, "message": "m", "data": data }));
            assert_eq!(error_code(&failure, Era::Modern), modern, "{code}");
            assert_eq!(error_code(&failure, Era::Legacy), legacy, "{code}");
        }
    }

    #[test]
    fn a_missing_capability_of_a_modern_client_has_the_status_400() {
        let error =
            json!({ "code": -32021, "message": "m", "data": { "requiredCapabilities": {} } });
        let failure = Failure {
            mcp_error: serde_json::value::to_raw_value(&error).ok(),
            ..Failure::new(Code::UpstreamError, "refused")
        };
        for (era, status) in [(Era::Modern, 400), (Era::Legacy, 200)] {
            let CallFailure::Error(error) = call_failure(&failure, era) else {
                panic!("a result");
            };
            assert_eq!((error.code, error.status.as_u16()), (-32021, status));
        }
    }

    #[test]
    fn an_unknown_version_gets_all_versions_and_a_legacy_version_the_modern_one() {
        let supported = |requested: &str| {
            let error = RpcError::unsupported_version(requested);
            error.data.expect("data")["supported"]
                .as_array()
                .expect("a list")
                .len()
        };
        assert_eq!(supported("2030-01-01"), 5);
        assert_eq!(supported("2025-06-18"), 1);
    }
}
