//! What is said with every request besides its body: the protocol's version, the session, and in the stateless era
//! what the body is about.

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use base64::prelude::{BASE64_STANDARD, Engine as _};

use crate::core::names::ValueId;
use crate::core::remote::Session;

/// The newest version without sessions, and with them.
pub const STATELESS: &str = "2026-07-28";
pub const NEWEST_WITH_SESSION: &str = "2025-11-25";
/// Versions that begin with `initialize`.
pub const WITH_SESSION: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", NEWEST_WITH_SESSION];

/// Who asks, in every body of the stateless era.
pub const META: &str = concat!(
    r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
    r#""io.modelcontextprotocol/clientInfo":{"name":"mcp-api","version":""#,
    env!("CARGO_PKG_VERSION"),
    r#""},"io.modelcontextprotocol/clientCapabilities":{}"#
);

pub const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub const EVENT_STREAM: &str = "text/event-stream";

/// How a server is spoken to at the moment.
#[derive(Clone, Default)]
pub struct Talk {
    pub stateless: bool,
    /// Not sent before it is agreed on.
    pub version: Option<HeaderValue>,
    pub session: Option<HeaderValue>,
    /// Where the session lies.
    pub kept: Option<ValueId>,
    /// Counts sessions: who finds one stale looks whether there is a newer one.
    pub number: u64,
}

impl Talk {
    pub fn stateless() -> Self {
        Self { stateless: true, version: Some(HeaderValue::from_static(STATELESS)), ..Self::default() }
    }

    /// Takes up a session that was opened earlier.
    pub fn resume(session: &Session, kept: ValueId) -> Option<Self> {
        let version = session.initialize.as_ref().and_then(|initialize| initialize["protocolVersion"].as_str());
        let version = version.and_then(|version| HeaderValue::from_str(version).ok());
        Some(Self { version, session: Some(sensitive(&session.id)?), kept: Some(kept), ..Self::default() })
    }

    /// The members that every `params` has in its `_meta`.
    pub fn meta(&self) -> &'static str {
        if self.stateless { META } else { "" }
    }

    /// A request's `params`, of these members.
    pub fn params(&self, members: &str) -> String {
        match (self.stateless, members.is_empty()) {
            (false, _) => format!("{{{members}}}"),
            (true, true) => format!(r#"{{"_meta":{{{META}}}}}"#),
            (true, false) => format!(r#"{{{members},"_meta":{{{META}}}}}"#),
        }
    }

    /// The headers of a message about that method, and that tool.
    pub fn headers(&self, method: &'static str, name: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.put_session(&mut headers);
        if self.stateless {
            headers.insert(METHOD, HeaderValue::from_static(method));
            if let Some(name) = name.and_then(encoded) {
                headers.insert(NAME, name);
            }
        }
        headers
    }

    /// The headers of a request for the server's own stream.
    pub fn stream_headers(&self, last_event: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        self.put_session(&mut headers);
        if let Some(last) = last_event.and_then(|last| HeaderValue::from_str(last).ok()) {
            headers.insert(HeaderName::from_static("last-event-id"), last);
        }
        headers
    }

    fn put_session(&self, headers: &mut HeaderMap) {
        if let Some(version) = &self.version {
            headers.insert(VERSION, version.clone());
        }
        if let Some(session) = &self.session {
            headers.insert(SESSION_ID, session.clone());
        }
    }
}

pub fn sensitive(session: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(session).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A text as a header has it (2026-07-28, transports): in base64 where it would not arrive as it is.
pub fn encoded(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|b| (0x20..=0x7e).contains(&b)) && text.trim() == text;
    if plain && !(text.starts_with("=?base64?") && text.ends_with("?=")) {
        return HeaderValue::from_str(text).ok();
    }
    HeaderValue::from_str(&format!("=?base64?{}?=", BASE64_STANDARD.encode(text))).ok()
}
