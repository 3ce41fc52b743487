//! Starts a server for a test: the worker lists its tools and stops it again.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{ConnectionDeps, Lifetime, open_connection};
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::start::not_ready;
use super::stored_state::StoredState;
use crate::core::catalog::server::Server;
use crate::core::decide::connection::ConnectionTarget;
use crate::core::failure::{Code, Failure};
use crate::workers::install::PackageHandle;

/// Time that the child may live beyond the limit of its start.
const LIFE_MARGIN: Duration = Duration::from_secs(30);

/// Starts the server and stops it.
///
/// # Errors
/// The reason why the server does not start, with its first and last lines as `details`.
pub async fn probe_server(
    manager: &ServerManager,
    server: &Server,
    package: PackageHandle,
) -> Result<(), Failure> {
    let log_buffer = Arc::<LogBuffer>::default();
    let limit = Duration::from_millis(server.config.startup_timeout_ms());
    let deps = ConnectionDeps {
        log_buffer: log_buffer.clone(),
        own_lines: None,
        redactor: Arc::default(),
        tools_changed: Arc::default(),
        changes: Arc::default(),
        watch: Arc::default(),
        result_limit: manager.limits.result,
        child: Arc::default(),
        lifetime: Lifetime::Fixed(limit + LIFE_MARGIN),
        stored: StoredState {
            sealed_store: manager.sealed_store.clone(),
            appender: manager.appender.clone(),
            grants: manager.grants.clone(),
            server: server.id,
            user: None,
            target: ConnectionTarget::current(server),
            session_id: Arc::default(),
            stored: Arc::default(),
            // A probe records nothing.
            lease: Arc::default(),
        },
        metrics: manager.metrics.clone(),
    };
    let opening = open_connection(server, Some(package), &deps);
    let reason = match tokio::time::timeout(limit, opening).await {
        Ok(Ok((connection, _))) => {
            connection.stop().await;
            return Ok(());
        }
        Ok(Err(error)) => error.reason,
        Err(_) => not_ready(limit),
    };
    let sentence = format!("Server {} could not be started: {reason}", server.name);
    Err(Failure::new(Code::UpstreamError, sentence).with_details(log_buffer.output_of_run(0)))
}
