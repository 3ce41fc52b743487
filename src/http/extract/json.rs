//! JSON bodies up to `PAYLOAD_LIMIT`. An error names the field and never shows its value.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use axum::http::request::Parts;
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::headers::has_media_type;
use crate::core::failure::{Code, Failure};
use crate::http::respond::json::ApiError;
use crate::http::state::ApiState;
use crate::time::clock::monotonic;
use crate::time::limit::before;

/// The longest time for the arrival of a body.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// The bytes of a JSON body that the handler parses itself, because the result borrows from them.
pub(crate) struct JsonBytes(pub Bytes);

impl FromRequest<Arc<ApiState>> for JsonBytes {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ApiState>) -> Result<Self, ApiError> {
        let (Parts { headers, .. }, body) = request.into_parts();
        Ok(Self(
            read_json(&headers, body, state.payload_limit()).await?,
        ))
    }
}

/// A JSON body.
pub(crate) struct JsonBody<T> {
    pub value: T,
    /// The bytes as the client sent them. The digest of an `Idempotency-Key` covers them.
    pub bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Arc<ApiState>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ApiState>) -> Result<Self, ApiError> {
        let (Parts { headers, .. }, body) = request.into_parts();
        let bytes = read_json(&headers, body, state.payload_limit()).await?;
        let value = parse_json(&bytes)?;
        Ok(Self { value, bytes })
    }
}

/// A JSON body that the client can leave out, together with its content type.
pub(crate) struct OptionalJsonBody<T>(pub JsonBody<T>);

impl<T: DeserializeOwned + Default> FromRequest<Arc<ApiState>> for OptionalJsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ApiState>) -> Result<Self, ApiError> {
        if has_body(request.headers()) {
            return JsonBody::from_request(request, state).await.map(Self);
        }
        Ok(Self(JsonBody {
            value: T::default(),
            bytes: Bytes::new(),
        }))
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let has_length = headers
        .get(CONTENT_LENGTH)
        .is_some_and(|length| length != "0");
    has_length || headers.contains_key(TRANSFER_ENCODING)
}

/// Reads a JSON body.
///
/// # Errors
/// `unsupported_media_type`, `payload_too_large` above `limit` bytes, or `invalid_request` if the
/// body ends early or takes longer than 30 seconds.
pub(crate) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Failure> {
    check_content_type(headers)?;
    read_announced(headers, body, limit).await
}

/// Reads a body.
///
/// # Errors
/// `payload_too_large` above `limit` bytes, or `invalid_request` if the body ends early or takes longer than 30 seconds.
pub(crate) async fn read_bytes(request: Request, limit: usize) -> Result<Bytes, Failure> {
    let (Parts { headers, .. }, body) = request.into_parts();
    read_announced(&headers, body, limit).await
}

async fn read_announced(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Failure> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(payload_too_large(limit));
    }
    read_body(body, limit).await
}

async fn read_body(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let deadline = || monotonic() + ARRIVAL_LIMIT;
    match before(deadline, to_bytes(body, limit)).await {
        Some(Ok(bytes)) => Ok(bytes),
        Some(Err(error)) if is_length_limit(&error) => Err(payload_too_large(limit)),
        Some(Err(_)) => Err(Failure::invalid(
            "The body ended early, or its chunks are not valid HTTP",
        )),
        None => Err(Failure::invalid(format!(
            "The body did not arrive within {} seconds",
            ARRIVAL_LIMIT.as_secs()
        ))),
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Failure> {
    if has_media_type(headers, "application/json") {
        return Ok(());
    }
    Err(Failure::new(
        Code::UnsupportedMediaType,
        "The body must be JSON, with the header Content-Type: application/json",
    ))
}

fn payload_too_large(limit: usize) -> Failure {
    Failure::new(
        Code::PayloadTooLarge,
        format!("The body is larger than PAYLOAD_LIMIT ({limit} bytes)"),
    )
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Parses a body.
///
/// # Errors
/// `invalid_request`. Only an invalid body is parsed a second time, to find the wrong field.
pub(crate) fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Failure> {
    // serde also accepts an array, as the fields in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Failure::invalid(
            "The body must be a JSON object, not an array",
        ));
    }
    // The parser of a text does not check each string for UTF-8 again.
    let parsed = match std::str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_slice(body),
    };
    parsed.map_err(|error| {
        if error.is_syntax() || error.is_eof() {
            return Failure::invalid(format!("The body is not JSON: {}", redact_error(&error)));
        }
        wrong_field::<T>(body, &error)
    })
}

fn wrong_field<'a, T: Deserialize<'a>>(body: &'a [u8], error: &serde_json::Error) -> Failure {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let Err(located) = serde_path_to_error::deserialize::<_, T>(&mut deserializer) else {
        return Failure::invalid(redact_error(error));
    };
    let path = located.path().to_string();
    let sentence = redact_error(located.inner());
    if path == "." {
        Failure::invalid(sentence)
    } else {
        Failure::invalid(format!("{path}: {sentence}"))
    }
}

/// Returns the sentence of serde without the value, because a client may put a secret into the
/// wrong field.
fn redact_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text
        .rsplit_once(" at line ")
        .map_or(text.as_str(), |(sentence, _)| sentence);
    let expected = text
        .rsplit_once(", expected ")
        .map(|(_, expected)| expected);
    for kind in ["string", "integer", "floating point", "boolean"] {
        if text.starts_with(&format!("invalid type: {kind} ")) {
            let article = if kind == "integer" { "an" } else { "a" };
            let expected = type_name(expected.unwrap_or("something else"));
            return format!("must be {expected}, not {article} {kind}");
        }
    }
    if let Some(expected) = text.strip_prefix("invalid type: null, expected ") {
        return format!("must be {}, not null", type_name(expected));
    }
    if text.starts_with("unknown variant") {
        return format!("must be {}", expected.unwrap_or("another"));
    }
    if text.starts_with("invalid value") {
        return format!("must be {}", type_name(expected.unwrap_or("another value")));
    }
    text.to_owned()
}

/// Returns the common name of a Rust type.
fn type_name(expected: &str) -> &str {
    match expected {
        "u64" | "usize" => "a whole number, 0 or more",
        expected if expected.starts_with("struct ") => "an object",
        expected => expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Example {
        name: crate::core::names::ServerName,
        #[serde(default)]
        limit: Option<u64>,
        #[serde(default)]
        args: Vec<String>,
    }

    fn sentence(body: &str) -> String {
        parse_json::<Example>(body.as_bytes())
            .expect_err("a failure")
            .message
    }

    #[test]
    fn an_error_names_the_field_and_not_the_value() {
        assert_eq!(
            sentence(r#"{"name":"a","limit":"s3cret"}"#),
            "limit: must be a whole number, 0 or more, not a string"
        );
        assert_eq!(
            sentence(r#"{"name":"a","args":["x",7]}"#),
            "args[1]: must be a string, not an integer"
        );
        assert_eq!(sentence("{}"), "missing field `name`");
        assert!(
            sentence(r#"{"name":"a","nmae":1}"#)
                .starts_with("nmae: unknown field `nmae`, expected one of")
        );
        assert!(sentence(r#"{"name":"a b"}"#).starts_with("name: must be 1 to 64 letters"));
        assert_eq!(
            sentence(r#"["a",1,[]]"#),
            "The body must be a JSON object, not an array"
        );
        assert!(sentence(r#"{"name":"#).starts_with("The body is not JSON"));
    }

    #[tokio::test]
    async fn a_body_above_the_limit_is_too_large_also_without_a_length() {
        let body = Body::from_stream(futures::stream::iter([
            Ok::<_, std::io::Error>(Bytes::from_static(b"12345")),
            Ok(Bytes::from_static(b"67890")),
        ]));
        let failure = read_body(body, 9).await.expect_err("too large");
        assert_eq!(failure.code, Code::PayloadTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_invalid() {
        let body = Body::from_stream(futures::stream::iter([
            Ok(Bytes::from_static(b"12345")),
            Err(std::io::Error::other("length limit")),
        ]));
        let failure = read_body(body, 100).await.expect_err("broken");
        assert_eq!(failure.code, Code::InvalidRequest);
    }
}
