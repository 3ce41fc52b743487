//! The log level that clients ask a server for: `logging/setLevel` in a session, and a member of `_meta` without sessions.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::protocol::ProtocolContext;
use super::session::HttpSession;
use crate::core::json_object::Members;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::log_level::{LogLevel, WantedLog};
use crate::workers::mcp::jsonrpc::note;
use crate::workers::mcp::request_meta::with_log_level;

/// The longest time for the request. The call goes on afterwards.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const METHOD: &str = "logging/setLevel";

/// The most verbose level that the server was asked for in a session.
#[derive(Default)]
pub struct AskedLevel {
    /// The number of the session.
    session: u64,
    level: Option<LogLevel>,
}

impl AskedLevel {
    /// Records a level. Returns whether the server must be asked for it.
    fn record(&mut self, session: u64, level: LogLevel) -> bool {
        if self.session != session {
            *self = Self {
                session,
                level: None,
            };
        }
        let is_covered = self.level.is_some_and(|asked| asked <= level);
        if !is_covered {
            self.level = Some(level);
        }
        !is_covered
    }
}

impl HttpSession {
    /// Asks the server of a session for the lines that a client wants, unless an earlier client has asked for more.
    pub(super) async fn ask_for_log(self: &Arc<Self>, wanted: WantedLog) {
        let WantedLog::From(level) = wanted else {
            return;
        };
        let context = self.context();
        if context.stateless {
            return;
        }
        // Held during the request, so that another call waits for the lines too.
        let mut asked = self.log_level.lock().await;
        if !asked.record(context.number, level) || !self.declares_logging() {
            return;
        }
        let members = format!(r#""level":"{}""#, level.as_str());
        let request = self.request(METHOD, &members);
        let problem = match tokio::time::timeout(REQUEST_LIMIT, request).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) => error.reason,
            Err(_) => "the server did not answer in time".to_owned(),
        };
        let text = format!("{METHOD} has failed: {problem}");
        note(&*self.transport.sink, &text);
    }

    fn declares_logging(&self) -> bool {
        let handshake = self.handshake.load();
        let parts = handshake.as_ref().map(|handshake| handshake.parts());
        let capabilities = parts.and_then(|parts| parts.capabilities);
        let declared = capabilities.and_then(|raw| Members::parse(raw.get())?.get("logging"));
        declared.is_some_and(|declared| declared.get().starts_with('{'))
    }
}

/// Returns the members of `_meta` of a call.
pub(super) fn call_meta(
    context: &ProtocolContext,
    capabilities: ClientCapabilities,
    wanted: Option<WantedLog>,
) -> Cow<'static, str> {
    let meta = context.meta(capabilities);
    match wanted.filter(|_| context.stateless) {
        Some(wanted) => Cow::Owned(with_log_level(&meta, wanted.level())),
        None => meta,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_asked_only_for_more_than_before() {
        let mut asked = AskedLevel::default();
        for (session, level, expected) in [
            (0, LogLevel::Warning, true),
            (0, LogLevel::Error, false),
            (0, LogLevel::Warning, false),
            (0, LogLevel::Debug, true),
            (0, LogLevel::Info, false),
            (1, LogLevel::Info, true),
        ] {
            assert_eq!(
                asked.record(session, level),
                expected,
                "{session} {level:?}"
            );
        }
    }

    #[test]
    fn a_call_without_a_session_names_its_level() {
        let none = ClientCapabilities::default();
        let stateless = ProtocolContext::stateless();
        assert_eq!(call_meta(&stateless, none, None), stateless.meta(none));
        let named = call_meta(&stateless, none, Some(WantedLog::Default));
        assert!(
            named.ends_with(r#","io.modelcontextprotocol/logLevel":"info""#),
            "{named}"
        );
        let session = ProtocolContext::default();
        assert_eq!(call_meta(&session, none, Some(WantedLog::Default)), "");
    }
}
