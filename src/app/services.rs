//! The services that facades and workers of one process share.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use super::adapters::Adapters;
use super::keys;
use crate::cluster::membership::WorkerRegistry;
use crate::config::{Config, Google};
use crate::crypto::seal::{Opener, Sealer};
use crate::eventlog::appender::Appender;
use crate::eventlog::projection::Projection;
use crate::http::{ApiDeps, ApiState};
use crate::jobs::client::JobClient;
use crate::telemetry::metrics::Metrics;
use crate::workers::{WorkerDeps, Workers};

/// The registry reads the reports of workers this often if no request does.
const REGISTRY_REFRESH: Duration = Duration::from_millis(500);

/// The services of one process.
pub(super) struct Services {
    adapters: Adapters,
    projection: Arc<Projection>,
    appender: Appender,
    registry: Arc<WorkerRegistry>,
    job_client: JobClient,
    sealer: Sealer,
    opener: Opener,
    metrics: Arc<Metrics>,
    /// Cancelled when the process ends its connections.
    ending: CancellationToken,
    /// The requests without an answer.
    requests: TaskTracker,
}

impl Services {
    /// Opens the keyring, folds the log and starts the background tasks.
    pub(super) async fn start(adapters: Adapters, config: &Config) -> Result<Self, StartError> {
        let data_dir = &config.data_dir.path;
        let (sealer, opener) = keys::open_keyring(&*adapters.vault, &config.keys, data_dir).await?;
        let projection = Projection::open(adapters.log.clone(), adapters.bus.clone()).await?;
        projection.share_entries(Arc::new(sealer.clone()));
        let appender = Appender::start(projection.clone());
        // The registry starts before the workers, so it reads their first reports.
        let registry = Arc::new(WorkerRegistry::new(adapters.bus.hints()));
        let job_client = JobClient::new(
            appender.clone(),
            projection.clone(),
            adapters.vault.clone(),
            sealer.clone(),
            registry.clone(),
            config.limits.clone(),
        );
        let ending = CancellationToken::new();
        tokio::spawn(projection.clone().follow_log());
        let refresh = refresh_registry(registry.clone());
        tokio::spawn(ending.clone().run_until_cancelled_owned(refresh));
        Ok(Self {
            adapters,
            projection,
            appender,
            registry,
            job_client,
            sealer,
            opener,
            metrics: Metrics::new(),
            ending,
            requests: TaskTracker::new(),
        })
    }

    /// Creates the state of the HTTP API.
    pub(super) fn api_state(&self, config: &Config, connections: usize) -> Arc<ApiState> {
        ApiState::new(ApiDeps {
            projection: self.projection.clone(),
            bus: self.adapters.bus.clone(),
            registry: self.registry.clone(),
            sealer: self.sealer.clone(),
            job_client: self.job_client.clone(),
            access: config.access.clone(),
            limits: config.limits.clone(),
            mcp_endpoints: config.mcp_endpoints.clone(),
            connections,
            folders: config.packages.folders.clone(),
            metrics: self.metrics.clone(),
            ending: self.ending.clone(),
            requests: self.requests.clone(),
        })
    }

    /// Starts the worker if this process has this role, and waits until the bus delivers to it.
    pub(super) async fn start_worker(&self, config: &Config, google: Google) -> Option<Workers> {
        let pools = config.roles.worker.clone();
        let pools = pools.filter(|pools| pools.tools || pools.packages || pools.tokens)?;
        let workers = Workers::start(WorkerDeps {
            projection: self.projection.clone(),
            appender: self.appender.clone(),
            job_client: self.job_client.clone(),
            bus: self.adapters.bus.clone(),
            registry: self.registry.clone(),
            vault: self.adapters.vault.clone(),
            leases: self.adapters.leases.clone(),
            opener: self.opener.clone(),
            sealer: self.sealer.clone(),
            metrics: self.metrics.clone(),
            limits: config.limits.clone(),
            log_retention: config.log_retention.clone(),
            packages: config.packages.clone(),
            google,
            alone: config.services.nats.is_none(),
            pools,
        });
        // A client that learns the address of this process may send a command at once.
        self.adapters.bus.flush().await;
        Some(workers)
    }

    /// Returns the token that ends all connections.
    pub(super) fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Closes the store after the last change.
    pub(super) async fn close(&self) {
        self.adapters.close().await;
    }

    /// Waits until every request has its answer. No further request is counted.
    pub(super) async fn finish_requests(&self) {
        self.requests.close();
        self.requests.wait().await;
    }
}

async fn refresh_registry(registry: Arc<WorkerRegistry>) {
    let mut ticks = tokio::time::interval(REGISTRY_REFRESH);
    loop {
        ticks.tick().await;
        registry.refresh();
    }
}
