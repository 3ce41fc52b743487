//! The conversation with one server: opened once, taken up again after a restart, and opened anew without a word
//! when the server has forgotten it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hyper::StatusCode;
use serde_json::Value;
use tokio::sync::{Mutex, Notify, watch};

use super::param_headers::ParamHeaders;
use super::protocol::{NEWEST_WITH_SESSION, ProtocolContext, STATELESS, WITH_SESSION};
use super::transport::{HttpTransport, OutgoingRequest, Received, TransportError};
use crate::core::failure::Code;
use crate::core::model::remote::StoredSession as Stored;
use crate::time::clock::now_ms;
use crate::workers::mcp::connection::ConnectError;
use crate::workers::mcp::jsonrpc::RpcError;
use crate::workers::mcp::mux::RpcReply;
use crate::workers::mcp::tool_list::method_result;
use crate::workers::runtime::remote_state::RemoteState;

/// Codes that only the stateless era has (2026-07-28): whoever answers with one speaks it.
const MODERN: std::ops::RangeInclusive<i64> = -32099..=-32020;
/// None of the versions asked for is one of the server's.
const UNSUPPORTED_VERSION: i64 = -32022;

/// Sessions that one request is tried in after the first: a server may be started again meanwhile.
const RENEWALS: usize = 3;

pub struct HttpSession {
    pub wire: Arc<HttpTransport>,
    pub memory: RemoteState,
    talk: ArcSwap<ProtocolContext>,
    /// Held by the one who opens a session anew.
    renewing: Mutex<()>,
    /// Which arguments go into headers.
    pub mirrored: ArcSwap<ParamHeaders>,
    /// Rung when another session was opened.
    pub renewed: Notify,
    ids: AtomicU64,
    lost: watch::Sender<Option<String>>,
}

/// Why a conversation was not opened.
pub enum OpenError {
    /// The server does not speak like this; it may speak otherwise.
    NotThis(String),
    /// It is the stateless era that it speaks.
    Stateless,
    Failed(ConnectError),
}

impl OpenError {
    /// Whoever is denied access finds out no more of how it speaks.
    pub fn not_this(why: ConnectError) -> Self {
        if why.denied.is_some() {
            Self::Failed(why)
        } else {
            Self::NotThis(why.reason)
        }
    }
}

impl From<TransportError> for OpenError {
    fn from(trouble: TransportError) -> Self {
        Self::Failed(trouble.into())
    }
}

impl HttpSession {
    pub fn new(wire: Arc<HttpTransport>, memory: RemoteState) -> Arc<Self> {
        Arc::new(Self {
            wire,
            memory,
            talk: ArcSwap::default(),
            renewing: Mutex::default(),
            mirrored: ArcSwap::default(),
            renewed: Notify::new(),
            // A resumed session may still have requests of an earlier process: no id comes twice.
            ids: AtomicU64::new(now_ms() << 20),
            lost: watch::Sender::new(None),
        })
    }

    pub fn talk(&self) -> Arc<ProtocolContext> {
        self.talk.load_full()
    }

    pub fn use_talk(&self, talk: ProtocolContext) {
        self.talk.store(Arc::new(talk));
    }

    pub fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks, in a session that is opened anew where the server does not know it any more: then nothing of the
    /// request was begun.
    pub async fn ask(&self, message: &OutgoingRequest<'_>) -> Result<RpcReply, TransportError> {
        let mut talk = self.talk();
        let mut told = self.wire.send_request(&talk, message).await;
        for _ in 0..RENEWALS {
            if !matches!(told, Err(TransportError::Stale)) {
                break;
            }
            talk = self.reinitialize(&talk).await?;
            told = self.wire.send_request(&talk, message).await;
        }
        match &told {
            Err(TransportError::Unreachable(reason)) => self.mark_lost(reason),
            // Whoever starts it again shows what has to be done.
            Err(TransportError::Denied(failure)) if failure.code == Code::ReauthRequired => {
                self.mark_lost(&failure.message)
            }
            _ => {}
        }
        Ok(told?.answer)
    }

    /// A request of ours that is no tool call, with these members in its `params`.
    pub async fn request(
        &self,
        method: &'static str,
        members: &str,
    ) -> Result<Option<Bytes>, ConnectError> {
        let message = self.message(&self.talk(), method, members);
        let answer = self.ask(&message).await?;
        Ok(method_result(method, answer)?)
    }

    pub fn message(
        &self,
        talk: &ProtocolContext,
        method: &'static str,
        members: &str,
    ) -> OutgoingRequest<'static> {
        self.message_of(method, &talk.params(members))
    }

    fn message_of(&self, method: &'static str, params: &str) -> OutgoingRequest<'static> {
        let id = self.next_id();
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":"c{id}","method":"{method}","params":{params}}}"#);
        OutgoingRequest {
            id,
            body: body.into(),
            method,
            name: None,
            progress: None,
            mirrored: vec![],
        }
    }

    /// Opens a session in the place of a stale one, once for all who found it so.
    async fn reinitialize(
        &self,
        stale: &ProtocolContext,
    ) -> Result<Arc<ProtocolContext>, TransportError> {
        let _renewing = self.renewing.lock().await;
        let current = self.talk();
        if current.number != stale.number {
            return Ok(current);
        }
        let wrong = |reason| TransportError::Wrong {
            reason,
            begun: false,
            status: None,
        };
        let opened = self.initialize().await.map_err(|unopened| match unopened {
            OpenError::Failed(ConnectError {
                denied: Some(failure),
                ..
            }) => TransportError::Denied(failure),
            OpenError::NotThis(reason) | OpenError::Failed(ConnectError { reason, .. }) => wrong(
                format!("it does not know its session any more, and opened no other: {reason}"),
            ),
            OpenError::Stateless => wrong("it has no sessions any more".into()),
        });
        let (mut talk, stored) = match opened {
            Ok(opened) => opened,
            Err(trouble) => {
                // Whoever starts it again finds out how it speaks now.
                self.mark_lost(&"it does not know its session any more");
                return Err(trouble);
            }
        };
        talk.number = stale.number + 1;
        let talk = Arc::new(talk);
        self.talk.store(talk.clone());
        self.renewed.notify_waiters();
        self.wire
            .hearing
            .note("its session was not known any more; another one was opened");
        // Calls do not wait for what only a restart needs.
        tokio::spawn(keep(self.memory.clone(), stored, stale.kept));
        Ok(talk)
    }

    /// Opens a session; nothing of it is kept yet.
    pub async fn initialize(&self) -> Result<(ProtocolContext, Option<Stored>), OpenError> {
        let params = format!(
            r#"{{"protocolVersion":"{NEWEST_WITH_SESSION}","capabilities":{{}},"clientInfo":{{"name":"mcp-api","version":"{}"}}}}"#,
            env!("CARGO_PKG_VERSION")
        );
        let told = match self
            .wire
            .send_request(
                &ProtocolContext::default(),
                &self.message_of("initialize", &params),
            )
            .await
        {
            Err(TransportError::Wrong {
                reason,
                status: Some(status),
                ..
            }) if is_elsewhere(status) => {
                return Err(OpenError::NotThis(reason));
            }
            told => told?,
        };
        let Received {
            status,
            answer,
            session,
        } = told;
        let result = match answer {
            RpcReply::Error(error) => return Err(refusal("initialize", status, &error)),
            answer => method_result("initialize", answer)
                .map_err(failed)?
                .unwrap_or_default(),
        };
        let no_result = |_| failed("its answer to initialize is no InitializeResult");
        let initialize: Value = serde_json::from_slice(&result).map_err(no_result)?;
        let version = initialize["protocolVersion"].as_str().unwrap_or_default();
        if !WITH_SESSION.contains(&version) {
            let known = WITH_SESSION.join(", ");
            return Err(failed(format!(
                "it speaks none of the protocol versions {STATELESS}, {known}"
            )));
        }
        let id = session.as_ref().and_then(|session| session.to_str().ok());
        let stored = id.map(|id| Stored {
            id: id.to_owned(),
            initialize: Some(initialize.clone()),
        });
        let talk = ProtocolContext::new(Some(version), id);
        let initialized =
            Bytes::from_static(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        self.wire
            .send_notification(&talk, "notifications/initialized", initialized)
            .await?;
        Ok((talk, stored))
    }

    /// Asks whether the server speaks without sessions.
    pub async fn discover(&self) -> Result<ProtocolContext, OpenError> {
        let talk = ProtocolContext::stateless();
        let told = match self
            .wire
            .send_request(&talk, &self.message(&talk, "server/discover", ""))
            .await
        {
            Err(trouble @ (TransportError::Unreachable(_) | TransportError::Denied(_))) => {
                return Err(trouble.into());
            }
            // Whatever else it says to a method that it need not know.
            Err(trouble) => return Err(OpenError::NotThis(trouble.reason())),
            Ok(told) => told,
        };
        match told.answer {
            RpcReply::Result(result) => {
                let supported = serde_json::from_slice::<Value>(&result).unwrap_or_default();
                let supported = supported["supportedVersions"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                match supported.iter().any(|version| version == STATELESS) {
                    true => Ok(talk),
                    false => Err(OpenError::NotThis(
                        "server/discover names other versions".into(),
                    )),
                }
            }
            _ => Err(OpenError::NotThis(
                "it does not know server/discover".into(),
            )),
        }
    }

    /// The connection is of no use any more.
    pub fn mark_lost(&self, reason: &impl ToString) {
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert_with(|| reason.to_string());
            first
        });
    }

    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    pub fn why_lost(&self) -> String {
        self.lost
            .borrow()
            .clone()
            .unwrap_or_else(|| "it was closed".into())
    }

    pub async fn lost(&self) {
        let _ = self.lost.subscribe().wait_for(Option::is_some).await;
    }
}

/// Keeps a session that was opened in the place of an old one. What it lies under is found in the catalogue.
pub async fn keep(
    memory: RemoteState,
    stored: Option<Stored>,
    old: Option<crate::core::ids::ValueId>,
) {
    match stored {
        Some(stored) => drop(memory.opened(&stored, old).await),
        None => memory.ended(old).await,
    }
}

/// The statuses with which servers of the first era answer `initialize`.
fn is_elsewhere(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
    )
}

/// What a JSON-RPC error to a beginning means.
fn refusal(method: &str, status: StatusCode, error: &[u8]) -> OpenError {
    let Ok(error) = serde_json::from_slice::<RpcError>(error) else {
        return failed(format!(
            "it refused {method} with something that is no JSON-RPC error"
        ));
    };
    let reason = format!("it refused {method}: {} ({})", error.message, error.code);
    if error.code == UNSUPPORTED_VERSION {
        let data: Value = error
            .data
            .and_then(|data| serde_json::from_str(data.get()).ok())
            .unwrap_or_default();
        let stateless = data["supported"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one == STATELESS));
        return if stateless {
            OpenError::Stateless
        } else {
            failed(reason)
        };
    }
    if is_elsewhere(status) && !MODERN.contains(&error.code) {
        return OpenError::NotThis(reason);
    }
    failed(reason)
}

fn failed(reason: impl Into<ConnectError>) -> OpenError {
    OpenError::Failed(reason.into())
}
