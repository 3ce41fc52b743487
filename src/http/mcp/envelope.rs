//! One JSON-RPC message of a client. The body is parsed once, and the parts borrow from it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::error::RpcError;
use crate::core::json_object::{JsonText, Members, text_of};

/// A message of a client.
pub(super) enum Message<'a> {
    Request {
        id: &'a RawValue,
        method: Cow<'a, str>,
        params: Params<'a>,
    },
    Notification {
        method: Cow<'a, str>,
        params: Params<'a>,
    },
    /// The answer to a request of the server: a result or an error.
    Response {
        id: &'a RawValue,
        result: Option<&'a RawValue>,
        error: Option<&'a RawValue>,
    },
}

/// The members of `params` that any method of these endpoints reads. Each method checks the types of its own members.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Params<'a> {
    #[serde(borrow, default, rename = "_meta")]
    pub meta: Meta<'a>,
    #[serde(borrow)]
    pub name: Option<&'a RawValue>,
    #[serde(borrow)]
    pub arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub cursor: Option<&'a RawValue>,
    #[serde(borrow)]
    pub uri: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    pub reference: Option<&'a RawValue>,
    #[serde(borrow)]
    pub argument: Option<&'a RawValue>,
    #[serde(borrow)]
    pub context: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub input_responses: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub request_state: Option<&'a RawValue>,
    #[serde(borrow)]
    pub protocol_version: Option<&'a RawValue>,
    #[serde(borrow)]
    pub capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    pub client_info: Option<&'a RawValue>,
    #[serde(borrow)]
    pub request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub notifications: Option<&'a RawValue>,
    #[serde(borrow)]
    pub level: Option<&'a RawValue>,
}

/// The object `_meta` of `params`. An absent one has no members.
#[derive(Default)]
pub(super) struct Meta<'a> {
    /// Whether `_meta` is no object, or has one of the members below twice. Then it counts as empty.
    pub is_wrong: bool,
    pub protocol_version: Option<&'a RawValue>,
    pub client_capabilities: Option<&'a RawValue>,
    pub client_info: Option<&'a RawValue>,
    pub log_level: Option<&'a RawValue>,
    pub progress_token: Option<&'a RawValue>,
    pub traceparent: Option<&'a RawValue>,
    /// All other members.
    pub more: Members<'a>,
}

impl<'a> Meta<'a> {
    fn wrong() -> Self {
        Self {
            is_wrong: true,
            ..Self::default()
        }
    }

    /// Adds a member, and returns whether it stands here for the first time. A member that is `null` counts as absent.
    fn add(&mut self, key: &'a RawValue, value: &'a RawValue) -> bool {
        let member = match text_of(key).as_deref() {
            Some("io.modelcontextprotocol/protocolVersion") => &mut self.protocol_version,
            Some("io.modelcontextprotocol/clientCapabilities") => &mut self.client_capabilities,
            Some("io.modelcontextprotocol/clientInfo") => &mut self.client_info,
            Some("io.modelcontextprotocol/logLevel") => &mut self.log_level,
            Some("progressToken") => &mut self.progress_token,
            Some("traceparent") => &mut self.traceparent,
            _ => {
                self.more.0.push((key, value));
                return true;
            }
        };
        value.get() == "null" || member.replace(value).is_none()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Meta<'a> {
    /// A wrong `_meta` is no error here, because each era has its own answer to it.
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let raw = Option::<&RawValue>::deserialize(input)?;
        let members = raw.map(|raw| serde_json::from_str::<MetaMembers<'a>>(raw.get()));
        Ok(members.map_or_else(Self::default, |members| {
            members.map_or_else(|_| Self::wrong(), |members| members.0)
        }))
    }
}

/// A `_meta` that is an object.
struct MetaMembers<'a>(Meta<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for MetaMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct MetaVisitor;
        impl<'de> Visitor<'de> for MetaVisitor {
            type Value = Meta<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut meta = Meta::default();
                while let Some((key, value)) = map.next_entry()? {
                    meta.is_wrong |= !meta.add(key, value);
                }
                Ok(if meta.is_wrong { Meta::wrong() } else { meta })
            }
        }
        input.deserialize_map(MetaVisitor).map(Self)
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<JsonText<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<JsonText<'a>>,
    #[serde(borrow)]
    params: Option<Object<Params<'a>>>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// An object. Without this type, serde would also accept an array, as the members in their order.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        input.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// Reads a member that may be `null`, which is not the same as an absent member.
fn present<'de, D: Deserializer<'de>>(input: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(input).map(Some)
}

/// Parses one message.
///
/// # Errors
/// -32700 if the body is not JSON in UTF-8, -32600 if it is no message, and -32602 if `params` is no object.
pub(super) fn parse_message(body: &[u8]) -> Result<Message<'_>, RpcError> {
    // The parser of a text does not check each string for UTF-8 again.
    let body = std::str::from_utf8(body).map_err(|_| RpcError::parse_error())?;
    let envelope = match serde_json::from_str::<Object<Envelope<'_>>>(body) {
        Ok(envelope) => envelope.0,
        Err(error) if error.is_data() => return Err(wrong_member(body)),
        Err(_) => return Err(RpcError::parse_error()),
    };
    if envelope.jsonrpc.is_none_or(|version| version.0 != "2.0") {
        return Err(RpcError::invalid_request("jsonrpc must be \"2.0\""));
    }
    let params = envelope.params.map(|params| params.0).unwrap_or_default();
    match (envelope.method, envelope.id) {
        (Some(JsonText(method)), Some(id)) if is_id(id) => {
            Ok(Message::Request { id, method, params })
        }
        (Some(_), Some(_)) => Err(RpcError::invalid_request(
            "id must be a string or an integer",
        )),
        (Some(JsonText(method)), None) => Ok(Message::Notification { method, params }),
        (None, Some(id)) if envelope.result.is_some() != envelope.error.is_some() => {
            Ok(Message::Response {
                id,
                result: envelope.result,
                error: envelope.error,
            })
        }
        (None, _) => Err(RpcError::invalid_request(
            "The message must have a method; a response has an id and either result or error",
        )),
    }
}

/// Returns the error for JSON of the wrong form. Only such a body is parsed a second time.
fn wrong_member(body: &str) -> RpcError {
    let Some(members) = Members::parse(body) else {
        return RpcError::invalid_request("The body must be one JSON-RPC message: an object");
    };
    let is_duplicate = |name: &str| {
        let keys = members.0.iter().filter_map(|(key, _)| text_of(key));
        keys.filter(|key| key == name).count() > 1
    };
    for name in ["jsonrpc", "id", "method", "params", "result", "error"] {
        if is_duplicate(name) {
            return RpcError::invalid_request(format!("{name} must stand once in the message"));
        }
    }
    let id = members.get("id").filter(|id| is_id(id)).map(RawValue::get);
    let has_text = |name: &str| {
        members
            .get(name)
            .is_none_or(|value| text_of(value).is_some())
    };
    if !has_text("jsonrpc") || !has_text("method") {
        return RpcError::invalid_request("jsonrpc and method must be strings").with_id(id);
    }
    RpcError::invalid_params("params must be an object whose members stand once").with_id(id)
}

/// Returns whether JSON is a valid id of a request: a string or an integer (JSON-RPC 2.0; MCP, Requests).
pub(super) fn is_id(id: &RawValue) -> bool {
    let text = id.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    text.starts_with('"')
        || (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> i64 {
        match parse_message(body.as_bytes()) {
            Ok(_) => 0,
            Err(error) => error.code,
        }
    }

    #[test]
    fn a_message_is_a_request_a_notification_or_a_response() {
        let parsed = |body: &'static str| parse_message(body.as_bytes()).ok();
        assert!(matches!(
            parsed(r#"{"jsonrpc":"2.0","id":"a","method":"ping","params":{"name":1}}"#),
            Some(Message::Request { id, method, .. }) if id.get() == "\"a\"" && method == "ping"
        ));
        assert!(matches!(
            parsed(r#"{"jsonrpc":"2.0","method":"m"}"#),
            Some(Message::Notification { .. })
        ));
        for response in [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":null}"#,
        ] {
            assert!(
                matches!(parsed(response), Some(Message::Response { .. })),
                "{response}"
            );
        }
    }

    #[test]
    fn each_wrong_message_gets_the_code_of_its_fault() {
        for (body, expected) in [
            ("", -32700),
            ("\u{feff}{}", -32700),
            (r#"{"jsonrpc":"2.0","id":NaN,"method":"m"}"#, -32700),
            (r#"{"jsonrpc":"2.0","id":1,"method":"m"} {}"#, -32700),
            ("[]", -32600),
            ("1", -32600),
            ("{}", -32600),
            (r#"["2.0",1,"m",{},null,null]"#, -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1e3,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":2}"#, -32600),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#,
                -32602,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":1,"name":2}}"#,
                -32602,
            ),
        ] {
            assert_eq!(code(body), expected, "{body}");
        }
    }

    #[test]
    fn a_body_that_is_no_utf_8_is_no_json() {
        let body = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"x\":\"\xff\"}";
        let error = parse_message(body).err().expect("an error");
        assert_eq!(error.code, -32700);
    }

    #[test]
    fn a_fault_of_the_params_keeps_the_id() {
        let body = r#"{"jsonrpc":"2.0","id":"x","method":"m","params":[]}"#;
        let error = parse_message(body.as_bytes()).err().expect("an error");
        assert_eq!(error.id.as_deref(), Some("\"x\""));
    }

    #[test]
    fn meta_is_an_object_whose_read_members_stand_once() {
        for (meta, is_wrong) in [
            ("null", false),
            ("{}", false),
            (r#"{"progressToken":1,"other":[]}"#, false),
            (r#"{"a.b/c":1,"a.b/c":2}"#, false),
            (r#"{"progressToken":1,"progress\u0054oken":2}"#, true),
            ("[1,{}]", true),
            ("1", true),
            ("1e999", true),
            ("true", true),
            (r#""\ud800""#, true),
        ] {
            let json = format!(r#"{{"_meta":{meta}}}"#);
            let params: Params<'_> = serde_json::from_str(&json).expect("params");
            assert_eq!(params.meta.is_wrong, is_wrong, "{meta}");
            assert_eq!(params.meta.progress_token.is_some(), meta.contains("other"));
        }
        let absent: Params<'_> = serde_json::from_str("{}").expect("params");
        assert!(!absent.meta.is_wrong);
    }
}
