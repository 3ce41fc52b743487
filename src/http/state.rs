//! What handlers work with: the catalogue to read, the bus to ask, the sealer for what comes in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::events::EventBroadcaster;
use super::tools::ToolListCache;
use crate::cluster::command_client::{CommandClient, CommandRequest};
use crate::cluster::membership::WorkerRegistry;
use crate::config::{Access, Limits};
use crate::core::command::{Command, DeliveryMode};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, ServerId};
use crate::core::model::package::PackageDirs;
use crate::core::names::ServerName;
use crate::crypto::seal::Sealer;
use crate::eventlog::history::CatalogHistory;
use crate::eventlog::projection::Projection;
use crate::jobs::client::JobClient;
use crate::ports::bus::Bus;
use crate::telemetry::error::internal_error;
use crate::telemetry::metrics::Metrics;

/// How long this process may take to read what a worker has just written.
const CATCH_UP: Duration = Duration::from_secs(2);

pub struct ApiState {
    pub projection: Arc<Projection>,
    pub bus: Arc<dyn Bus>,
    pub commands: CommandClient,
    pub sealer: Sealer,
    pub job_client: JobClient,
    pub access: Access,
    pub limits: Limits,
    /// Where packages lie, to be shown.
    pub folders: PackageDirs,
    pub metrics: Arc<Metrics>,
    pub registry: Arc<WorkerRegistry>,
    pub tools: ToolListCache,
    /// The end of the log, for those who listen.
    pub events: EventBroadcaster,
    pub past: CatalogHistory,
    /// Cancelled when the process is to end: streams end with it.
    pub ending: CancellationToken,
    /// It will end in a moment.
    pub leaving: AtomicBool,
    /// The requests that have no answer yet.
    pub requests: TaskTracker,
}

/// What the composition root hands to the facade.
pub struct ApiDeps {
    pub projection: Arc<Projection>,
    pub bus: Arc<dyn Bus>,
    pub registry: Arc<WorkerRegistry>,
    pub sealer: Sealer,
    pub job_client: JobClient,
    pub access: Access,
    pub limits: Limits,
    pub folders: PackageDirs,
    pub metrics: Arc<Metrics>,
    pub ending: CancellationToken,
    pub requests: TaskTracker,
}

impl ApiState {
    pub fn new(parts: ApiDeps) -> Arc<Self> {
        let ApiDeps {
            projection,
            bus,
            registry,
            sealer,
            job_client,
            access,
            limits,
            folders,
            metrics,
            ending,
            requests,
        } = parts;
        let commands = CommandClient::new(bus.clone(), projection.clone(), registry.clone());
        let events = EventBroadcaster::start(projection.clone(), metrics.clone(), ending.clone());
        Arc::new(Self {
            projection,
            bus,
            commands,
            sealer,
            job_client,
            access,
            limits,
            folders,
            metrics,
            registry,
            tools: ToolListCache::default(),
            events,
            past: CatalogHistory::default(),
            ending,
            leaving: AtomicBool::new(false),
            requests,
        })
    }

    /// From now on `/readyz` sends requests elsewhere.
    pub fn start_draining(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Asks any worker to carry out a command.
    pub async fn send_command<C: Command>(
        &self,
        command: &C,
        time: Duration,
    ) -> Result<C::Answer, Failure> {
        self.send_to(None, command, time).await
    }

    /// Asks the worker that runs the server, where one does and it alone may, to carry out a command.
    pub async fn send_to_owner<C: Command>(
        &self,
        server: &ServerName,
        command: &C,
        time: Duration,
    ) -> Result<C::Answer, Failure> {
        let held = self
            .projection
            .catalog()
            .server(server.as_str())
            .and_then(|server| server.exclusive_id());
        self.send_to(held, command, time).await
    }

    async fn send_to<C: Command>(
        &self,
        server: Option<ServerId>,
        command: &C,
        time: Duration,
    ) -> Result<C::Answer, Failure> {
        let body = Bytes::from(serde_json::to_vec(command).map_err(internal_error)?);
        let (area, command) = (C::AREA, C::NAME);
        let question = CommandRequest {
            area,
            server,
            command,
            call: None,
            body,
            traceparent: None,
            time,
        };
        let answered = self.commands.send(question).await?;
        // Whoever has changed something sees it here at once.
        if C::DELIVERY == DeliveryMode::Change
            && !self.projection.wait_for(answered.position, CATCH_UP).await
        {
            let behind =
                "The change was made, but this process cannot read it yet; look again in a moment";
            return Err(Failure::unavailable(behind).maybe_run());
        }
        serde_json::from_slice(&answered.body).map_err(internal_error)
    }
}

/// A fresh command id: ordered by time, so that indexes stay small.
pub fn new_command_id() -> CommandId {
    CommandId(Uuid::now_v7())
}
