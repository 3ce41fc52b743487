//! What is said with every request besides its body: the protocol's version, the session, and in the stateless era
//! what the body is about.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::core::ids::ValueId;
use crate::core::model::remote::StoredSession;

/// The newest version without sessions, and with them.
pub const STATELESS: &str = "2026-07-28";
pub const NEWEST_WITH_SESSION: &str = "2025-11-25";
/// Versions that begin with `initialize`.
pub const WITH_SESSION: [&str; 4] = [
    "2024-11-05",
    "2025-03-26",
    "2025-06-18",
    NEWEST_WITH_SESSION,
];

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
#[derive(Clone)]
pub struct ProtocolContext {
    pub stateless: bool,
    /// What every message is sent with.
    base: HeaderMap,
    /// Where the session lies.
    pub kept: Option<ValueId>,
    /// Counts sessions: who finds one stale looks whether there is a newer one.
    pub number: u64,
}

impl ProtocolContext {
    /// A version is not named before it is agreed on.
    pub fn new(version: Option<&str>, session: Option<&str>) -> Self {
        let mut base = HeaderMap::with_capacity(8);
        base.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        base.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(version) = version.and_then(|version| HeaderValue::from_str(version).ok()) {
            base.insert(VERSION, version);
        }
        if let Some(mut session) = session.and_then(|session| HeaderValue::from_str(session).ok()) {
            session.set_sensitive(true);
            base.insert(SESSION_ID, session);
        }
        Self {
            stateless: false,
            base,
            kept: None,
            number: 0,
        }
    }

    pub fn stateless() -> Self {
        Self {
            stateless: true,
            ..Self::new(Some(STATELESS), None)
        }
    }

    /// Takes up a session that was opened earlier.
    pub fn resume(session: &StoredSession, kept: ValueId) -> Self {
        let version = session
            .initialize
            .as_ref()
            .and_then(|initialize| initialize["protocolVersion"].as_str());
        Self {
            kept: Some(kept),
            ..Self::new(version, Some(&session.id))
        }
    }

    pub fn has_session(&self) -> bool {
        self.base.contains_key(SESSION_ID)
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
    pub fn headers(&self, method: &'static str, name: Option<&str>) -> Cow<'_, HeaderMap> {
        if !self.stateless {
            return Cow::Borrowed(&self.base);
        }
        let mut headers = self.base.clone();
        headers.insert(METHOD, HeaderValue::from_static(method));
        if let Some(name) = name.and_then(encoded) {
            headers.insert(NAME, name);
        }
        Cow::Owned(headers)
    }

    /// The headers of a request for the server's own stream.
    pub fn stream_headers(&self, last_event: Option<&str>) -> HeaderMap {
        let mut headers = self.base.clone();
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        if let Some(last) = last_event.and_then(|last| HeaderValue::from_str(last).ok()) {
            headers.insert(HeaderName::from_static("last-event-id"), last);
        }
        headers
    }
}

/// A text as a header has it (2026-07-28, transports): in base64 where it would not arrive as it is.
pub fn encoded(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|b| (0x20..=0x7e).contains(&b)) && text.trim() == text;
    if plain && !(text.starts_with("=?base64?") && text.ends_with("?=")) {
        return HeaderValue::from_str(text).ok();
    }
    HeaderValue::from_str(&format!("=?base64?{}?=", BASE64_STANDARD.encode(text))).ok()
}

impl Default for ProtocolContext {
    fn default() -> Self {
        Self::new(None, None)
    }
}
