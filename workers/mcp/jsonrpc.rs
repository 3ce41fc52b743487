//! JSON-RPC messages as servers write them, read where they lie, and what every server is heard to say.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::workers::redact::Redactor;
use crate::workers::runtime::log_buffer::{LogBuffer, shorten};

/// Of what a server logs, how much is looked at.
const SAID: usize = 64 * 1024;

/// One message of a server, as far as it matters here.
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

/// What a server answers where it has no result.
#[derive(Deserialize, Serialize)]
pub struct RpcError {
    pub code: i64,
    #[serde(default)]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// Where the words of a server go that answer nothing.
#[derive(Clone)]
pub struct NotificationSink {
    pub log_buffer: Arc<LogBuffer>,
    pub redactor: Arc<Redactor>,
    /// Rung when the server says that its tools have changed.
    pub tools_changed: Arc<Notify>,
}

impl NotificationSink {
    pub fn notification(&self, method: &str, params: Option<&RawValue>) {
        match method {
            "notifications/tools/list_changed" => self.tools_changed.notify_one(),
            "notifications/message" => {
                let said = params.map_or("", RawValue::get);
                let kept = shorten(said, SAID);
                let whole = kept.len() == said.len();
                let said = if whole {
                    self.redactor.mask_json(kept)
                } else {
                    self.redactor.mask_cut(kept.as_bytes())
                };
                self.log_buffer.push("server", &said);
            }
            // Others concern resources and prompts, which nobody here has asked for.
            _ => {}
        }
    }

    /// Something happened to the connection; `text` may hold what the server said.
    pub fn note(&self, text: &str) {
        self.log_buffer.push("transport", &self.redactor.mask(text));
    }
}

pub fn subslice(line: &Bytes, raw: &RawValue) -> Bytes {
    line.slice_ref(raw.get().as_bytes())
}

/// The number in `"c<number>"`.
pub fn call_id(id: &RawValue) -> Option<u64> {
    id.get()
        .strip_prefix("\"c")?
        .strip_suffix('"')?
        .parse()
        .ok()
}

pub fn progress_of(params: &RawValue) -> Option<u64> {
    #[derive(Deserialize)]
    struct Progress<'a> {
        #[serde(borrow, rename = "progressToken")]
        token: &'a RawValue,
    }
    serde_json::from_str::<Progress>(params.get())
        .ok()
        .and_then(|progress| call_id(progress.token))
}
