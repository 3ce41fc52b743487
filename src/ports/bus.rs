//! What the rules need of the world: a log, a vault, leases and a bus. Each has adapters, and one
//! contract suite in `tests/it` that every adapter passes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::core::command::Area;
use crate::core::ids::{Position, ServerId, WorkerId};
use crate::core::model::tool_call::CallTool;

/// Where an ask goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Any one worker of the area's pool.
    AnyWorker(Area),
    /// The worker that runs this server.
    Owner(ServerId),
    /// That one worker.
    Worker(WorkerId),
}

/// A question on the bus.
pub struct Ask {
    pub to: Target,
    /// The command's name.
    pub command: &'static str,
    /// How long the sender waits. It travels as a length of time, never as a time of day.
    pub time_left: Duration,
    /// The newest position the sender has seen: the worker reads at least so far before it acts.
    pub seen: Position,
    /// The W3C trace context of the request, already checked.
    pub traceparent: Option<Arc<str>>,
    /// The fields of a tool call, whose body is its arguments and nothing else: headers on a wire,
    /// moved as they are within a process. Every other command is its body, as JSON.
    pub call: Option<CallTool>,
    pub body: Bytes,
}

/// What a worker said.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The newest position the worker has seen.
    pub position: Position,
    /// The answer, or a `Failure`, as JSON.
    pub outcome: Result<Bytes, Bytes>,
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nobody serves that place; nothing was begun.
    #[error("nobody is there to take it")]
    NoResponders,
    /// Everybody there has as much work as is allowed; nothing was begun.
    #[error("everybody there is busy")]
    Busy,
    /// Time is up. The work was cancelled, but may have been done.
    #[error("time is up")]
    TimedOut,
    /// The worker that had begun it fell silent: whether it was done is unknown.
    #[error("the worker fell silent")]
    WorkerLost,
    /// The bus itself is away or full; nothing was begun.
    #[error("the bus is away")]
    Unavailable,
}

/// Takes asks: `Err(Busy)` where no permit is free. Dropping the future cancels an ask.
#[async_trait]
pub trait AskHandler: Send + Sync {
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy>;
}

/// All permits are taken; nothing was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Ends the serving of a place when dropped; asks under way go on.
pub struct SubscriptionGuard(pub Box<dyn FnOnce() + Send + Sync>);

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        std::mem::replace(&mut self.0, Box::new(|| {}))();
    }
}

/// A job on its way in, as its sender wrote it: whoever takes it reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobMessage {
    /// The same id again, while the first is not settled, is the same job.
    pub id: String,
    /// The command's name.
    pub command: String,
    /// Of a tool call its fields, as JSON; its body is the arguments and nothing else.
    pub call: Option<String>,
    /// Where the outcome is to be told, in the bus's own terms.
    pub reply: Option<String>,
    pub body: Bytes,
}

/// A job in a worker's hands. Dropped unsettled, it comes back to somebody.
pub struct JobDelivery {
    pub job: JobMessage,
    /// How often it was handed out, this time included.
    pub attempt: u32,
    pub settle: Box<dyn JobAck>,
}

/// What becomes of a delivery. Silence means "again".
#[async_trait]
pub trait JobAck: Send + Sync {
    /// It does not come back. A sender that named a place for it is told the outcome, where there is one yet;
    /// else whoever has taken the job tells it later ([`Bus::tell`]).
    async fn ack(self: Box<Self>, outcome: Option<Result<Bytes, Bytes>>);
    /// It comes back after that time.
    async fn nak_after(self: Box<Self>, after: Duration);
}

/// The workers' side of the job lane.
#[async_trait]
pub trait JobConsumer: Send + Sync {
    /// The next job; waits until there is one. `None`: the bus has ended.
    async fn next(&mut self) -> Option<JobDelivery>;
}

/// News for everybody. A lost hint is a short delay, never a lost update.
#[derive(Debug, Clone)]
pub enum Hint {
    /// The log has grown to this position.
    LogMoved(Position),
    /// A worker tells what it runs: JSON of `WorkerStatus`.
    Status(Bytes),
}

/// How processes, or the parts of one, talk.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sends an ask to one taker and waits for its answer, `time_left` at most. Dropping the future
    /// cancels the ask.
    async fn request(&self, ask: Ask) -> Result<Reply, BusError>;
    /// Waits until others can reach what is served so far, a second at most.
    async fn flush(&self) {}
    /// Serves a place until the returned guard is dropped.
    fn subscribe(&self, place: Target, taker: Arc<dyn AskHandler>) -> SubscriptionGuard;
    /// Puts a job on its lane.
    async fn publish_job(&self, job: JobMessage) -> Result<(), BusError>;
    /// Joins the takers of jobs.
    fn consume_jobs(&self) -> Box<dyn JobConsumer>;
    /// Tells the outcome of a job where its sender wanted it told. Nobody may be there any more.
    async fn publish_outcome(&self, reply: &str, outcome: Result<Bytes, Bytes>);
    /// Shows producers that a message was set aside, and why. Nothing depends on it.
    async fn publish_dead_letter(&self, letter: String, note: Bytes);
    fn publish(&self, hint: Hint);
    fn hints(&self) -> tokio::sync::broadcast::Receiver<Hint>;
    /// Jobs that wait, for the metrics; 0 where nobody can tell.
    async fn pending_jobs(&self) -> usize;
}
