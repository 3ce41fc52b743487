//! One JSON-RPC message on its way to a child: a line, wiped after use where it holds secrets.

use std::io::Write as _;

use zeroize::Zeroize;

use crate::core::arguments::merge::{
    ArgumentForm, SecretArgument, append_json_string, merge_arguments,
};
use crate::core::ids::ValueId;
use crate::core::names::SecretName;
use crate::crypto::seal::Plaintext;

/// A user's secret, opened for one call.
pub struct OpenedSecret {
    pub name: SecretName,
    pub id: ValueId,
    pub value: Plaintext,
    pub form: ArgumentForm,
}

/// A line, ready to be written.
pub struct Frame {
    pub bytes: Vec<u8>,
    /// The call it belongs to: a frame of a call that has ended is not written any more.
    pub call: Option<u64>,
    /// How much of it, from its beginning, may hold secrets.
    secret: usize,
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.bytes[..self.secret].zeroize();
    }
}

/// What a `tools/call` says.
pub struct CallToolFrame<'a> {
    pub id: u64,
    pub tool: &'a str,
    /// A JSON object, already checked.
    pub args: &'a str,
    pub secrets: &'a [SecretArgument<'a>],
    pub progress: bool,
    pub traceparent: Option<&'a str>,
    /// Further members of its `_meta`, as JSON.
    pub meta: &'a str,
}

impl CallToolFrame<'_> {
    /// The ids of calls are strings that begin with a letter: rmcp would take a number in a string
    /// for one of its own. The same string is the progress token.
    pub fn frame(&self) -> Frame {
        // Escaping makes a text six times as long at worst. Growing would leave copies of secrets behind.
        let secrets: usize = self
            .secrets
            .iter()
            .map(|s| (s.name.len() + s.value.len()) * 6 + 8)
            .sum();
        let mut bytes = Vec::with_capacity(
            self.args.len() + self.tool.len() * 6 + secrets + self.meta.len() + 320,
        );
        // Writing to a Vec cannot fail.
        let _ = write!(
            bytes,
            r#"{{"jsonrpc":"2.0","id":"c{}","method":"tools/call","params":{{"name":"#,
            self.id
        );
        append_json_string(&mut bytes, self.tool);
        bytes.extend_from_slice(br#","arguments":"#);
        let before = bytes.len();
        merge_arguments(&mut bytes, self.args, self.secrets);
        let secret = if self.secrets.is_empty() {
            0
        } else {
            (before + secrets).min(bytes.len())
        };
        self.put_meta(&mut bytes);
        bytes.extend_from_slice(b"}}\n");
        Frame {
            bytes,
            call: Some(self.id),
            secret,
        }
    }
}

impl CallToolFrame<'_> {
    fn put_meta(&self, bytes: &mut Vec<u8>) {
        const META: &[u8] = br#","_meta":{"#;
        if !self.progress && self.traceparent.is_none() && self.meta.is_empty() {
            return;
        }
        bytes.extend_from_slice(META);
        let mut comma = "";
        if self.progress {
            let _ = write!(bytes, r#""progressToken":"c{}""#, self.id);
            comma = ",";
        }
        if let Some(trace) = self.traceparent {
            let _ = write!(bytes, r#"{comma}"traceparent":"{trace}""#);
            comma = ",";
        }
        if !self.meta.is_empty() {
            let _ = write!(bytes, "{comma}{}", self.meta);
        }
        bytes.push(b'}');
    }
}

/// A frame can be a request's body as it is: it is wiped when that was sent.
impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request of ours that is no tool call. `params` is JSON.
pub fn request(id: u64, method: &str, params: &str) -> Frame {
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":\"c{id}\",\"method\":\"{method}\",\"params\":{params}}}\n"
    );
    Frame {
        bytes: line.into_bytes(),
        call: Some(id),
        secret: 0,
    }
}

/// Tells the server that nobody waits for a call any more.
pub fn cancelled(id: u64, reason: &str) -> Frame {
    let line = format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{{\"requestId\":\"c{id}\",\"reason\":\"{reason}\"}}}}\n"
    );
    plain(line.into_bytes())
}

/// A whole line without secrets.
pub fn plain(bytes: Vec<u8>) -> Frame {
    Frame {
        bytes,
        call: None,
        secret: 0,
    }
}
