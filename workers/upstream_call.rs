//! One request to a server over the connection of its user. A connection that closes before the request has started is
//! replaced.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::context::Context;
use super::mcp::{CallError, ClientAsker, Connection, LogListener, ProgressListener, UserRequest};
use super::open_requests::CallClient;
use super::runtime::handle::ServerHandle;
use super::runtime::user_connections::{UserCall, UserConnections};
use super::tools::CallRequest;
use crate::core::arguments::merge::SecretArgument;
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::names::UserName;
use crate::time::limit::before;

/// A request that can be sent to its server, more than once if the server asks for input.
pub(super) struct UpstreamCall<'a> {
    pub context: &'a Arc<Context>,
    pub handle: &'a Arc<ServerHandle>,
    pub request: &'a CallRequest<'a>,
    pub secrets: &'a [SecretArgument<'a>],
    pub progress: Option<Arc<dyn ProgressListener>>,
    /// Receives the log lines of the call.
    pub log: Option<Arc<dyn LogListener>>,
    /// The client, if the server may ask it during the call.
    pub client: Option<&'a Arc<CallClient>>,
}

/// The raw result of a server.
pub(super) struct UpstreamResult {
    pub result: Bytes,
    /// The server speaks 2026-07-28, so the result may ask for input.
    pub is_modern: bool,
}

/// A call without a result, and the connection that it used.
pub(super) struct EndedCall {
    pub error: CallError,
    pub used: UsedConnection,
}

/// The connection of one call.
pub(super) enum UsedConnection {
    Shared(Arc<Connection>),
    /// No other user has it.
    OfUser(UserCall),
}

impl UsedConnection {
    fn connection(&self) -> &Connection {
        match self {
            Self::Shared(connection) => connection,
            Self::OfUser(call) => &call.connection,
        }
    }
}

impl UpstreamCall<'_> {
    /// Returns the end of the call's time. The time that the client took for its answers does not count.
    fn deadline(&self) -> Instant {
        let paused = self.client.map(|client| client.pause().total());
        self.request.start + self.request.limit() + paused.unwrap_or_default()
    }

    fn asker(&self) -> Option<Arc<dyn ClientAsker>> {
        let asker: Arc<dyn ClientAsker> = self.client?.clone();
        Some(asker)
    }

    /// Sends the request with the members that answer the server's last request for input. If the connection closes before
    /// the request has started, it waits for the next connection.
    ///
    /// # Errors
    /// The failure of the connection, or the time limit before the request was sent.
    pub(super) async fn send(
        &self,
        input: &str,
    ) -> Result<Result<UpstreamResult, EndedCall>, Failure> {
        let request = self.request;
        let server = request.server;
        loop {
            let connecting = connection(self.context, self.handle, server, request.user);
            let used = before(|| self.deadline(), connecting)
                .await
                .ok_or_else(|| request.timeout("was not connected"))??;
            let call = UserRequest {
                method: request.operation.method(),
                params: request.operation.params(self.secrets),
                input,
                capabilities: request
                    .client
                    .map(|client| client.capabilities)
                    .unwrap_or_default(),
                name: request.operation.name(),
                traceparent: request.traceparent,
                meta: request.meta,
                asker: self.asker(),
                deadline: self.deadline(),
                limit: request.limit(),
                reset_on_progress: server.config.reset_timeout_on_progress,
                progress: self.progress.clone(),
                log: self.log.clone(),
            };
            let connection = used.connection();
            match connection.call(&call).await {
                Err(CallError::Closed { begun: false }) => {}
                Err(error @ CallError::Closed { begun: true }) => {
                    // The last lines of the server belong into `details`.
                    connection.drain_stderr().await;
                    return Ok(Err(EndedCall { error, used }));
                }
                Err(error) => return Ok(Err(EndedCall { error, used })),
                Ok(result) => {
                    let is_modern = connection.is_modern();
                    return Ok(Ok(UpstreamResult { result, is_modern }));
                }
            }
        }
    }
}

/// Returns the connection for a user: some users have a connection of their own.
async fn connection(
    context: &Context,
    handle: &Arc<ServerHandle>,
    server: &Server,
    user: &UserName,
) -> Result<UsedConnection, Failure> {
    if !UserConnections::serve(server, user) {
        return handle.connection().await.map(UsedConnection::Shared);
    }
    handle.ensure_owned().await?;
    let connection = handle.users.connection(&context.manager, handle, user);
    connection.await.map(UsedConnection::OfUser)
}
