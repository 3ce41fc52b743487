//! Finds the worker for an ask, and asks again where nothing was begun.
//!
//! A server with one process is asked for where it runs, and where nobody runs it, of any worker: that
//! one then takes it. Nothing that may have begun is ever sent twice.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use tokio::time::Instant;

use super::membership::WorkerRegistry;
use crate::core::command::{Area, Command};
use crate::core::failure::{Code, Failure};
use crate::core::ids::{Position, ServerId};
use crate::core::model::tool_call::CallTool;
use crate::eventlog::projection::Projection;
use crate::ports::bus::{Ask, Bus, BusError, Target};
use crate::telemetry::error::internal_error;

/// How long somebody busy is asked again before the caller is sent away.
const BUSY: Duration = Duration::from_secs(2);

pub struct CommandClient {
    pub bus: Arc<dyn Bus>,
    pub projection: Arc<Projection>,
    pub registry: Arc<WorkerRegistry>,
}

/// What is asked, and of whom.
pub struct CommandRequest {
    pub area: Area,
    /// The server it is about, where it has one process and that one must answer.
    pub server: Option<ServerId>,
    pub command: &'static str,
    pub call: Option<CallTool>,
    pub body: Bytes,
    pub traceparent: Option<Arc<str>>,
    pub time: Duration,
}

/// An answer, and how much of the log its worker had seen.
pub struct CommandResponse {
    pub position: Position,
    pub body: Bytes,
}

impl CommandClient {
    /// Asks one place, once, and reads the answer.
    pub async fn send_to<C: Command>(
        &self,
        to: Target,
        command: &C,
        time: Duration,
    ) -> Result<C::Answer, Failure> {
        let body = Bytes::from(serde_json::to_vec(command).map_err(internal_error)?);
        let seen = self.projection.position();
        let ask = Ask {
            to,
            command: C::NAME,
            time_left: time,
            seen,
            traceparent: None,
            call: None,
            body,
        };
        let reply = self.bus.request(ask).await.map_err(unanswered_failure)?;
        let body = reply
            .outcome
            .map_err(|failure| serde_json::from_slice(&failure).unwrap_or_else(internal_error))?;
        serde_json::from_slice(&body).map_err(internal_error)
    }

    pub async fn send(&self, question: CommandRequest) -> Result<CommandResponse, Failure> {
        let CommandRequest {
            area,
            server,
            command,
            call,
            body,
            traceparent,
            time,
        } = question;
        let began = Instant::now();
        let mut pauses: Option<backon::ExponentialBackoff> = None;
        // Whether to look for the one who runs the server; where nobody does, anybody may take it.
        let mut holder = server;
        loop {
            let to = self.choose_target(area, holder);
            let ask = Ask {
                to,
                command,
                time_left: time.saturating_sub(began.elapsed()),
                seen: self.projection.position(),
                traceparent: traceparent.clone(),
                call: call.clone(),
                body: body.clone(),
            };
            match self.bus.request(ask).await {
                Ok(reply) => match reply.outcome {
                    Ok(body) => {
                        return Ok(CommandResponse {
                            position: reply.position,
                            body,
                        });
                    }
                    Err(failure) => {
                        let failure: Failure =
                            serde_json::from_slice(&failure).unwrap_or_else(internal_error);
                        if !failure.elsewhere || began.elapsed() >= time {
                            return Err(failure);
                        }
                        // It is on its way from one worker to another: it will be somewhere soon.
                        holder = server;
                    }
                },
                Err(BusError::NoResponders)
                    if to != Target::AnyWorker(area)
                        && (holder.is_some() || began.elapsed() < BUSY) =>
                {
                    match holder.take() {
                        Some(_) => continue,
                        // The worker that was chosen has just gone.
                        None => self.registry.refresh(),
                    }
                }
                Err(BusError::Busy) if began.elapsed() < BUSY => {}
                Err(error) => return Err(unanswered_failure(error)),
            }
            let pause = pauses
                .get_or_insert_with(busy_pauses)
                .next()
                .unwrap_or(BUSY);
            tokio::time::sleep(pause).await;
        }
    }

    fn choose_target(&self, area: Area, holder: Option<ServerId>) -> Target {
        if !self.registry.has_silent_worker() {
            return holder.map_or(Target::AnyWorker(area), Target::Owner);
        }
        // Whoever stands still has not left the bus: ask only those who are known to be there.
        let known = match holder {
            Some(server) => self
                .registry
                .owner_of(server)
                .or_else(|| self.registry.pick_worker()),
            None => self.registry.pick_worker(),
        };
        known.map_or(Target::AnyWorker(area), Target::Worker)
    }
}

fn busy_pauses() -> backon::ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(5))
        .with_max_delay(Duration::from_millis(200))
        .with_jitter()
        .without_max_times()
        .build()
}

fn unanswered_failure(error: BusError) -> Failure {
    match error {
        BusError::NoResponders => {
            Failure::unavailable("No worker is there to take the request; ask again")
        }
        BusError::Busy => Failure::unavailable(
            "Too many calls are under way (MAX_CALLS, MAX_CALLS_PER_SERVER, MAX_CALLS_PER_USER); ask again",
        ),
        BusError::Unavailable => {
            Failure::unavailable("The message bus cannot be reached; ask again")
        }
        BusError::TimedOut => Failure::new(Code::Timeout, "No answer came in time").maybe_run(),
        BusError::WorkerLost => Failure::new(
            Code::OutcomeUnknown,
            "The worker fell silent; whether the work was done is unknown",
        )
        .maybe_run(),
    }
}
