//! The services that every handler of a worker uses.

use std::sync::Arc;

use super::google::Application;
use super::install::Installer;
use super::jobs::fresh_answers::FreshAnswers;
use super::oauth::limits::OAuthLimits;
use super::open_requests::OpenRequests;
use super::permits::Permits;
use super::runtime::manager::{ManagerDeps, ServerManager};
use super::sealed_store::SealedStore;
use crate::cluster::command_client::CommandClient;
use crate::cluster::membership::WorkerRegistry;
use crate::config::{Google, Limits, LogRetention, Packages, Pools};
use crate::core::ids::WorkerId;
use crate::crypto::seal::{Opener, Sealer};
use crate::eventlog::appender::Appender;
use crate::eventlog::projection::Projection;
use crate::jobs::client::JobClient;
use crate::ports::bus::Bus;
use crate::ports::leases::Leases;
use crate::ports::vault::Vault;
use crate::telemetry::metrics::Metrics;

pub struct Context {
    pub projection: Arc<Projection>,
    pub appender: Appender,
    pub bus: Arc<dyn Bus>,
    pub vault: Arc<dyn Vault>,
    pub leases: Arc<dyn Leases>,
    pub opener: Opener,
    pub metrics: Arc<Metrics>,
    pub permits: Permits,
    /// The requests of servers that wait for the clients of calls.
    pub open_requests: Arc<OpenRequests>,
    pub oauth_limits: OAuthLimits,
    pub commands: CommandClient,
    pub job_client: JobClient,
    pub fresh_answers: FreshAnswers,
    pub manager: Arc<ServerManager>,
    /// The id of the key that this process seals with.
    pub key_id: String,
    /// No other worker can exist.
    pub alone: bool,
    /// The credentials of this deployment at Google, if they are configured.
    pub google: Option<Application>,
    pub installer: Arc<Installer>,
    pub log_retention: LogRetention,
}

/// The services that the composition root passes to the workers.
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
    pub log_retention: LogRetention,
    /// No other worker can exist.
    pub alone: bool,
    pub pools: Pools,
}

impl Context {
    pub fn new(deps: WorkerDeps) -> Self {
        let commands = CommandClient::new(
            deps.bus.clone(),
            deps.projection.clone(),
            deps.registry.clone(),
        );
        let permits = Permits::new(&deps.limits);
        let key_id = deps.sealer.key_id();
        let credentials = deps.google.credentials.as_deref();
        let google = credentials.and_then(|text| Application::seal(text, &deps.sealer));
        let installer = Arc::new(Installer::new(deps.packages));
        let manager = ServerManager::new(ManagerDeps {
            worker: WorkerId(uuid::Uuid::now_v7()),
            projection: deps.projection.clone(),
            appender: deps.appender.clone(),
            bus: deps.bus.clone(),
            registry: deps.registry,
            leases: deps.leases.clone(),
            sealed_store: SealedStore::new(deps.vault.clone(), deps.opener.clone(), deps.sealer),
            installer: installer.clone(),
            metrics: deps.metrics.clone(),
            limits: deps.limits,
            alone: deps.alone,
        });
        Self {
            projection: deps.projection,
            appender: deps.appender,
            bus: deps.bus,
            vault: deps.vault,
            leases: deps.leases,
            opener: deps.opener,
            metrics: deps.metrics,
            permits,
            open_requests: Arc::default(),
            oauth_limits: OAuthLimits::default(),
            commands,
            job_client: deps.job_client,
            fresh_answers: FreshAnswers::default(),
            manager,
            key_id,
            alone: deps.alone,
            google,
            installer,
            log_retention: deps.log_retention,
        }
    }
}
