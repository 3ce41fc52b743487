//! The start of a new package version beside the running version.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::handle::ServerHandle;
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use crate::core::catalog::server::Server;
use crate::core::model::package::Package;
use crate::core::model::tool::Tools;
use crate::time::retry::{Pauses, SERVER_START};
use crate::workers::install::{self, PackageHandle, ProgressSink};
use crate::workers::mcp::{ConnectError, Connection};

/// The reason why a server could not be started.
pub struct StartFailure {
    pub cause: ConnectError,
    /// The last lines of the installer.
    pub details: Option<String>,
}

type StartResult = Result<(Connection, Tools), StartFailure>;

/// A new version that is connected.
pub(super) struct Upgraded {
    pub(super) server: Arc<Server>,
    pub(super) connection: Arc<Connection>,
    pub(super) tools: Tools,
}

/// A new version that starts.
pub(super) struct PendingUpgrade {
    pub(super) server: Arc<Server>,
    attempt: BoxFuture<'static, StartResult>,
    has_failed: bool,
    pauses: Pauses,
}

impl PendingUpgrade {
    pub(super) fn new(
        attempt: impl Future<Output = StartResult> + Send + 'static,
        server: Arc<Server>,
    ) -> Self {
        Self {
            server,
            attempt: attempt.boxed(),
            has_failed: false,
            pauses: SERVER_START.pauses(),
        }
    }

    /// Schedules another attempt after a pause.
    pub(super) fn retry(&mut self, attempt: impl Future<Output = StartResult> + Send + 'static) {
        let pause = self.pauses.next_pause();
        self.has_failed = true;
        self.attempt = async move {
            tokio::time::sleep(pause).await;
            attempt.await
        }
        .boxed();
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Waits for the attempt; forever if there is none. The wait may be dropped and repeated until the attempt ends.
    ///
    /// # Errors
    /// The reason why the new version could not be started.
    pub(super) async fn started(upgrade: &mut Option<Self>) -> Result<Upgraded, String> {
        let Some(upgrade) = upgrade else {
            return std::future::pending().await;
        };
        match (&mut upgrade.attempt).await {
            Ok((connection, tools)) => Ok(Upgraded {
                server: upgrade.server.clone(),
                connection: Arc::new(connection),
                tools,
            }),
            Err(failure) => Err(failure.cause.reason),
        }
    }
}

impl From<ConnectError> for StartFailure {
    fn from(cause: ConnectError) -> Self {
        Self {
            cause,
            details: None,
        }
    }
}

impl From<String> for StartFailure {
    fn from(reason: String) -> Self {
        ConnectError::from(reason).into()
    }
}

/// Returns the files of a server's package, and builds them if this worker does not have them.
///
/// # Errors
/// The failure of the build, with the last lines of the installer.
pub(super) async fn build_package(
    manager: &ServerManager,
    handle: &ServerHandle,
    package: &Package,
) -> Result<Option<PackageHandle>, StartFailure> {
    let progress = Arc::new(LogProgress(handle.log_buffer.clone()));
    let built = install::ensure_built(
        &manager.installer,
        &manager.sealed_store,
        handle.id,
        package,
        progress,
        handle.redactor.clone(),
    )
    .await
    .map_err(|failure| StartFailure {
        cause: format!("its package: {}", failure.message).into(),
        details: failure.details,
    })?;
    if let Some(files) = &built {
        manager.installer.link(&package.source, &handle.name, files);
    }
    Ok(built)
}

/// Writes the phases of a build into the log of the server.
struct LogProgress(Arc<LogBuffer>);

impl ProgressSink for LogProgress {
    fn phase(&self, phase: &str) {
        self.0.push("transport", &format!("its package: {phase}"));
    }

    fn line(&self, _: &str) {}
}
