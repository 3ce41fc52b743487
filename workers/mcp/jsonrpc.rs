//! JSON-RPC messages of servers, read in place. `null` means absent everywhere.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::host::{LogSource, LogText, NotificationSink};
use crate::core::json_object::{Members, text_of};
use crate::core::model::upstream_change::{ChangedPart, MAX_WATCHED_URI};

/// Bytes of a log message of a server that are kept.
const LOG_MESSAGE_LIMIT: usize = 64 * 1024;

/// The members of a message that the client reads.
#[derive(Deserialize)]
pub struct RpcMessage<'a> {
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub result: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<&'a RawValue>,
    #[serde(borrow)]
    pub params: Option<&'a RawValue>,
}

/// The error object of a reply.
#[derive(Debug, Deserialize, Serialize)]
pub struct RpcError {
    #[serde(default, deserialize_with = "null_as_default")]
    pub code: i64,
    #[serde(default, deserialize_with = "null_as_default")]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// Reads `null` as the default value.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An error reply in the body of an HTTP response that is no success. Other JSON is no error reply.
pub struct ErrorReply<'a> {
    pub id: Option<&'a RawValue>,
    pub error: &'a RawValue,
}

impl<'a> ErrorReply<'a> {
    /// Returns the error reply if the body has `"jsonrpc":"2.0"` and an error object.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Reply<'a> {
            #[serde(borrow)]
            jsonrpc: Option<Cow<'a, str>>,
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            method: Option<&'a RawValue>,
            #[serde(borrow)]
            error: Option<&'a RawValue>,
        }
        let reply: Reply = serde_json::from_slice(body).ok()?;
        let error = reply.error.filter(|error| error.get().starts_with('{'))?;
        (reply.jsonrpc.as_deref() == Some("2.0") && reply.method.is_none()).then_some(Self {
            id: reply.id,
            error,
        })
    }
}

/// The notification that carries a log line.
pub const LOG_LINE: &str = "notifications/message";

/// Passes a notification to the sink.
pub fn notify(sink: &dyn NotificationSink, method: &str, params: Option<&RawValue>) {
    match method {
        "notifications/tools/list_changed" => sink.tools_changed(),
        LOG_LINE => {
            let text = params.map_or("", RawValue::get);
            let kept = &text[..text.floor_char_boundary(LOG_MESSAGE_LIMIT)];
            let text = if kept.len() == text.len() {
                LogText::Json(kept)
            } else {
                LogText::Cut(kept.as_bytes())
            };
            sink.log(LogSource::Server, text);
        }
        _ => {
            if let Some(part) = changed_part(method, params) {
                sink.changed(part);
            }
        }
    }
}

/// Returns the part of the server that a notification says has changed.
fn changed_part(method: &str, params: Option<&RawValue>) -> Option<ChangedPart> {
    match method {
        "notifications/prompts/list_changed" => Some(ChangedPart::Prompts),
        "notifications/resources/list_changed" => Some(ChangedPart::Resources),
        "notifications/resources/updated" => {
            let params = Members::parse(params?.get())?;
            let uri = params.get("uri").and_then(text_of)?;
            (uri.len() <= MAX_WATCHED_URI).then(|| ChangedPart::Resource(uri.as_ref().into()))
        }
        _ => None,
    }
}

/// The log line about a request that cannot be passed on.
pub const WRONG_QUESTION: &str =
    "the server sent a wrong request to the client, or too many of them; the client refused it";

/// The member of the response to a request that the client does not know.
pub const METHOD_NOT_FOUND: &str =
    r#""error":{"code":-32601,"message":"this client has no such method"}"#;

/// Returns the member of the response to a request of a server for which no client can be asked.
pub fn answer_without_client(method: &str) -> &'static str {
    match method {
        "ping" => r#""result":{}"#,
        "roots/list" => r#""result":{"roots":[]}"#,
        "elicitation/create" => r#""result":{"action":"decline"}"#,
        _ => METHOD_NOT_FOUND,
    }
}

/// Returns the response to a request of a server. `member` is its `result` or its `error`.
pub fn response(id: &RawValue, member: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},{member}}}"#)
}

/// Logs an event of the connection. `text` may repeat what the server sent.
pub fn note(sink: &dyn NotificationSink, text: &str) {
    sink.log(LogSource::Transport, LogText::Plain(text));
}

/// Returns the bytes of a value without copying them.
pub fn subslice(message: &Bytes, value: &RawValue) -> Bytes {
    message.slice_ref(value.get().as_bytes())
}

/// Returns the id of one of the client's requests. Some servers return the integer as a string or as a float.
pub fn request_id(id: &RawValue) -> Option<u64> {
    let text = id.get();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    text.strip_suffix(".0").unwrap_or(text).parse().ok()
}

/// Returns the id of the request that a progress notification concerns.
pub fn progress_token(params: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Progress<'a> {
        #[serde(borrow, rename = "progressToken")]
        token: &'a RawValue,
    }
    serde_json::from_str::<Progress>(params.get())
        .ok()
        .and_then(|progress| request_id(progress.token))
}

/// Returns the id of the request whose stream a notification belongs to.
pub fn subscription_id(params: &RawValue) -> Option<u64> {
    let params = Members::parse(params.get())?;
    let meta = Members::parse(params.get("_meta")?.get())?;
    request_id(meta.get("io.modelcontextprotocol/subscriptionId")?)
}

/// Returns all integers that stand at a key `"id"` in text that is no valid JSON.
pub fn scan_ids(bytes: &[u8]) -> Vec<u64> {
    const KEY: &[u8] = br#""id""#;
    let ids = memchr::memmem::find_iter(bytes, KEY).filter_map(|start| {
        // Some encoders write spaces around the colon.
        let value = bytes[start + KEY.len()..]
            .trim_ascii_start()
            .strip_prefix(b":")?
            .trim_ascii_start();
        let digits = value.strip_prefix(b"\"").unwrap_or(value);
        let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    });
    ids.collect()
}

/// Returns the first id of a new session. A resumed session may still run requests of an earlier process, so the
/// ids of two processes differ if they start a second apart. All ids fit into 31 bits, because some servers read them as 32-bit integers.
pub fn first_request_id(now_ms: u64) -> u64 {
    const PROCESSES: u64 = 1 << 14;
    ((now_ms / 1000 % PROCESSES) << 16) + 1
}

/// Keeps an id within 31 bits.
pub fn wrap_request_id(id: u64) -> u64 {
    (id & 0x7fff_ffff).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).expect("JSON")
    }

    #[test]
    fn an_id_is_read_in_every_form_that_servers_return() {
        for text in ["17", "17.0", r#""17""#] {
            assert_eq!(request_id(&raw(text)), Some(17), "{text}");
        }
        for text in ["-1", "null", r#""c17""#, "1.5", "{}"] {
            assert_eq!(request_id(&raw(text)), None, "{text}");
        }
    }

    #[test]
    fn only_json_rpc_errors_are_error_replies() {
        let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no"}}"#;
        assert!(ErrorReply::parse(error.as_bytes()).is_some_and(|reply| reply.id.is_none()));
        for body in [
            r#"{"error":"Method not allowed"}"#,
            r#"{"error":{"code":1,"message":"no"}}"#,
            r#"{"jsonrpc":"2.0","error":"Method not allowed"}"#,
            r#"{"jsonrpc":"2.0","error":null}"#,
            r#"{"jsonrpc":"2.0","method":"x","error":{}}"#,
            "<html>",
        ] {
            assert!(ErrorReply::parse(body.as_bytes()).is_none(), "{body}");
        }
    }

    #[test]
    fn null_means_absent() {
        let error: RpcError =
            serde_json::from_str(r#"{"code":null,"message":null,"data":null}"#).expect("an error");
        assert_eq!((error.code, error.message.as_str()), (0, ""));
        assert!(error.data.is_none());
        let reply: RpcMessage =
            serde_json::from_str(r#"{"id":1,"method":null,"error":null,"result":{}}"#)
                .expect("a message");
        assert!(reply.method.is_none() && reply.error.is_none() && reply.result.is_some());
    }

    #[test]
    fn notifications_name_the_part_that_has_changed() {
        let part = |method: &str, params: &str| changed_part(method, Some(&raw(params)));
        let updated = "notifications/resources/updated";
        assert_eq!(
            part("notifications/prompts/list_changed", "{}"),
            Some(ChangedPart::Prompts)
        );
        assert_eq!(
            changed_part("notifications/resources/list_changed", None),
            Some(ChangedPart::Resources)
        );
        assert_eq!(
            part(updated, r#"{"uri":"a:\u0062"}"#),
            Some(ChangedPart::Resource("a:b".into()))
        );
        let long = format!(r#"{{"uri":"{}"}}"#, "x".repeat(MAX_WATCHED_URI + 1));
        for params in [r#"{"uri":7}"#, "[]", "{}", &long] {
            assert_eq!(part(updated, params), None, "{params}");
        }
        assert_eq!(part("notifications/unknown", "{}"), None);
    }

    #[test]
    fn ids_are_found_in_broken_json() {
        let text = br#"{"id": "5", "x": NaN, "id" :6}"#;
        assert_eq!(scan_ids(text), [5, 6]);
    }

    #[test]
    fn first_ids_fit_into_31_bits() {
        let late = first_request_id(((1 << 14) - 1) * 1000);
        assert!(late + 0xffff <= 0x7fff_ffff);
        assert_ne!(first_request_id(100_000), first_request_id(101_000));
    }
}
