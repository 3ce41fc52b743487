//! Starts a server beside everything, to see whether it does start: it is asked for its tools, and for nothing else.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{ConnectionDeps, open_connection};
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::remote_state::RemoteState;
use crate::core::catalog::server::Server;
use crate::core::failure::{Code, Failure};
use crate::workers::install::PackageHandle;

/// How much longer than its start may take it lives at most.
const MORE: Duration = Duration::from_secs(30);

/// An error is a sentence with the server's last lines.
pub async fn probe_server(
    manager: &ServerManager,
    server: &Server,
    package: PackageHandle,
) -> Result<(), Failure> {
    let log_buffer = Arc::<LogBuffer>::default();
    let limit = Duration::from_millis(server.config.startup_timeout_ms());
    let shared = ConnectionDeps {
        log_buffer: log_buffer.clone(),
        redactor: Arc::default(),
        tools_changed: Arc::default(),
        result_limit: manager.limits.result,
        child: Arc::default(),
        ttl: limit + MORE,
        remote: RemoteState {
            sealed_store: manager.sealed_store.clone(),
            appender: manager.appender.clone(),
            grants: manager.grants.clone(),
            server: server.id,
            user: None,
            url: "".into(),
            session_id: Arc::default(),
            stored: Arc::default(),
        },
    };
    let reason =
        match tokio::time::timeout(limit, open_connection(server, Some(package), &shared)).await {
            Ok(Ok((connection, _))) => {
                connection.stop().await;
                return Ok(());
            }
            Ok(Err(why)) => why.reason,
            Err(_) => format!(
                "it was not ready within {} ms (startupTimeout)",
                limit.as_millis()
            ),
        };
    let sentence = format!("Server {} could not be started: {reason}", server.name);
    Err(Failure::new(Code::UpstreamError, sentence).with_details(log_buffer.stderr_since(0)))
}
