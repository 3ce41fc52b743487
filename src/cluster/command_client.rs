//! Finds the worker for a command, and retries an ask that no worker has started.
//!
//! The owner of an exclusive server gets the commands of this server. If no worker owns the
//! server, any worker gets the command and becomes the owner. The client never repeats an ask that
//! may have started.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::membership::WorkerRegistry;
use crate::core::command::{Area, Command};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{Position, ServerId};
use crate::core::mcp::client::McpClient;
use crate::core::model::tool_call::CallTool;
use crate::eventlog::projection::Projection;
use crate::ports::bus::{Ask, Bus, BusError, InterimSender, Reply, Target};
use crate::telemetry::error::internal_error;
use crate::time::clock;
use crate::time::retry::{ASK_NOT_STARTED, Pauses};

/// Sends commands to workers.
pub struct CommandClient {
    bus: Arc<dyn Bus>,
    projection: Arc<Projection>,
    registry: Arc<WorkerRegistry>,
}

/// A command and its addressee.
pub struct CommandRequest {
    pub area: Area,
    /// The exclusive server whose owner must execute the command.
    pub server: Option<ServerId>,
    pub command: &'static str,
    pub call: Option<CallTool>,
    /// The MCP client that waits for the result.
    pub client: Option<McpClient>,
    /// Receives the messages before the reply. A retry of an ask that was not started keeps it.
    pub interim: Option<InterimSender>,
    pub body: Bytes,
    pub traceparent: Option<Arc<str>>,
    /// The members of an MCP client's `_meta` that the server receives.
    pub meta: Option<Arc<str>>,
    /// The time limit, from the first attempt on.
    pub time: Duration,
}

/// The reply of a worker, and the position that its catalog had reached.
pub struct CommandResponse {
    pub position: Position,
    pub body: Bytes,
}

impl CommandClient {
    /// Creates a client that sends over this bus.
    pub fn new(
        bus: Arc<dyn Bus>,
        projection: Arc<Projection>,
        registry: Arc<WorkerRegistry>,
    ) -> Self {
        Self {
            bus,
            projection,
            registry,
        }
    }

    /// Returns the registry of the workers that this client chooses from.
    pub fn registry(&self) -> &WorkerRegistry {
        &self.registry
    }

    /// Sends a command once to this target, and parses the reply.
    ///
    /// # Errors
    /// Returns the failure of the command, or a failure that says why no reply came.
    pub async fn send_to<C: Command>(
        &self,
        target: Target,
        command: &C,
        time: Duration,
    ) -> Result<C::Answer, Failure> {
        let body = serde_json::to_vec(command).map_err(internal_error)?;
        let ask = Ask {
            to: target,
            command: C::NAME,
            time_left: time,
            seen: self.projection.position(),
            traceparent: None,
            meta: None,
            call: None,
            client: None,
            interim: None,
            body: Bytes::from(body),
        };
        let reply = self.bus.request(ask).await.map_err(not_answered)?;
        parse_json(&parse_reply(reply)?.body)
    }

    /// Sends a command to the worker that must or may execute it. Retries while no worker has
    /// started the command.
    ///
    /// # Errors
    /// Returns the failure of the command, or a failure that says why no reply came.
    pub async fn send(&self, request: &CommandRequest) -> Result<CommandResponse, Failure> {
        let began = clock::monotonic();
        // Most requests need no second attempt. The boxes keep the futures of these requests small.
        let mut pauses: Option<Box<Pauses>> = None;
        let mut owned_server = request.server;
        let mut time_left = request.time;
        loop {
            let target = self.choose_target(request.area, owned_server);
            let ask = self.new_ask(request, target, time_left);
            match self.bus.request(ask).await {
                Ok(reply) => match parse_reply(reply) {
                    // The server moves from one worker to another.
                    Err(failure) if failure.elsewhere && began.elapsed() < request.time => {
                        owned_server = request.server;
                    }
                    outcome => return outcome,
                },
                Err(BusError::NoResponders)
                    if owned_server.is_some() && target != Target::AnyWorker(request.area) =>
                {
                    // No worker owns the server, so any worker may start it.
                    owned_server = None;
                    time_left = request.time.saturating_sub(began.elapsed());
                    continue;
                }
                Err(BusError::NoResponders)
                    if target != Target::AnyWorker(request.area)
                        && ASK_NOT_STARTED.allows(began.elapsed()) =>
                {
                    // The chosen worker has just left.
                    self.registry.refresh();
                }
                Err(BusError::Busy) if ASK_NOT_STARTED.allows(began.elapsed()) => {}
                Err(error) => return Err(not_answered(error)),
            }
            let pauses = pauses.get_or_insert_with(|| Box::new(ASK_NOT_STARTED.pauses()));
            Box::pin(pauses.wait()).await;
            time_left = request.time.saturating_sub(began.elapsed());
        }
    }

    fn new_ask(&self, request: &CommandRequest, target: Target, time_left: Duration) -> Ask {
        Ask {
            to: target,
            command: request.command,
            time_left,
            seen: self.projection.position(),
            traceparent: request.traceparent.clone(),
            meta: request.meta.clone(),
            call: request.call.clone(),
            client: request.client,
            interim: request.interim.clone(),
            body: request.body.clone(),
        }
    }

    fn choose_target(&self, area: Area, owned_server: Option<ServerId>) -> Target {
        if !self.registry.has_silent_worker() {
            return owned_server.map_or(Target::AnyWorker(area), Target::Owner);
        }
        // The bus may still deliver to a worker that has stopped, so the client chooses a worker
        // that reports.
        let owner = owned_server.and_then(|server| self.registry.owner_of(server));
        owner
            .or_else(|| self.registry.pick_worker())
            .map_or(Target::AnyWorker(area), Target::Worker)
    }
}

fn parse_reply(reply: Reply) -> Result<CommandResponse, Failure> {
    match reply.outcome {
        Ok(body) => Ok(CommandResponse {
            position: reply.position,
            body,
        }),
        Err(failure) => Err(serde_json::from_slice(&failure).unwrap_or_else(internal_error)),
    }
}

fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(internal_error)
}

fn not_answered(error: BusError) -> Failure {
    match error {
        BusError::NoResponders => {
            Failure::unavailable("No worker can take the request; retry in a moment")
        }
        BusError::Busy => Failure::unavailable(
            "Too many calls are running (MAX_CALLS, MAX_CALLS_PER_SERVER, MAX_CALLS_PER_USER); retry in a moment",
        ),
        BusError::Unavailable => {
            Failure::unavailable("The message bus cannot be reached; retry in a moment")
        }
        BusError::TimedOut => {
            Failure::new(Code::Timeout, "The worker did not answer in time").maybe_run()
        }
        BusError::WorkerLost => Failure::new(
            Code::OutcomeUnknown,
            "The worker disconnected during the request; it is unknown whether the work was done",
        )
        .maybe_run(),
    }
}
