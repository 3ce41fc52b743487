//! Requests of the revision 2026-07-28: each repeats the version, the client and its capabilities in `_meta`, because there is
//! no session.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::resource_watch::WatchedUris;
use crate::core::json_object::ObjectWriter;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::log_level::LogLevel;
use crate::core::mcp::version::Era;

/// The version without sessions.
pub const STATELESS: &str = "2026-07-28";
/// The method that asks a server for its versions and its description.
pub const DISCOVER: &str = "server/discover";
/// The method whose reply is a stream of notifications.
pub const LISTEN: &str = "subscriptions/listen";
/// The server speaks none of the requested versions.
pub const UNSUPPORTED_VERSION: i64 = -32022;

macro_rules! meta {
    ($capabilities:literal) => {
        concat!(
            r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
            r#""io.modelcontextprotocol/clientInfo":{"name":"mcp-api","version":""#,
            env!("CARGO_PKG_VERSION"),
            r#""},"io.modelcontextprotocol/clientCapabilities":"#,
            $capabilities
        )
    };
}

/// The members of `_meta` in every request that declares no capabilities.
const META: &str = meta!("{}");
/// The same members up to the object of the capabilities.
const META_START: &str = meta!("");

/// Returns the members of `_meta` in a request for a client with these capabilities. A session has declared its capabilities
/// when it was opened.
pub fn meta(era: Era, capabilities: ClientCapabilities) -> Cow<'static, str> {
    match (era, capabilities.is_empty()) {
        (Era::Legacy, _) => Cow::Borrowed(""),
        (Era::Modern, true) => Cow::Borrowed(META),
        (Era::Modern, false) => Cow::Owned(format!("{META_START}{}", capabilities.declaration())),
    }
}

/// Returns the members of `_meta` in a request to a child process, which also asks for log lines: they name no request, so they
/// go to the log of the server.
pub fn child_meta(era: Era, capabilities: ClientCapabilities) -> Cow<'static, str> {
    const WITH_LOG: &str = meta!(r#"{},"io.modelcontextprotocol/logLevel":"info""#);
    match (era, capabilities.is_empty()) {
        (Era::Legacy, _) => Cow::Borrowed(""),
        (Era::Modern, true) => Cow::Borrowed(WITH_LOG),
        (Era::Modern, false) => {
            Cow::Owned(with_log_level(&meta(era, capabilities), LogLevel::Info))
        }
    }
}

/// Returns the members of `_meta` in a request that asks for the log lines from a level on.
pub fn with_log_level(meta: &str, level: LogLevel) -> String {
    let level = level.as_str();
    format!(r#"{meta},"io.modelcontextprotocol/logLevel":"{level}""#)
}

/// Returns the `params` of a request from its members.
pub fn params(era: Era, members: &str) -> String {
    match (era, members.is_empty()) {
        (Era::Legacy, _) => format!("{{{members}}}"),
        (Era::Modern, true) => format!(r#"{{"_meta":{{{META}}}}}"#),
        (Era::Modern, false) => format!(r#"{{{members},"_meta":{{{META}}}}}"#),
    }
}

/// Returns the members of the `params` of `subscriptions/listen`: all changes of lists, and the changes of these resources.
pub fn listen_members(uris: &WatchedUris) -> String {
    let mut wanted = ObjectWriter::with_capacity(128);
    for list in [
        "toolsListChanged",
        "promptsListChanged",
        "resourcesListChanged",
    ] {
        wanted.raw(list, "true");
    }
    if !uris.is_empty() {
        wanted.raw("resourceSubscriptions", &json!(**uris).to_string());
    }
    format!(r#""notifications":{}"#, wanted.finish())
}

/// Returns whether a list of versions names the version without sessions.
pub fn contains_stateless(versions: &Value) -> bool {
    versions
        .as_array()
        .is_some_and(|versions| versions.iter().any(|version| version == STATELESS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_to_a_modern_child_asks_for_log_lines() {
        let end = r#","io.modelcontextprotocol/logLevel":"info""#;
        for capabilities in [ClientCapabilities::default(), ClientCapabilities::ROOTS] {
            let expected = format!("{}{end}", meta(Era::Modern, capabilities));
            assert_eq!(child_meta(Era::Modern, capabilities), expected);
            assert_eq!(child_meta(Era::Legacy, capabilities), "");
        }
    }
}
