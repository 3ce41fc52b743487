//! The answers of these endpoints: JSON-RPC messages as JSON or as an event stream.

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;

use super::accept::Accepted;
use super::error::{CallFailure, RpcError};
use crate::http::respond::json::json;

/// Tells proxies that an event stream must not be buffered.
static ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The outcome of a request: the raw `result`, or an error.
pub(super) enum Outcome {
    Result(Bytes),
    Error(RpcError),
}

impl From<CallFailure> for Outcome {
    fn from(failure: CallFailure) -> Self {
        match failure {
            CallFailure::Result(result) => Self::Result(result.into()),
            CallFailure::Error(error) => Self::Error(error),
        }
    }
}

impl Outcome {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Result(_) => StatusCode::OK,
            Self::Error(error) => error.status,
        }
    }

    /// Returns the JSON-RPC response. Without an id, the member is left out.
    pub(super) fn message(&self, id: Option<&str>) -> Bytes {
        match self {
            Self::Result(result) => frame(id, br#""result":"#, result),
            Self::Error(error) => frame(id, br#""error":"#, error.json().as_bytes()),
        }
    }
}

fn frame(id: Option<&str>, member: &[u8], value: &[u8]) -> Bytes {
    let (key, id, comma) = id.map_or(("", "", ""), |id| (r#""id":"#, id, ","));
    let [key, id, comma] = [key, id, comma].map(str::as_bytes);
    [br#"{"jsonrpc":"2.0","#, key, id, comma, member, value, b"}"]
        .concat()
        .into()
}

/// Returns a response with one JSON-RPC message, in a form that the client takes.
pub(super) fn message_response(accepted: Accepted, status: StatusCode, message: Bytes) -> Response {
    if accepted.json || status != StatusCode::OK {
        return json(status, message);
    }
    event_stream(Body::from(event(&message)))
}

/// Returns an error as a response. An error has the id that it carries, or no id.
pub(super) fn error_response(error: RpcError, id: Option<&str>) -> Response {
    let error = error.with_id(id);
    let id = error.id.clone();
    let outcome = Outcome::Error(error);
    json(outcome.status(), outcome.message(id.as_deref()))
}

/// Returns an event stream with this body.
pub(super) fn event_stream(body: Body) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (ACCEL_BUFFERING.clone(), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// Returns one message as an event. Messages contain no line breaks, because JSON writes them as escapes outside of
/// blanks, and [`without_line_breaks`] replaces those.
pub(super) fn event(message: &[u8]) -> Bytes {
    let message = without_line_breaks(message);
    [b"event: message\ndata: ", &message[..], b"\n\n"]
        .concat()
        .into()
}

/// Replaces line breaks between the members of JSON by blanks. Inside of strings, JSON has none.
fn without_line_breaks(json: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return json.into();
    }
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    json.iter()
        .map(|byte| if is_break(byte) { b' ' } else { *byte })
        .collect::<Vec<u8>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_raw_id() {
        let outcome = Outcome::Result(Bytes::from_static(b"{}"));
        let text = |id| String::from_utf8(outcome.message(id).to_vec()).expect("UTF-8");
        assert_eq!(
            text(Some("\"a\"")),
            r#"{"jsonrpc":"2.0","id":"a","result":{}}"#
        );
        assert_eq!(text(None), r#"{"jsonrpc":"2.0","result":{}}"#);
        let error = Outcome::Error(RpcError::cancelled()).message(Some("7"));
        let error: serde_json::Value = serde_json::from_slice(&error).expect("JSON");
        assert_eq!(error["id"], 7);
        assert_eq!(error["error"]["code"], -32800);
    }

    #[test]
    fn an_event_has_one_data_line() {
        let text = event(b"{\n \"a\":\r\n1}");
        assert_eq!(text, "event: message\ndata: {  \"a\":  1}\n\n");
    }
}
