//! Opens a session, or finds out that a server speaks without sessions.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::Value;

use super::protocol::{NEWEST_WITH_SESSION, ProtocolContext, WITH_SESSION};
use super::session::HttpSession;
use super::transport::{Received, TransportError};
use crate::core::model::remote::StoredSession;
use crate::workers::mcp::call::ConnectError;
use crate::workers::mcp::handshake::Handshake;
use crate::workers::mcp::jsonrpc::RpcError;
use crate::workers::mcp::mux::RpcReply;
use crate::workers::mcp::request_meta::{
    DISCOVER, STATELESS, UNSUPPORTED_VERSION, contains_stateless,
};
use crate::workers::mcp::tool_list::method_result;

/// Codes that only servers of 2026-07-28 use.
const STATELESS_CODES: std::ops::RangeInclusive<i64> = -32099..=-32020;

/// A session that was just opened.
pub struct OpenedSession {
    pub context: ProtocolContext,
    /// The session to store, if the server gave it an id.
    pub stored: Option<StoredSession>,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not speak this protocol mode, but it may speak another mode.
    #[error("{0}")]
    OtherMode(String),
    /// The server speaks 2026-07-28.
    #[error("it has no sessions")]
    Stateless,
    #[error(transparent)]
    Failed(ConnectError),
}

impl OpenError {
    /// A server that denies access does not show whether it speaks another mode.
    pub fn other_mode(error: ConnectError) -> Self {
        if error.denied.is_some() {
            Self::Failed(error)
        } else {
            Self::OtherMode(error.reason)
        }
    }
}

impl From<TransportError> for OpenError {
    fn from(error: TransportError) -> Self {
        Self::Failed(error.into())
    }
}

impl HttpSession {
    /// Opens a session without storing it.
    pub async fn initialize(
        self: &Arc<Self>,
        token_is_fresh: bool,
    ) -> Result<OpenedSession, OpenError> {
        let params = format!(
            r#"{{"protocolVersion":"{NEWEST_WITH_SESSION}","capabilities":{},"clientInfo":{{"name":"mcp-api","version":"{}"}}}}"#,
            self.capabilities.declaration(),
            env!("CARGO_PKG_VERSION")
        );
        let mut request = self.message("initialize", &params);
        request.token_is_fresh = token_is_fresh;
        let context = ProtocolContext::default();
        let received = match self.transport.send_request(&context, &request).await {
            Err(TransportError::Protocol {
                reason,
                status: Some(status),
                ..
            }) if is_other_transport(status) => return Err(OpenError::OtherMode(reason)),
            received => received?,
        };
        let session_id = received
            .session
            .as_ref()
            .and_then(|session| session.to_str().ok())
            .map(str::to_owned);
        let result = initialize_result(received)?;
        let initialize = serde_json::from_slice(&result)
            .map_err(|_| failed("its answer to initialize is no InitializeResult"))?;
        let version = negotiated_version(&initialize)?;
        let handshake = Handshake::Initialize(result);
        let context = ProtocolContext::new(Some(version), session_id.as_deref());
        let initialized =
            Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.transport
            .send_notification(&context, "notifications/initialized", initialized)
            .await?;
        self.handshake.store(Some(Arc::new(handshake)));
        let stored = session_id.map(|id| StoredSession {
            id,
            initialize: Some(initialize),
        });
        Ok(OpenedSession { context, stored })
    }

    /// Asks whether the server speaks without sessions.
    pub async fn discover(self: &Arc<Self>) -> Result<ProtocolContext, OpenError> {
        let context = ProtocolContext::stateless();
        let request = self.message(DISCOVER, &context.params(""));
        let received = match self.transport.send_request(&context, &request).await {
            Err(
                error @ (TransportError::Unreachable(_)
                | TransportError::Denied(_)
                | TransportError::Unauthorized { .. }),
            ) => {
                return Err(error.into());
            }
            // A server need not know the method, and may refuse it in any way.
            Err(error) => return Err(OpenError::OtherMode(error.to_string())),
            Ok(received) => received,
        };
        let RpcReply::Result(result) = received.reply else {
            return Err(OpenError::OtherMode(
                "it does not know server/discover".into(),
            ));
        };
        let value = serde_json::from_slice::<Value>(&result).unwrap_or_default();
        if contains_stateless(&value["supportedVersions"]) {
            let handshake = Handshake::Discover(result, STATELESS);
            self.handshake.store(Some(Arc::new(handshake)));
            Ok(context)
        } else {
            Err(OpenError::OtherMode(
                "server/discover names other versions".into(),
            ))
        }
    }
}

/// Returns the raw `InitializeResult` of a reply.
fn initialize_result(received: Received) -> Result<Bytes, OpenError> {
    if let RpcReply::Error(error) = &received.reply {
        return Err(initialize_refusal(received.status, error));
    }
    let result = method_result("initialize", received.reply);
    Ok(result
        .map_err(|error| OpenError::Failed(error.into()))?
        .unwrap_or_default())
}

fn negotiated_version(initialize: &Value) -> Result<&str, OpenError> {
    let version = initialize["protocolVersion"].as_str().unwrap_or_default();
    if WITH_SESSION.contains(&version) {
        return Ok(version);
    }
    Err(failed(format!(
        "it speaks none of the protocol versions {STATELESS}, {}",
        WITH_SESSION.join(", ")
    )))
}

/// The statuses with which servers of 2024-11-05 answer `initialize`.
fn is_other_transport(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    )
}

/// Returns the meaning of a JSON-RPC error in reply to `initialize`.
fn initialize_refusal(status: StatusCode, error: &[u8]) -> OpenError {
    let Ok(error) = serde_json::from_slice::<RpcError>(error) else {
        return failed("it refused initialize with something that is no JSON-RPC error");
    };
    let reason = format!("it refused initialize: {} ({})", error.message, error.code);
    if error.code == UNSUPPORTED_VERSION {
        let data: Value = error
            .data
            .and_then(|data| serde_json::from_str(data.get()).ok())
            .unwrap_or_default();
        return if contains_stateless(&data["supported"]) {
            OpenError::Stateless
        } else {
            failed(reason)
        };
    }
    if is_other_transport(status) && !STATELESS_CODES.contains(&error.code) {
        return OpenError::OtherMode(reason);
    }
    failed(reason)
}

fn failed(reason: impl Into<ConnectError>) -> OpenError {
    OpenError::Failed(reason.into())
}
