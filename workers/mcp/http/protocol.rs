//! The headers and metadata of every message: the protocol version, the session, and without sessions the subject of
//! the message.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::version::Era;
use crate::core::model::remote::StoredSession;
use crate::workers::mcp::request_meta::{self, STATELESS};

/// The newest version with sessions.
pub(super) const NEWEST_WITH_SESSION: &str = "2025-11-25";
/// The versions that begin with `initialize`.
pub(super) const WITH_SESSION: [&str; 4] = [
    "2024-11-05",
    "2025-03-26",
    "2025-06-18",
    NEWEST_WITH_SESSION,
];

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// The protocol mode and the session of a connection.
#[derive(Clone)]
pub struct ProtocolContext {
    pub stateless: bool,
    /// The headers of every message.
    base: HeaderMap,
    /// The number of the session in this connection. A request that finds its session lost compares numbers, because
    /// another request may have opened a new session.
    pub number: u64,
}

impl ProtocolContext {
    /// Returns the context of a session, or of `initialize`, which names no version.
    pub fn new(version: Option<&str>, session: Option<&str>) -> Self {
        let mut base = HeaderMap::with_capacity(8);
        base.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        base.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
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
            number: 0,
        }
    }

    /// Returns the context of a server without sessions.
    pub fn stateless() -> Self {
        Self {
            stateless: true,
            ..Self::new(Some(STATELESS), None)
        }
    }

    /// Returns the context of a stored session.
    pub fn resume(session: &StoredSession) -> Self {
        let version = session
            .initialize
            .as_ref()
            .and_then(|initialize| initialize["protocolVersion"].as_str());
        Self::new(version, Some(&session.id))
    }

    pub fn has_session(&self) -> bool {
        self.base.contains_key(SESSION_ID)
    }

    /// Returns the era of the protocol version.
    pub fn era(&self) -> Era {
        if self.stateless {
            Era::Modern
        } else {
            Era::Legacy
        }
    }

    /// Returns the members of `_meta` in a request for a client with these capabilities.
    pub fn meta(&self, capabilities: ClientCapabilities) -> Cow<'static, str> {
        request_meta::meta(self.era(), capabilities)
    }

    /// Returns the `params` of a request from its members.
    pub fn params(&self, members: &str) -> String {
        request_meta::params(self.era(), members)
    }

    /// Returns the headers of a message.
    pub fn headers(&self, method: &'static str, name: Option<&str>) -> Cow<'_, HeaderMap> {
        if !self.stateless {
            return Cow::Borrowed(&self.base);
        }
        let mut headers = self.base.clone();
        headers.insert(METHOD, HeaderValue::from_static(method));
        if let Some(name) = name.and_then(encode_header) {
            headers.insert(NAME, name);
        }
        Cow::Owned(headers)
    }

    /// Returns the headers of a request for a stream, after the event `last_event` if the stream is resumed.
    pub fn stream_headers(&self, last_event: Option<&str>) -> HeaderMap {
        let mut headers = self.base.clone();
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static(EVENT_STREAM));
        if let Some(id) = last_event.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(LAST_EVENT_ID, id);
        }
        headers
    }
}

/// Encodes a text for a header, in base64 if the text would change on its way (MCP 2026-07-28, transports).
pub(super) fn encode_header(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) && text.trim() == text;
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
