//! Servers behind a URL: found out how they speak, spoken to, and remembered.

mod endpoint;
pub mod http_sse;
pub mod notifications;
pub mod param_headers;
pub mod protocol;
mod session;
mod sse;
pub mod streamable;
pub mod transport;

use std::sync::Arc;
use std::time::Duration;

use self::endpoint::HttpEndpoint;
pub use self::http_sse::HttpSseConnection;
use self::protocol::ProtocolContext;
use self::session::{HttpSession, OpenError, keep};
pub use self::streamable::StreamableHttpConnection;
use self::transport::HttpTransport;
use super::connection::{ConnectError, Connection, ConnectionDeps};
use crate::core::catalog::server::Server;
use crate::core::decide::remote::RemoteFinding;
use crate::core::ids::ValueId;
use crate::core::model::remote::{ProtocolMode, Remote};
use crate::core::model::tool::Tools;

/// How long a server may think about a method that it perhaps does not know.
const DISCOVERY: Duration = Duration::from_secs(5);

/// Connects in the way that is remembered; else finds out which it is.
pub async fn connect_remote(
    server: &Server,
    remote: &Remote,
    shared: &ConnectionDeps,
) -> Result<(Connection, Tools), ConnectError> {
    let (memory, hearing) = (&shared.memory, shared.hearing.clone());
    let endpoint = HttpEndpoint::open(server, remote, memory, hearing.redactor.clone()).await?;
    let wire = HttpTransport::new(
        endpoint,
        hearing,
        shared.result_limit,
        remote.reconnection_options,
    );
    let session = HttpSession::new(wire, memory.clone());
    let connecting = Connecting { server, session };
    let (connection, tools, era) = connecting.find().await?;
    memory.found(RemoteFinding::Era(era)).await;
    Ok((connection, tools))
}

struct Connecting<'a> {
    server: &'a Server,
    session: Arc<HttpSession>,
}

type Connected = (Connection, Tools);

impl Connecting<'_> {
    async fn find(&self) -> Result<(Connection, Tools, ProtocolMode), ConnectError> {
        let with = |era| move |(connection, tools): Connected| (connection, tools, era);
        let remembered = self.server.era;
        if let Some(era) = remembered {
            let tried = match era {
                ProtocolMode::Stateless => self.stateless(true).await,
                ProtocolMode::Session => self.with_session().await,
                ProtocolMode::Sse => self.sse().await.map_err(OpenError::not_this),
            };
            match tried {
                Ok(connected) => return Ok(with(era)(connected)),
                Err(OpenError::Failed(reason)) => return Err(reason),
                // It speaks otherwise than it did.
                Err(OpenError::NotThis(_) | OpenError::Stateless) => {}
            }
        } else if self.kept().is_some() {
            // Somebody knows a session: then it has sessions.
            match self.with_session().await {
                Ok(connected) => return Ok(with(ProtocolMode::Session)(connected)),
                Err(OpenError::Failed(reason)) => return Err(reason),
                Err(OpenError::NotThis(_) | OpenError::Stateless) => {}
            }
        }
        match self.stateless(false).await {
            Ok(connected) => return Ok(with(ProtocolMode::Stateless)(connected)),
            Err(OpenError::Failed(reason)) => return Err(reason),
            Err(OpenError::NotThis(_) | OpenError::Stateless) => {}
        }
        let reason = match self.with_session().await {
            Ok(connected) => return Ok(with(ProtocolMode::Session)(connected)),
            Err(OpenError::Failed(reason)) => return Err(reason),
            Err(OpenError::Stateless) => {
                return Err("it wants to be asked without a session, and then is not".into());
            }
            Err(OpenError::NotThis(reason)) => reason,
        };
        let connected = self.sse().await.map_err(|sse| ConnectError {
            reason: format!("{reason}; {}", sse.reason),
            ..sse
        })?;
        Ok(with(ProtocolMode::Sse)(connected))
    }

    /// 2026-07-28. What is remembered need not be asked again.
    async fn stateless(&self, remembered: bool) -> Result<Connected, OpenError> {
        if !remembered {
            let discovered = tokio::time::timeout(DISCOVERY, self.session.discover()).await;
            let late = |_| OpenError::NotThis("server/discover was not answered".into());
            discovered.map_err(late)??;
        }
        self.session.use_talk(ProtocolContext::stateless());
        match streamable::list(&self.session).await {
            Ok(tools) => Ok(self.http(tools)),
            Err(ConnectError {
                reason,
                denied: None,
            }) if remembered && !self.session.is_lost() => Err(OpenError::NotThis(reason)),
            Err(reason) => Err(OpenError::Failed(reason)),
        }
    }

    /// 2025-03-26 to 2025-11-25. A session of earlier is taken up again; a stale one is replaced in passing.
    async fn with_session(&self) -> Result<Connected, OpenError> {
        if let Some(kept) = self.kept()
            && let Some(stored) = self.session.memory.session(kept).await
        {
            self.session
                .use_talk(ProtocolContext::resume(&stored, kept));
            return match streamable::list(&self.session).await {
                Ok(tools) => {
                    if self.session.talk().number == 0 {
                        self.session.wire.hearing.note("its session was resumed");
                    }
                    Ok(self.http(tools))
                }
                Err(reason) => Err(OpenError::Failed(reason)),
            };
        }
        let (talk, stored) = self.session.initialize().await?;
        self.session.use_talk(talk);
        let tools = streamable::list(&self.session)
            .await
            .map_err(OpenError::Failed)?;
        // Before anybody hears that it is connected: what was answered survives a kill.
        keep(self.session.memory.clone(), stored, self.kept()).await;
        Ok(self.http(tools))
    }

    async fn sse(&self) -> Result<Connected, ConnectError> {
        let (sse, tools) = HttpSseConnection::connect(&self.session.wire).await?;
        Ok((Connection::Sse(Box::new(sse)), tools))
    }

    /// The session of earlier; users' own are not kept.
    fn kept(&self) -> Option<ValueId> {
        self.server
            .session
            .filter(|_| self.session.memory.user.is_none())
    }

    fn http(&self, tools: Tools) -> Connected {
        (
            Connection::Http(Box::new(StreamableHttpConnection::new(
                self.session.clone(),
            ))),
            tools,
        )
    }
}
