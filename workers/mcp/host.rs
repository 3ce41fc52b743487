//! The traits between the MCP client and the program that uses it.

use std::time::Duration;

use async_trait::async_trait;
use hyper::Uri;
use hyper::header::HeaderMap;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::pause::CallPause;
use crate::core::failure::Failure;
use crate::core::ids::ValueId;
use crate::core::mcp::capabilities::ClientCapabilities;
use crate::core::mcp::input_required::ClientMethod;
use crate::core::mcp::log_level::WantedLog;
use crate::core::model::remote::{ProtocolMode, StoredSession};
use crate::core::model::upstream_change::ChangedPart;

/// The origin of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogSource {
    /// The server wrote the line to its standard error.
    Stderr,
    /// The server wrote the line to its standard output, and the line is no message.
    Stdout,
    /// The server sent `notifications/message`.
    Server,
    /// The client describes an event of the connection.
    Transport,
}

impl LogSource {
    /// Returns the name that `logs` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stderr => "stderr",
            Self::Stdout => "stdout",
            Self::Server => "server",
            Self::Transport => "transport",
        }
    }
}

/// A text that may repeat what the server sent. The receiver redacts it.
#[derive(Debug, Clone, Copy)]
pub enum LogText<'a> {
    /// A whole text.
    Plain(&'a str),
    /// A JSON value, which stays JSON.
    Json(&'a str),
    /// The beginning of a longer text.
    Cut(&'a [u8]),
}

/// Receives what a server sends without being asked, and what happens to its connection.
#[async_trait]
pub trait NotificationSink: Send + Sync {
    /// The server sent `notifications/tools/list_changed`.
    fn tools_changed(&self);

    /// The server sent a notification that another part of it has changed.
    fn changed(&self, part: ChangedPart);

    /// The client has started the program a second time, with another first request. The lines of the first process do not
    /// explain how the second process ends.
    fn started_again(&self);

    /// The server has sent a request for which no client can be asked.
    fn client_not_found(&self, method: ClientMethod);

    /// Redacts a line and stores it.
    fn log(&self, source: LogSource, text: LogText<'_>);

    /// Returns the first `limit` bytes of a text of the server, redacted, for an error message.
    fn excerpt(&self, text: &[u8], limit: usize) -> String;

    /// Records how a server speaks MCP. The connection counts as open only afterwards.
    async fn protocol_detected(&self, mode: ProtocolMode);
}

/// Says how long a child may live without a renewal.
pub trait ChildLifetime: Send + Sync {
    /// Returns the time from now on. Zero: the child must not start.
    fn left(&self) -> Duration;
}

/// Receives the progress notifications of one call.
pub trait ProgressListener: Send + Sync {
    /// Receives the `params` of a notification as the server sent them. Returns at once.
    fn on_progress(&self, params: &RawValue);
}

/// Asks the MCP client of one call, for the server that executes the call.
#[async_trait]
pub trait ClientAsker: Send + Sync {
    /// Returns the member of the JSON-RPC response that answers the server: `"result":…` or `"error":…`. Waits for the
    /// client, within the limits of a call.
    async fn answer(&self, method: ClientMethod, params: Option<&RawValue>) -> String;

    /// Returns room for one request of the server, until the server has taken the reply. `None`: the call has too many.
    fn slot(&self) -> Option<OwnedSemaphorePermit>;

    /// Tells the client that the server has finished an elicitation in URL mode
    /// (`notifications/elicitation/complete`, MCP 2025-11-25). Returns at once.
    fn elicitation_completed(&self, params: &RawValue);

    /// The capabilities of the client, which the connection declares to the server.
    fn capabilities(&self) -> ClientCapabilities;

    /// The pause of the call's time limit while the client is asked.
    fn pause(&self) -> &CallPause;
}

/// Receives the log lines that arrive on the stream of one call.
pub trait LogListener: Send + Sync {
    /// Returns the lines that the caller takes.
    fn wanted(&self) -> WantedLog;

    /// Receives the `params` of `notifications/message` as the server sent them. Returns at once.
    fn on_log(&self, params: &RawValue);
}

/// Stores the session of one server behind a URL.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Returns the session that an earlier connection stored.
    async fn load(&self) -> Option<StoredSession>;

    /// Publishes the id of the current session without storing it.
    fn show(&self, session_id: Option<&str>);

    /// Stores a session in place of the earlier session.
    async fn store(&self, session: &StoredSession);

    /// Removes the stored session, because the server opened a connection without one.
    async fn end(&self);
}

/// Provides the access token of one server behind a URL.
#[async_trait]
pub trait AccessTokens: Send + Sync {
    /// Adds the current token to the headers of a request. Returns `None` if the token must be loaded or refreshed
    /// first; [`AccessTokens::apply`] does that. Never waits, because each request calls it.
    fn apply_current(&self, headers: &mut HeaderMap) -> Result<Option<AppliedToken>, TokenError>;

    /// Loads or refreshes the token and adds it to the headers of a request.
    async fn apply(&self, headers: &mut HeaderMap) -> Result<AppliedToken, TokenError>;

    /// Replaces a token that the server refused with HTTP 401.
    ///
    /// # Errors
    /// Returns the failure for the caller if no other token can be obtained.
    async fn rejected(&self, token: ValueId) -> Result<(), Failure>;

    /// Records that the server refused a token that had just been refreshed, and returns the failure for the caller.
    fn rejected_again(&self, token: ValueId) -> Failure;

    /// Returns the failure for the caller if the response headers say that the token needs more scopes (RFC 6750,
    /// section 3.1).
    fn insufficient_scope(&self, response: &HeaderMap) -> Option<Failure>;
}

/// A token in the headers of one request.
pub struct AppliedToken {
    pub id: ValueId,
    pub redaction: RedactionGuard,
}

/// Why no token was added to a request.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The user must authorize the server, or no token can be obtained now.
    #[error("{}", .0.message)]
    Denied(Box<Failure>),
    /// The stored token cannot be opened.
    #[error("its access token cannot be opened")]
    Unreadable,
}

impl From<Failure> for TokenError {
    fn from(failure: Failure) -> Self {
        Self::Denied(Box::new(failure))
    }
}

/// Opens the sealed headers of one server, and the sealed values of its query, for one request.
pub trait Credentials: Send + Sync {
    /// Returns true if a sealed value may authenticate the client. Then a 401 means that the value is wrong.
    fn can_authenticate(&self) -> bool;

    /// Adds the sealed headers to the headers of a request, and the sealed values of the query to `uri`. A request to
    /// another URL than the configured one has no `uri` here, because only the configured URL has places for the values.
    fn apply(
        &self,
        headers: &mut HeaderMap,
        uri: Option<&mut Uri>,
    ) -> Result<RedactionGuard, CredentialError>;
}

/// Why a sealed value was not added to a request.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("its {name} cannot be opened")]
    Unreadable { name: String },
    #[error("the stored values of its query make no URL")]
    InvalidQuery,
    #[error("the stored value of its {header} cannot be the value of a header")]
    Invalid { header: String },
}

/// Keeps the credentials of one request redacted until it is dropped.
#[derive(Default)]
pub struct RedactionGuard(
    #[expect(dead_code, reason = "dropping the value ends the redaction")]
    Option<Box<dyn Send + Sync>>,
);

impl RedactionGuard {
    /// Returns a guard that drops `redaction` with itself.
    pub fn new(redaction: impl Send + Sync + 'static) -> Self {
        Self(Some(Box::new(redaction)))
    }
}

#[cfg(test)]
pub mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::Mutex;

    use super::*;

    /// Keeps the progress notifications of a call.
    #[derive(Default)]
    pub struct RecordingListener(Mutex<Vec<String>>);

    impl RecordingListener {
        pub fn received(&self) -> Vec<String> {
            self.0.lock().clone()
        }
    }

    impl ProgressListener for RecordingListener {
        fn on_progress(&self, params: &RawValue) {
            self.0.lock().push(params.get().to_owned());
        }
    }

    /// Keeps everything that the client reports.
    #[derive(Default)]
    pub struct RecordingSink {
        lines: Mutex<Vec<String>>,
        tools_changed: AtomicUsize,
        pub changes: Mutex<Vec<ChangedPart>>,
        pub modes: Mutex<Vec<ProtocolMode>>,
    }

    impl RecordingSink {
        /// Returns all log lines as `source: text`.
        pub fn lines(&self) -> Vec<String> {
            self.lines.lock().clone()
        }

        /// Returns the number of `tools/list_changed` notifications.
        pub fn tools_changed(&self) -> usize {
            self.tools_changed.load(Ordering::Relaxed)
        }
    }

    #[async_trait]
    impl NotificationSink for RecordingSink {
        fn tools_changed(&self) {
            self.tools_changed.fetch_add(1, Ordering::Relaxed);
        }

        fn changed(&self, part: ChangedPart) {
            self.changes.lock().push(part);
        }

        fn started_again(&self) {}

        fn client_not_found(&self, method: ClientMethod) {
            self.lines
                .lock()
                .push(format!("no client: {}", method.as_str()));
        }

        fn log(&self, source: LogSource, text: LogText<'_>) {
            let text = match text {
                LogText::Plain(text) | LogText::Json(text) => text.to_owned(),
                LogText::Cut(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            };
            self.lines
                .lock()
                .push(format!("{}: {text}", source.as_str()));
        }

        fn excerpt(&self, text: &[u8], limit: usize) -> String {
            String::from_utf8_lossy(&text[..text.len().min(limit)]).into_owned()
        }

        async fn protocol_detected(&self, mode: ProtocolMode) {
            self.modes.lock().push(mode);
        }
    }
}
