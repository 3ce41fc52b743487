//! What handlers work with: the catalogue to read, the bus to ask, the sealer for what comes in.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::board::Board;
use super::tools::ToolsAnswer;
use crate::config::{Access, Limits};
use crate::core::command::{CallTool, Command};
use crate::core::failure::Failure;
use crate::core::names::CommandId;
use crate::follow::Follow;
use crate::metrics::Metrics;
use crate::ports::{Ask, Bus, BusError, Place, Reply};
use crate::seal::Sealer;
use crate::telemetry::bug;

/// How long somebody busy is asked again before the caller is sent away.
const BUSY: Duration = Duration::from_secs(2);
/// How often the board reads what nobody has looked at.
const BOARD: Duration = Duration::from_secs(1);

pub struct Facade {
    pub follow: Arc<Follow>,
    pub bus: Arc<dyn Bus>,
    pub sealer: Sealer,
    pub access: Access,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub board: Arc<Board>,
    pub tools: ToolsAnswer,
    /// Cancelled when the process is to end: streams end with it.
    pub ending: CancellationToken,
    /// The requests that have no answer yet.
    pub requests: TaskTracker,
}

/// What the composition root hands to the facade.
pub struct Parts {
    pub follow: Arc<Follow>,
    pub bus: Arc<dyn Bus>,
    pub sealer: Sealer,
    pub access: Access,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub ending: CancellationToken,
    pub requests: TaskTracker,
}

impl Facade {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { follow, bus, sealer, access, limits, metrics, ending, requests } = parts;
        let board = Arc::new(Board::new(bus.hints()));
        let (reading, ended) = (board.clone(), ending.clone());
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            let mut every = tokio::time::interval(BOARD);
            loop {
                every.tick().await;
                reading.catch_up();
            }
        }));
        Arc::new(Self {
            follow,
            bus,
            sealer,
            access,
            limits,
            metrics,
            board,
            tools: ToolsAnswer::default(),
            ending,
            requests,
        })
    }

    /// Asks a worker to carry out a command.
    pub async fn ask<C: Command>(&self, command: &C, time: Duration) -> Result<C::Answer, Failure> {
        self.ask_at(Place::Pool(C::AREA), command, time).await
    }

    pub async fn ask_at<C: Command>(&self, to: Place, command: &C, time: Duration) -> Result<C::Answer, Failure> {
        let body = Bytes::from(serde_json::to_vec(command).map_err(bug)?);
        let reply = self.send(to, C::NAME, None, body, None, time).await?;
        serde_json::from_slice(&reply).map_err(bug)
    }

    /// Sends an ask. Somebody busy has not begun it, so it is asked again for a while.
    pub async fn send(
        &self,
        to: Place,
        command: &'static str,
        call: Option<CallTool>,
        body: Bytes,
        traceparent: Option<Arc<str>>,
        time: Duration,
    ) -> Result<Bytes, Failure> {
        let mut pauses: Option<backon::ExponentialBackoff> = None;
        let began = tokio::time::Instant::now();
        loop {
            let ask = Ask {
                to,
                command,
                time_left: time,
                seen: self.follow.position(),
                traceparent: traceparent.clone(),
                call: call.clone(),
                body: body.clone(),
            };
            match self.bus.call(ask).await {
                Ok(Reply { outcome: Ok(body), .. }) => return Ok(body),
                Ok(Reply { outcome: Err(failure), .. }) => {
                    return Err(serde_json::from_slice(&failure).unwrap_or_else(bug));
                }
                Err(BusError::Busy) if began.elapsed() < BUSY => {
                    let pause = pauses.get_or_insert_with(pauses_when_busy).next().unwrap_or(BUSY);
                    tokio::time::sleep(pause).await;
                }
                Err(error) => return Err(unanswered(error)),
            }
        }
    }
}

fn pauses_when_busy() -> backon::ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(5))
        .with_max_delay(Duration::from_millis(200))
        .with_jitter()
        .without_max_times()
        .build()
}

fn unanswered(error: BusError) -> Failure {
    use crate::core::failure::Code;
    match error {
        BusError::NobodyThere => Failure::unavailable("No worker is there to take the request; ask again"),
        BusError::Busy => Failure::unavailable(
            "Too many calls are under way (MAX_CALLS, MAX_CALLS_PER_SERVER, MAX_CALLS_PER_USER); ask again",
        ),
        BusError::Away => Failure::unavailable("The message bus cannot be reached; ask again"),
        BusError::TimedOut => Failure::new(Code::Timeout, "No answer came in time").maybe_run(),
        BusError::Silent => {
            Failure::new(Code::OutcomeUnknown, "The worker fell silent; whether the work was done is unknown")
                .maybe_run()
        }
    }
}

/// A fresh command id: ordered by time, so that indexes stay small.
pub fn command_id() -> CommandId {
    CommandId(Uuid::now_v7())
}
