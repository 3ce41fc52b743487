//! Finds out how a new child speaks, and opens its session if it has sessions (MCP 2026-07-28, stdio, Backward Compatibility).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rmcp::model::ClientConfig;
use rmcp::service::{ClientInitializeError, RoleClient, RunningService};
use serde_json::Value;

use crate::core::mcp::version::Era;
use crate::core::model::remote::ProtocolMode;
use crate::workers::mcp::handshake::Handshake;
use crate::workers::mcp::jsonrpc::RpcError;
use crate::workers::mcp::mux::{Closed, Mux, RpcReply};
use crate::workers::mcp::request_meta::{
    DISCOVER, STATELESS, UNSUPPORTED_VERSION, contains_stateless, params,
};
use crate::workers::mcp::rmcp_bridge::RmcpBridge;

/// A child that has not answered `server/discover` for this time gets `initialize` too, because servers of earlier revisions
/// may drop requests that they do not know.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a child that has refused `initialize` may still answer `server/discover`.
const LATE_ANSWER: Duration = Duration::from_secs(5);
/// Errors with which only a server of 2026-07-28 answers.
const MODERN_ERRORS: std::ops::RangeInclusive<i64> = -32021..=-32020;

/// The first request to a new child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstRequest {
    /// Shows how the child speaks.
    Discover,
    /// Suits a child that has been found to have sessions.
    Initialize,
}

impl FirstRequest {
    /// Returns the request that suits a server that spoke in this way before.
    pub(super) fn for_known(mode: Option<ProtocolMode>) -> Self {
        match mode {
            Some(ProtocolMode::Session) => Self::Initialize,
            Some(ProtocolMode::Stateless | ProtocolMode::Sse) | None => Self::Discover,
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Discover => Self::Initialize,
            Self::Initialize => Self::Discover,
        }
    }
}

/// How a child speaks.
pub(super) enum Opened {
    /// Without sessions (2026-07-28).
    Modern {
        /// `None` if the child has described itself with an error only.
        handshake: Option<Handshake>,
    },
    Legacy {
        /// Answers requests of the server.
        _session: Session,
        /// Gets the raw result of `initialize`.
        initialize: Arc<OnceLock<Bytes>>,
    },
}

pub(super) type Session = RunningService<RoleClient, ClientConfig>;

impl Opened {
    pub(super) fn era(&self) -> Era {
        match self {
            Self::Modern { .. } => Era::Modern,
            Self::Legacy { .. } => Era::Legacy,
        }
    }

    pub(super) fn handshake(&self) -> Option<Handshake> {
        match self {
            Self::Modern { handshake } => handshake.clone(),
            Self::Legacy { initialize, .. } => initialize.get().cloned().map(Handshake::Initialize),
        }
    }
}

/// Why a child was not opened. The text continues a sentence that begins with the server.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The first request was not the right one. A new child may answer the other one.
    #[error("{0}")]
    WrongFirstRequest(String),
    #[error("{0}")]
    Failed(String),
}

/// The way to a new child.
pub(super) struct Opening {
    pub mux: Arc<Mux>,
    pub bridge: RmcpBridge,
    /// The client that `initialize` describes.
    pub config: ClientConfig,
    /// Gets the raw result of `initialize`.
    pub initialize: Arc<OnceLock<Bytes>>,
}

impl Opening {
    /// Sends the first request, and what must follow it. The caller limits the time.
    pub(super) async fn open(self, first: FirstRequest) -> Result<Opened, OpenError> {
        let initialize = self.initialize;
        let opened = |session| Opened::Legacy {
            _session: session,
            initialize,
        };
        // rmcp's future is large.
        let initializing = Box::pin(rmcp::serve_client(self.config, self.bridge));
        match first {
            FirstRequest::Discover => discover(&self.mux, initializing, opened).await,
            FirstRequest::Initialize => initializing.await.map(opened).map_err(|error| {
                if is_refusal(&error) {
                    OpenError::WrongFirstRequest(error.to_string())
                } else {
                    OpenError::Failed(error.to_string())
                }
            }),
        }
    }
}

/// Asks for the versions of a child. A child that does not know the request gets `initialize`.
async fn discover(
    mux: &Arc<Mux>,
    mut initializing: Pin<Box<impl Future<Output = Result<Session, ClientInitializeError>>>>,
    opened: impl FnOnce(Session) -> Opened,
) -> Result<Opened, OpenError> {
    let params = params(Era::Modern, "");
    let mut asking = std::pin::pin!(mux.request(DISCOVER, &params));
    let failed = |error: ClientInitializeError| OpenError::Failed(error.to_string());
    let reply = match tokio::time::timeout(SILENCE, &mut asking).await {
        Ok(reply) => reply,
        // A child that answers both at once speaks 2026-07-28, so its answer to `server/discover` counts.
        Err(_) => tokio::select! {
            biased;
            reply = &mut asking => reply,
            session = &mut initializing => match session {
                Ok(session) => return Ok(opened(session)),
                Err(refusal) => {
                    let late = tokio::time::timeout(LATE_ANSWER, asking).await;
                    return match late.map(Discovered::from_reply) {
                        Ok(Discovered::Modern(handshake)) => Ok(Opened::Modern { handshake }),
                        _ => Err(failed(refusal)),
                    };
                }
            },
        },
    };
    match Discovered::from_reply(reply) {
        Discovered::Modern(handshake) => Ok(Opened::Modern { handshake }),
        Discovered::Legacy => initializing.await.map(opened).map_err(failed),
        Discovered::Ended => Err(OpenError::WrongFirstRequest(Closed.to_string())),
    }
}

/// The meaning of the reply to `server/discover`.
enum Discovered {
    Modern(Option<Handshake>),
    Legacy,
    /// The child has ended.
    Ended,
}

impl Discovered {
    fn from_reply(reply: Result<RpcReply, Closed>) -> Self {
        match reply {
            Err(Closed) => Self::Ended,
            Ok(RpcReply::Result(result)) => Self::from_result(result),
            Ok(RpcReply::Error(error)) => Self::from_error(&error),
            Ok(RpcReply::TooLarge) => Self::Legacy,
        }
    }

    fn from_result(result: Bytes) -> Self {
        let value = serde_json::from_slice::<Value>(&result).unwrap_or_default();
        if contains_stateless(&value["supportedVersions"]) {
            Self::Modern(Some(Handshake::Discover(result, STATELESS)))
        } else {
            Self::Legacy
        }
    }

    fn from_error(error: &[u8]) -> Self {
        let Ok(error) = serde_json::from_slice::<RpcError>(error) else {
            return Self::Legacy;
        };
        let supported = || {
            let data = error.data.as_ref();
            let data = data.and_then(|data| serde_json::from_str::<Value>(data.get()).ok());
            contains_stateless(&data.unwrap_or_default()["supported"])
        };
        let is_modern = MODERN_ERRORS.contains(&error.code)
            || (error.code == UNSUPPORTED_VERSION && supported());
        if is_modern {
            Self::Modern(None)
        } else {
            Self::Legacy
        }
    }
}

/// Whether the server has answered `initialize` with an error.
fn is_refusal(error: &ClientInitializeError) -> bool {
    matches!(
        error,
        ClientInitializeError::JsonRpcError(_)
            | ClientInitializeError::NoCompatibleProtocolVersion { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discovered(reply: RpcReply) -> &'static str {
        match Discovered::from_reply(Ok(reply)) {
            Discovered::Modern(Some(_)) => "modern",
            Discovered::Modern(None) => "modern, not described",
            Discovered::Legacy => "legacy",
            Discovered::Ended => "ended",
        }
    }

    #[test]
    fn a_result_or_an_error_of_2026_07_28_shows_a_modern_child() {
        let result = |text: &'static str| RpcReply::Result(Bytes::from_static(text.as_bytes()));
        let error = |text: &'static str| RpcReply::Error(Bytes::from_static(text.as_bytes()));
        for (reply, expected) in [
            (result(r#"{"supportedVersions":["2026-07-28"]}"#), "modern"),
            (result(r#"{"supportedVersions":["2027-01-01"]}"#), "legacy"),
            (result("{}"), "legacy"),
            (result("null"), "legacy"),
            (error(r#"{"code":-32601,"message":"?"}"#), "legacy"),
            (error(r#"{"code":-32602,"message":"?"}"#), "legacy"),
            (
                error(r#"{"code":-32021,"message":"?"}"#),
                "modern, not described",
            ),
            (
                error(r#"{"code":-32022,"message":"?","data":{"supported":["2026-07-28"]}}"#),
                "modern, not described",
            ),
            (
                error(r#"{"code":-32022,"message":"?","data":{"supported":["2025-11-25"]}}"#),
                "legacy",
            ),
            (error("no JSON"), "legacy"),
            (RpcReply::TooLarge, "legacy"),
        ] {
            let shown = format!("{reply:?}");
            assert_eq!(discovered(reply), expected, "{shown}");
        }
    }

    #[test]
    fn a_server_that_is_known_to_have_sessions_is_not_probed() {
        let first = FirstRequest::for_known;
        assert_eq!(first(Some(ProtocolMode::Session)), FirstRequest::Initialize);
        assert_eq!(first(Some(ProtocolMode::Stateless)), FirstRequest::Discover);
        assert_eq!(first(None), FirstRequest::Discover);
    }
}
