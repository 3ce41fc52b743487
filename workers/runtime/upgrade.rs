//! Another version of a server's package, being started beside the one that runs.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::handle::ServerHandle;
use super::log_buffer::LogBuffer;
use super::manager::ServerManager;
use super::shutdown::backoff;
use crate::core::catalog::server::Server;
use crate::core::failure::Failure;
use crate::core::model::package::Package;
use crate::core::model::tool::Tools;
use crate::workers::install;
use crate::workers::install::{PackageHandle, ProgressSink};
use crate::workers::mcp::{ConnectError, Connection};

/// Between two attempts, at most.
const AGAIN: Duration = Duration::from_secs(60);

/// Why a server is not connected to.
pub struct StartFailure {
    pub why: ConnectError,
    /// The installer's last lines.
    pub details: Option<String>,
}

type Opening = BoxFuture<'static, Result<(Connection, Tools), StartFailure>>;
pub type Opened = (Arc<Server>, Arc<Connection>, Tools);

pub struct PendingUpgrade {
    pub server: Arc<Server>,
    opening: Opening,
    /// Attempts that have failed.
    failed: usize,
}

impl PendingUpgrade {
    pub fn new(
        opening: impl Future<Output = Result<(Connection, Tools), StartFailure>> + Send + 'static,
        server: Arc<Server>,
    ) -> Self {
        Self {
            server,
            opening: opening.boxed(),
            failed: 0,
        }
    }

    /// Another attempt, after a while.
    pub fn again(
        &mut self,
        opening: impl Future<Output = Result<(Connection, Tools), StartFailure>> + Send + 'static,
    ) {
        let pause = backoff(AGAIN).nth(self.failed).unwrap_or(AGAIN);
        self.failed += 1;
        self.opening = async move {
            tokio::time::sleep(pause).await;
            opening.await
        }
        .boxed();
    }

    pub fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Waits for the attempt, if there is one. It may be dropped and waited for again; one that failed is over.
    pub async fn opened(beside: &mut Option<Self>) -> Result<Opened, String> {
        let Some(Self {
            server, opening, ..
        }) = beside
        else {
            return std::future::pending().await;
        };
        let opened = opening.await;
        opened
            .map(|(connection, tools)| (server.clone(), Arc::new(connection), tools))
            .map_err(|unopened| unopened.why.reason)
    }
}

impl From<ConnectError> for StartFailure {
    fn from(why: ConnectError) -> Self {
        Self { why, details: None }
    }
}

impl From<String> for StartFailure {
    fn from(reason: String) -> Self {
        ConnectError::from(reason).into()
    }
}

/// The files of a server's package, built here where they were not.
pub async fn ready(
    manager: &ServerManager,
    handle: &Arc<ServerHandle>,
    package: &Package,
) -> Result<Option<PackageHandle>, StartFailure> {
    let progress = Arc::new(InRing(handle.log_buffer.clone()));
    let ready = install::ensure_built(
        &manager.installer,
        &manager.sealed_store,
        handle.id,
        package,
        progress,
        handle.redactor.clone(),
    )
    .await;
    let unopened = |Failure {
                        message, details, ..
                    }| StartFailure {
        why: format!("its package: {message}").into(),
        details,
    };
    let ready = ready.map_err(unopened)?;
    if let Some(built) = &ready {
        manager.installer.link(&package.source, &handle.name, built);
    }
    Ok(ready)
}

/// What is installed for a server is told in its log.
struct InRing(Arc<LogBuffer>);

impl ProgressSink for InRing {
    fn phase(&self, phase: &str) {
        self.0.push("transport", &format!("its package: {phase}"));
    }

    fn line(&self, _: &str) {}
}
