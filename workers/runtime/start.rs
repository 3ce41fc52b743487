//! One attempt to start a server: its package is built if necessary, then the worker connects to it.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{self, ConnectionDeps, Lifetime};
use super::handle::RunState;
use super::reconcile::wait_for_change;
use super::supervisor::{Started, StopCause, Supervisor};
use super::upgrade::{StartFailure, build_package};
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::core::model::server::{ConnectionStatus, ServerStatus};
use crate::core::model::tool::Tools;
use crate::time::clock::now_ms;
use crate::workers::mcp::{ConnectError, Connection};

impl Supervisor {
    /// Starts the server once, and publishes the failure if there is one.
    ///
    /// # Errors
    /// The reason why no connection exists.
    pub(super) async fn start(&mut self, server: &Arc<Server>) -> Result<Started, StopCause> {
        let start_ms = now_ms();
        // The retry of a broken server is not published, so that calls still fail at once.
        if !self.waiting.is_empty() || (self.crashes == 0 && !self.is_broken) {
            self.settle(
                RunState::Starting,
                ServerStatus::without_error(ConnectionStatus::Connecting),
            );
        }
        self.handle.log_buffer.begin_run();
        let mut opening = std::pin::pin!(self.open_connection(server));
        let handle = self.handle.clone();
        let manager = self.manager.clone();
        let connected = tokio::select! {
            connected = &mut opening => connected,
            // The catalog has another version of the server than the one that starts.
            command = self.next_relevant_command(server) => return Err(StopCause::Command(command)),
            () = wait_for_change(&handle, &manager, server) => return Err(StopCause::CatalogChanged),
            () = handle.lease.ended() => return Err(StopCause::LeaseEnded),
        };
        match connected {
            Ok((connection, tools)) => Ok((Arc::new(connection), tools)),
            Err(failure) => Err(self.on_start_failed(server, failure, start_ms)),
        }
    }

    fn on_start_failed(
        &mut self,
        server: &Server,
        failure: StartFailure,
        start_ms: u64,
    ) -> StopCause {
        let ConnectError { reason, denied } = failure.cause;
        let reason = self.handle.redactor.mask(&reason);
        let log_buffer = &self.handle.log_buffer;
        // The output of an installer is for administrators, and that of the server for everybody who may call it.
        let is_installer = failure.details.is_some();
        let details = failure
            .details
            .or_else(|| log_buffer.output_of_run(start_ms));
        log_buffer.push("transport", &format!("could not be started: {reason}"));
        tracing::warn!(server = %server.name, reason, "a server could not be started");
        let failure = match denied {
            Some(denied) => *denied,
            None => {
                let sentence = format!("Server {} could not be started: {reason}", server.name);
                Failure::new(Code::UpstreamError, sentence)
            }
        };
        let status = ServerStatus {
            status: ConnectionStatus::Error,
            error: Some(reason.clone()),
            details: details.clone(),
        };
        let failure = if is_installer {
            failure.with_details_for_admins(details)
        } else {
            failure.with_details(details)
        };
        self.settle(RunState::Failed(Box::new(failure)), status);
        StopCause::Ended(reason)
    }

    /// Builds the package of the server if this worker does not have it, and connects. `startupTimeout` limits the
    /// connection, not the build.
    pub(super) fn open_connection(
        &self,
        server: &Server,
    ) -> impl Future<Output = Result<(Connection, Tools), StartFailure>> + Send + use<> {
        let server = server.clone();
        let handle = self.handle.clone();
        let manager = self.manager.clone();
        let tools_changed = self.tools_changed.clone();
        async move {
            let package = match &server.package {
                Some(installed) => build_package(&manager, &handle, &installed.package).await?,
                None => None,
            };
            let deps = ConnectionDeps {
                log_buffer: handle.log_buffer.clone(),
                own_lines: None,
                redactor: handle.redactor.clone(),
                tools_changed,
                changes: manager.changes.clone(),
                watch: handle.watches.shared.clone(),
                result_limit: manager.limits.result,
                child: handle.child.clone(),
                lifetime: Lifetime::Lease(handle.lease.clone()),
                stored: manager.stored_state(&server, &handle, None),
                metrics: manager.metrics.clone(),
            };
            let limit = Duration::from_millis(server.config.startup_timeout_ms());
            match tokio::time::timeout(limit, connect::open_connection(&server, package, &deps))
                .await
            {
                Ok(connected) => connected.map_err(StartFailure::from),
                Err(_) => Err(StartFailure::from(not_ready(limit))),
            }
        }
    }
}

/// Returns the reason of a start that took too long.
pub(super) fn not_ready(limit: Duration) -> String {
    format!(
        "it was not ready within {} ms (startupTimeout)",
        limit.as_millis()
    )
}
