//! Servers behind a URL. [`connect_http`] finds the protocol mode that the server speaks.

mod asking_sessions;
mod body;
mod endpoint;
mod http_sse;
mod log_level;
mod notifications;
mod open;
pub mod param_headers;
mod protocol;
mod receive;
mod resume;
#[cfg(test)]
mod scripted_server;
mod session;
pub mod sse;
mod streamable;
mod subscriptions;
mod transport;

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderMap;
use url::Url;

use self::endpoint::HttpEndpoint;
pub use self::http_sse::HttpSseConnection;
use self::open::{OpenError, OpenedSession};
use self::protocol::ProtocolContext;
use self::session::HttpSession;
pub use self::streamable::StreamableHttpConnection;
use self::transport::{HttpTransport, TransportError};
use super::call::{ClientOptions, ConnectError};
use super::handshake::Handshake;
use super::host::{AccessTokens, Credentials, NotificationSink, SessionStore};
use super::jsonrpc::note;
use super::resource_watch::ResourceWatch;
use super::tool_list::{ToolListError, ToolListPager, method_result};
use crate::core::model::remote::{ProtocolMode, ReconnectionOptions, StoredSession};
use crate::core::model::tool::Tools;
use crate::core::names::ServerName;

/// The longest wait for the reply to `server/discover`, which a server need not know.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// The server to connect to.
pub struct HttpTarget {
    pub name: ServerName,
    pub url: Url,
    /// The headers of every request that are no credentials.
    pub headers: HeaderMap,
    pub credentials: Arc<dyn Credentials>,
    /// The access token, which replaces an `Authorization` header.
    pub tokens: Option<Arc<dyn AccessTokens>>,
    pub sessions: Arc<dyn SessionStore>,
    /// Whether the connection reads the server's own stream.
    pub listen: bool,
    /// The protocol mode of the last connection.
    pub protocol: Option<ProtocolMode>,
    pub reconnection_options: ReconnectionOptions,
}

/// A connection to a server behind a URL.
pub enum HttpConnection {
    /// 2025-03-26 and later.
    Streamable(Box<StreamableHttpConnection>),
    /// 2024-11-05.
    Sse(Box<HttpSseConnection>),
}

/// Connects in the protocol mode of the last connection. If the server speaks another mode now, all modes are tried.
pub async fn connect_http(
    target: HttpTarget,
    options: ClientOptions,
) -> Result<(HttpConnection, Tools), ConnectError> {
    let endpoint =
        HttpEndpoint::new(&target).map_err(|error| ConnectError::from(error.to_string()))?;
    let transport = HttpTransport::new(
        endpoint,
        options.sink.clone(),
        options.result_limit,
        target.reconnection_options,
    );
    let connecting = Connecting {
        session: HttpSession::new(transport, target.sessions),
        sink: options.sink,
        watch: options.watch,
        listen: target.listen,
    };
    let (connection, tools, mode) = connecting.find_mode(target.protocol).await?;
    connecting.sink.protocol_detected(mode).await;
    Ok((connection, tools))
}

struct Connecting {
    session: Arc<HttpSession>,
    sink: Arc<dyn NotificationSink>,
    watch: Arc<ResourceWatch>,
    listen: bool,
}

type Connected = (HttpConnection, Tools);

impl Connecting {
    async fn find_mode(
        &self,
        known: Option<ProtocolMode>,
    ) -> Result<(HttpConnection, Tools, ProtocolMode), ConnectError> {
        let stored = match known {
            None | Some(ProtocolMode::Session) => self.session.store.load().await.is_some(),
            Some(ProtocolMode::Stateless | ProtocolMode::Sse) => false,
        };
        // A server with a stored session has sessions.
        let likely = known.or(stored.then_some(ProtocolMode::Session));
        if let Some(mode) = likely {
            match self.connect_as(mode).await {
                Ok((connection, tools)) => return Ok((connection, tools, mode)),
                Err(OpenError::Failed(error)) => return Err(error),
                // The server changed its mode.
                Err(OpenError::OtherMode(_) | OpenError::Stateless) => {}
            }
        }
        self.try_all_modes().await
    }

    async fn connect_as(&self, mode: ProtocolMode) -> Result<Connected, OpenError> {
        match mode {
            ProtocolMode::Stateless => self.connect_known_stateless().await,
            ProtocolMode::Session => self.connect_with_session().await,
            ProtocolMode::Sse => self.connect_sse().await.map_err(OpenError::other_mode),
        }
    }

    async fn try_all_modes(&self) -> Result<(HttpConnection, Tools, ProtocolMode), ConnectError> {
        match self.discover_stateless().await {
            Ok((connection, tools)) => return Ok((connection, tools, ProtocolMode::Stateless)),
            Err(OpenError::Failed(error)) => return Err(error),
            Err(OpenError::OtherMode(_) | OpenError::Stateless) => {}
        }
        let reason = match self.connect_with_session().await {
            Ok((connection, tools)) => return Ok((connection, tools, ProtocolMode::Session)),
            Err(OpenError::Failed(error)) => return Err(error),
            Err(OpenError::Stateless) => {
                return Err("it asks for requests without a session, and refuses them".into());
            }
            Err(OpenError::OtherMode(reason)) => reason,
        };
        match self.connect_sse().await {
            Ok((connection, tools)) => Ok((connection, tools, ProtocolMode::Sse)),
            Err(error) => Err(ConnectError {
                reason: format!("{reason}; {}", error.reason),
                ..error
            }),
        }
    }

    /// Connects without a session (2026-07-28) to a server that spoke this mode before.
    async fn connect_known_stateless(&self) -> Result<Connected, OpenError> {
        self.session.use_context(ProtocolContext::stateless());
        match streamable::list(&self.session).await {
            // The recorded description stays. A request for a new one would delay the connection.
            Ok(tools) => Ok(self.streamable(tools)),
            Err(error) if error.denied.is_none() && !self.session.is_lost() => {
                Err(OpenError::OtherMode(error.reason))
            }
            Err(error) => Err(OpenError::Failed(error)),
        }
    }

    async fn discover_stateless(&self) -> Result<Connected, OpenError> {
        let discovered = tokio::time::timeout(DISCOVERY_TIMEOUT, self.session.discover()).await;
        let context = discovered
            .map_err(|_| OpenError::OtherMode("server/discover was not answered".into()))??;
        self.session.use_context(context);
        let tools = streamable::list(&self.session)
            .await
            .map_err(OpenError::Failed)?;
        Ok(self.streamable(tools))
    }

    /// Connects with a session (2025-03-26 to 2025-11-25): with the stored session, or with a new session.
    async fn connect_with_session(&self) -> Result<Connected, OpenError> {
        if let Some(tools) = self.resume_session().await? {
            return Ok(self.streamable(tools));
        }
        let OpenedSession { context, stored } = self.session.initialize(false).await?;
        self.session.use_context(context);
        let tools = streamable::list(&self.session)
            .await
            .map_err(OpenError::Failed)?;
        // The session is stored before the server counts as connected, so that it survives a killed worker.
        match stored {
            Some(stored) => self.session.store.store(&stored).await,
            None => self.session.store.end().await,
        }
        Ok(self.streamable(tools))
    }

    /// Lists the tools in the stored session. Returns `None` without a stored session, and after any refusal of
    /// the server, because then only the answer to `initialize` decides.
    async fn resume_session(&self) -> Result<Option<Tools>, OpenError> {
        let Some(stored) = self.session.store.load().await else {
            return Ok(None);
        };
        self.session.use_context(ProtocolContext::resume(&stored));
        match self.list_once().await {
            Ok(tools) => {
                note(&*self.sink, "its session was resumed");
                self.session.handshake.store(stored_handshake(&stored));
                Ok(Some(tools))
            }
            Err(ResumeError::Unreachable(error)) => Err(OpenError::Failed(error)),
            Err(ResumeError::Refused(reason)) => {
                note(
                    &*self.sink,
                    &format!("its stored session was refused, so another one is opened: {reason}"),
                );
                self.session.use_context(ProtocolContext::default());
                Ok(None)
            }
        }
    }

    /// Lists the tools without opening another session.
    async fn list_once(&self) -> Result<Tools, ResumeError> {
        const METHOD: &str = "tools/list";
        let session = &self.session;
        let context = session.context();
        let mut pager = ToolListPager::new(session.transport.result_limit);
        while let Some(params) = pager.next_params() {
            let request = session.message(METHOD, &context.params(&params));
            let received = session.transport.send_request(&context, &request).await?;
            let refused = |error: ToolListError| ResumeError::Refused(error.to_string());
            let page = method_result(METHOD, received.reply).map_err(refused)?;
            pager.add_page(page).map_err(refused)?;
        }
        Ok(pager.finish(&*self.sink))
    }

    async fn connect_sse(&self) -> Result<Connected, ConnectError> {
        let (sse, tools) = HttpSseConnection::connect(&self.session.transport, &self.watch).await?;
        Ok((HttpConnection::Sse(Box::new(sse)), tools))
    }

    fn streamable(&self, tools: Tools) -> Connected {
        let watch = self.listen.then(|| self.watch.clone());
        let connection = StreamableHttpConnection::new(self.session.clone(), watch);
        (HttpConnection::Streamable(Box::new(connection)), tools)
    }
}

/// Returns the handshake with which a stored session was opened.
fn stored_handshake(stored: &StoredSession) -> Option<Arc<Handshake>> {
    let initialize = serde_json::to_vec(stored.initialize.as_ref()?).ok()?;
    Some(Arc::new(Handshake::Initialize(initialize.into())))
}

/// Why a stored session was not resumed.
enum ResumeError {
    /// The server was not reached, so the session may be valid.
    Unreachable(ConnectError),
    Refused(String),
}

impl From<TransportError> for ResumeError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Unreachable(_) => Self::Unreachable(error.into()),
            error => Self::Refused(error.to_string()),
        }
    }
}
