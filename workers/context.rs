//! What every handler works with.

use std::sync::Arc;

use quick_cache::sync::Cache;

use super::google::Application;
use super::install::Installer;
use super::oauth::limits::OAuthLimits;
use super::permits::Permits;
use super::runtime::manager::{ManagerDeps, ServerManager};
use super::sealed_store::SealedStore;
use crate::cluster::command_client::CommandClient;
use crate::cluster::membership::WorkerRegistry;
use crate::config::{Google, Limits, Packages, Pools};
use crate::core::ids::{ValueId, WorkerId};
use crate::crypto::seal::{Opener, Sealer};
use crate::eventlog::appender::Appender;
use crate::eventlog::projection::Projection;
use crate::jobs::client::JobClient;
use crate::ports::bus::Bus;
use crate::ports::leases::Leases;
use crate::ports::vault::{Sealed, Vault};
use crate::telemetry::metrics::Metrics;

/// Sealed values kept in memory. They are useless without the key and never stale: a value does not
/// change under its id, and one that was wrapped anew since opens as long as its earlier key is listed.
const SEALED: usize = 10_000;

pub struct Context {
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub bus: Arc<dyn Bus>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
    pub opener: Opener,
    pub sealed: Cache<ValueId, Sealed>,
    pub metrics: Arc<Metrics>,
    pub permits: Permits,
    pub oauth_limits: OAuthLimits,
    pub commands: CommandClient,
    pub job_client: JobClient,
    pub manager: Arc<ServerManager>,
    /// The id of the key that this process seals with.
    pub key_id: String,
    /// No other worker can be there.
    pub alone: bool,
    /// What Google knows this deployment by, where it was told that.
    pub google: Option<Application>,
    pub installer: Arc<Installer>,
}

/// What the composition root hands to the workers.
pub struct WorkerDeps {
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub job_client: JobClient,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
    pub opener: Opener,
    pub sealer: Sealer,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub google: Google,
    pub packages: Packages,
    /// No other worker can be there.
    pub alone: bool,
    pub pools: Pools,
}

impl Context {
    pub fn new(parts: WorkerDeps) -> Self {
        let WorkerDeps {
            projection,
            appender,
            job_client,
            bus,
            registry,
            vault,
            leases,
            opener,
            sealer,
            metrics,
            limits,
            packages,
            google,
            alone,
            ..
        } = parts;
        let commands = CommandClient::new(bus.clone(), projection.clone(), registry.clone());
        let permits = Permits::new(&limits);
        let key_id = sealer.key_id();
        let google = google
            .credentials
            .as_deref()
            .and_then(|credentials| Application::seal(credentials, &sealer));
        let worker = WorkerId(uuid::Uuid::now_v7());
        let installer = Arc::new(Installer::new(packages));
        let manager = ServerManager::new(ManagerDeps {
            worker,
            projection: projection.clone(),
            appender: appender.clone(),
            bus: bus.clone(),
            registry,
            leases: leases.clone(),
            sealed_store: SealedStore {
                vault: vault.clone(),
                opener: opener.clone(),
                sealer,
            },
            installer: installer.clone(),
            metrics: metrics.clone(),
            limits,
            alone,
        });
        let sealed = Cache::new(SEALED);
        Self {
            projection,
            appender,
            bus,
            vault,
            leases,
            opener,
            sealed,
            metrics,
            permits,
            oauth_limits: OAuthLimits::default(),
            commands,
            job_client,
            manager,
            installer,
            google,
            key_id,
            alone,
        }
    }
}
