//! One JSON-RPC message as bytes. A frame wipes its secrets when it is dropped.

use std::io::Write as _;

use zeroize::Zeroize;

use crate::core::arguments::merge::{
    SecretArgument, append_json_string, append_without_line_breaks, merge_arguments,
};

/// The method that calls a tool.
pub const TOOL_CALL: &str = "tools/call";

/// A message with its line end.
pub struct Frame {
    pub bytes: Vec<u8>,
    /// The request that the frame sends. The frame is not written if that request has ended.
    pub request: Option<u64>,
    /// The number of bytes at the beginning that may hold secrets.
    secret: usize,
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.bytes[..self.secret].zeroize();
    }
}

/// A frame can be the body of an HTTP request, and wipes its secrets when the request was sent.
impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The content of a request of a user.
pub struct RequestFrame<'a> {
    /// The request id, which is the progress token too.
    pub id: u64,
    pub method: &'a str,
    pub params: RequestParams<'a>,
    /// More members of `params`, as checked JSON.
    pub more: &'a str,
    pub progress: bool,
    pub traceparent: Option<&'a str>,
    /// More members of `_meta`, as JSON.
    pub meta: &'a str,
    /// The members of `_meta` that come from an MCP client, as a JSON object.
    pub client_meta: Option<&'a str>,
}

/// The `params` of a request, without `_meta`.
#[derive(Clone, Copy)]
pub enum RequestParams<'a> {
    /// A tool or a prompt with arguments, which carry secrets.
    Named {
        name: &'a str,
        /// A checked JSON object.
        args: &'a str,
        secrets: &'a [SecretArgument<'a>],
    },
    /// The members of a checked JSON object.
    Members(&'a str),
}

impl<'a> RequestParams<'a> {
    /// Returns the tool or the prompt.
    pub fn name(&self) -> Option<&'a str> {
        match self {
            Self::Named { name, .. } => Some(name),
            Self::Members(_) => None,
        }
    }

    fn secrets(&self) -> &'a [SecretArgument<'a>] {
        match self {
            Self::Named { secrets, .. } => secrets,
            Self::Members(_) => &[],
        }
    }
}

impl RequestFrame<'_> {
    /// Returns a size that the frame never exceeds, because a growing buffer leaves copies of secrets behind.
    pub fn capacity(&self) -> usize {
        let meta = self.meta.len() + self.client_meta.map_or(0, str::len) + self.more.len();
        let params = match self.params {
            RequestParams::Named { name, args, .. } => args.len() + name.len() * 6,
            RequestParams::Members(members) => members.len(),
        };
        params + self.secret_capacity() + meta + 320
    }

    /// Escaping makes a text at most six times as long.
    fn secret_capacity(&self) -> usize {
        let secrets = self.params.secrets().iter();
        secrets
            .map(|secret| (secret.name.len() + secret.value.len()) * 6 + 8)
            .sum()
    }

    pub fn build(&self) -> Frame {
        let mut bytes = Vec::with_capacity(self.capacity());
        // Writing to a Vec cannot fail.
        let _ = write!(
            bytes,
            r#"{{"jsonrpc":"2.0","id":{},"method":"{}","params":{{"#,
            self.id, self.method
        );
        let secret = self.append_params(&mut bytes);
        if !self.more.is_empty() {
            if self.has_params() {
                bytes.push(b',');
            }
            append_without_line_breaks(&mut bytes, self.more.as_bytes());
        }
        self.append_meta(&mut bytes);
        bytes.extend_from_slice(b"}}\n");
        Frame {
            bytes,
            request: Some(self.id),
            secret,
        }
    }

    /// Appends the members of `params`. Returns the number of bytes at the beginning that may hold secrets.
    fn append_params(&self, bytes: &mut Vec<u8>) -> usize {
        let (name, args, secrets) = match self.params {
            RequestParams::Named {
                name,
                args,
                secrets,
            } => (name, args, secrets),
            RequestParams::Members(members) => {
                append_without_line_breaks(bytes, members.as_bytes());
                return 0;
            }
        };
        bytes.extend_from_slice(br#""name":"#);
        append_json_string(bytes, name);
        bytes.extend_from_slice(br#","arguments":"#);
        let arguments_start = bytes.len();
        merge_arguments(bytes, args, secrets);
        if secrets.is_empty() {
            0
        } else {
            (arguments_start + self.secret_capacity()).min(bytes.len())
        }
    }

    fn has_params(&self) -> bool {
        !matches!(self.params, RequestParams::Members(members) if members.trim().is_empty())
    }

    fn append_meta(&self, bytes: &mut Vec<u8>) {
        let of_client = self.client_meta.unwrap_or_default().trim();
        let of_client = of_client
            .strip_prefix('{')
            .and_then(|meta| meta.strip_suffix('}'));
        let parts = [
            self.progress
                .then(|| format!(r#""progressToken":{}"#, self.id)),
            self.traceparent
                .map(|traceparent| format!(r#""traceparent":"{traceparent}""#)),
            Some(self.meta.to_owned()),
            of_client.map(str::to_owned),
        ];
        let mut start = if !self.has_params() && self.more.is_empty() {
            r#""_meta":{"#
        } else {
            r#","_meta":{"#
        };
        for part in parts.iter().flatten().filter(|part| !part.is_empty()) {
            let _ = write!(bytes, "{start}{part}");
            start = ",";
        }
        if start == "," {
            bytes.push(b'}');
        }
    }
}

/// Returns a request that is no tool call. `params` is JSON.
pub fn request(id: u64, method: &str, params: &str) -> Frame {
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"{method}\",\"params\":{params}}}\n"
    );
    Frame {
        bytes: text.into_bytes(),
        request: Some(id),
        secret: 0,
    }
}

/// Returns the notification that cancels a request.
pub fn cancelled(id: u64, reason: &str) -> Frame {
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":{id},\"reason\":\"{reason}\"}}}}\n"
    );
    plain(text.into_bytes())
}

/// Returns a frame of a whole line without secrets.
pub fn plain(bytes: Vec<u8>) -> Frame {
    Frame {
        bytes,
        request: None,
        secret: 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::core::arguments::merge::ArgumentForm;

    #[test]
    fn a_call_has_an_integer_id_its_secrets_and_its_metadata() {
        let secrets = [SecretArgument {
            name: "key",
            value: "quote \" and \n line",
            form: ArgumentForm::Text,
        }];
        let call = RequestFrame {
            id: 1000,
            method: "tools/call",
            params: RequestParams::Named {
                name: "a\"tool",
                args: r#"{"key":"caller","n":1}"#,
                secrets: &secrets,
            },
            more: "",
            progress: true,
            traceparent: Some("00-ab-cd-01"),
            meta: r#""more":true"#,
            client_meta: Some(r#"{"a.b/c":1}"#),
        };
        let frame = call.build();
        assert!(frame.bytes.len() <= call.capacity());
        let message: Value = serde_json::from_slice(&frame.bytes).expect("JSON");
        assert_eq!(message["id"], json!(1000));
        assert_eq!(message["params"]["name"], "a\"tool");
        assert_eq!(
            message["params"]["arguments"]["key"],
            "quote \" and \n line"
        );
        assert_eq!(
            message["params"]["_meta"],
            json!({ "progressToken": 1000, "traceparent": "00-ab-cd-01", "more": true, "a.b/c": 1 })
        );
        let secret = String::from_utf8_lossy(&frame.bytes[..frame.secret]).into_owned();
        assert!(
            secret.contains("and"),
            "the secret lies outside the wiped bytes"
        );
        assert_eq!(frame.bytes.last(), Some(&b'\n'));
    }

    #[test]
    fn a_call_without_metadata_has_none() {
        let call = RequestFrame {
            id: 7,
            method: "tools/call",
            params: RequestParams::Named {
                name: "echo",
                args: "{}",
                secrets: &[],
            },
            more: "",
            progress: false,
            traceparent: None,
            meta: "",
            client_meta: None,
        };
        assert_eq!(
            String::from_utf8_lossy(&call.build().bytes),
            "{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{}}}\n"
        );
    }

    #[test]
    fn the_input_of_a_client_stands_beside_the_parameters() {
        for (params, expected) in [
            (
                RequestParams::Members(""),
                r#"{"requestState":"s","_meta":{"a":1}}"#,
            ),
            (
                RequestParams::Members("\"uri\":\"a:b\""),
                r#"{"uri":"a:b","requestState":"s","_meta":{"a":1}}"#,
            ),
            (
                RequestParams::Named {
                    name: "echo",
                    args: "{}",
                    secrets: &[],
                },
                r#"{"name":"echo","arguments":{},"requestState":"s","_meta":{"a":1}}"#,
            ),
        ] {
            let request = RequestFrame {
                id: 7,
                method: "tools/call",
                params,
                more: r#""requestState":"s""#,
                progress: false,
                traceparent: None,
                meta: r#""a":1"#,
                client_meta: None,
            };
            let built = request.build();
            assert!(built.bytes.len() <= request.capacity());
            let text = String::from_utf8_lossy(&built.bytes).into_owned();
            assert!(text.contains(&format!("\"params\":{expected}}}")), "{text}");
        }
    }

    #[test]
    fn a_request_without_arguments_has_its_members() {
        let built = |members, client_meta| {
            let request = RequestFrame {
                id: 7,
                method: "resources/read",
                params: RequestParams::Members(members),
                more: "",
                progress: false,
                traceparent: None,
                meta: "",
                client_meta,
            };
            assert!(request.build().bytes.len() <= request.capacity());
            String::from_utf8_lossy(&request.build().bytes).into_owned()
        };
        let start = r#"{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"#;
        let uri = "\"uri\":\n\"a:b\"";
        assert_eq!(built(uri, None), format!("{start}\"uri\": \"a:b\"}}}}\n"));
        assert_eq!(
            built(uri, Some("{\"a.b/c\":1}")),
            format!("{start}\"uri\": \"a:b\",\"_meta\":{{\"a.b/c\":1}}}}}}\n")
        );
        assert_eq!(
            built("", Some("{\"a.b/c\":1}")),
            format!("{start}\"_meta\":{{\"a.b/c\":1}}}}}}\n")
        );
    }
}
