//! One JSON-RPC message as bytes. A frame wipes its secrets when it is dropped.

use std::io::Write as _;

use zeroize::Zeroize;

use crate::core::arguments::merge::{SecretArgument, append_json_string, merge_arguments};

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

/// The content of a `tools/call` request.
pub struct CallToolFrame<'a> {
    /// The request id, which is the progress token too.
    pub id: u64,
    pub tool: &'a str,
    /// A checked JSON object.
    pub args: &'a str,
    pub secrets: &'a [SecretArgument<'a>],
    pub progress: bool,
    pub traceparent: Option<&'a str>,
    /// More members of `_meta`, as JSON.
    pub meta: &'a str,
    /// The members of `_meta` that come from an MCP client, as a JSON object.
    pub client_meta: Option<&'a str>,
}

impl CallToolFrame<'_> {
    /// Returns a size that the frame never exceeds, because a growing buffer leaves copies of secrets behind.
    pub fn capacity(&self) -> usize {
        let meta = self.meta.len() + self.client_meta.map_or(0, str::len);
        self.args.len() + self.tool.len() * 6 + self.secret_capacity() + meta + 320
    }

    /// Escaping makes a text at most six times as long.
    fn secret_capacity(&self) -> usize {
        let secrets = self.secrets.iter();
        secrets
            .map(|secret| (secret.name.len() + secret.value.len()) * 6 + 8)
            .sum()
    }

    pub fn build(&self) -> Frame {
        let mut bytes = Vec::with_capacity(self.capacity());
        // Writing to a Vec cannot fail.
        let _ = write!(
            bytes,
            r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"#,
            self.id
        );
        append_json_string(&mut bytes, self.tool);
        bytes.extend_from_slice(br#","arguments":"#);
        let arguments_start = bytes.len();
        merge_arguments(&mut bytes, self.args, self.secrets);
        let secret = if self.secrets.is_empty() {
            0
        } else {
            (arguments_start + self.secret_capacity()).min(bytes.len())
        };
        self.append_meta(&mut bytes);
        bytes.extend_from_slice(b"}}\n");
        Frame {
            bytes,
            request: Some(self.id),
            secret,
        }
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
        let mut start = r#","_meta":{"#;
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
        let call = CallToolFrame {
            id: 1000,
            tool: "a\"tool",
            args: r#"{"key":"caller","n":1}"#,
            secrets: &secrets,
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
        let call = CallToolFrame {
            id: 7,
            tool: "echo",
            args: "{}",
            secrets: &[],
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
}
