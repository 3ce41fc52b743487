//! The bus: the messages between processes, or between the parts of one process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::core::command::Area;
use crate::core::ids::{Digest, Position, ServerId, WorkerId};
use crate::core::mcp::client::McpClient;
use crate::core::model::client_session::SessionChange;
use crate::core::model::tool_call::CallTool;
use crate::core::model::upstream_change::UpstreamChange;
pub use crate::ports::interim::{
    Interim, InterimKind, InterimKinds, InterimReceiver, InterimSender, interim_channel,
    interim_channel_for,
};

/// The receiver of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// One worker of the pool that serves the area.
    AnyWorker(Area),
    /// The worker that runs this server.
    Owner(ServerId),
    /// One worker by its id.
    Worker(WorkerId),
}

/// A command with a reply.
pub struct Ask {
    pub to: Target,
    /// The command's name.
    pub command: &'static str,
    /// The time that the sender still waits. The wire carries a length of time, never a time of day.
    pub time_left: Duration,
    /// The newest position that the sender has seen. The worker reads the log to this position before it acts.
    pub seen: Position,
    /// The W3C trace context of the request. The facade has checked it.
    pub traceparent: Option<Arc<str>>,
    /// The members of an MCP client's `_meta` that the server of a tool call receives: a JSON object on one line of
    /// ASCII (`core::mcp::forwarded_meta`).
    pub meta: Option<Arc<str>>,
    /// The fields of a tool call, whose body is the arguments alone. NATS carries the fields in a header.
    /// Every other command is the JSON of the body.
    pub call: Option<CallTool>,
    /// The MCP client that waits for the result. REST clients and jobs have none.
    pub client: Option<McpClient>,
    /// Receives the messages before the reply. `None`: the worker asks the server for none.
    pub interim: Option<InterimSender>,
    pub body: Bytes,
}

/// The reply of a worker.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The newest position that the worker has seen.
    pub position: Position,
    /// The JSON of the result, or of a `Failure`.
    pub outcome: Result<Bytes, Bytes>,
}

/// The reason why an ask has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// No process serves the target. Nothing has started.
    #[error("no worker serves the target")]
    NoResponders,
    /// All workers of the target are without a free permit. Nothing has started.
    #[error("all workers are busy")]
    Busy,
    /// The time of the sender is over. The worker cancels the work, which may have run.
    #[error("no reply came in time")]
    TimedOut,
    /// The worker that started the work sends no sign of life. The outcome is unknown.
    #[error("the worker sends no sign of life")]
    WorkerLost,
    /// The bus cannot be reached, or it is full. Nothing has started.
    #[error("the bus is unavailable")]
    Unavailable,
}

/// Executes asks. Dropping the future cancels the ask.
#[async_trait]
pub trait AskHandler: Send + Sync {
    /// Executes an ask and returns the reply.
    ///
    /// # Errors
    /// [`Busy`] if no permit is free.
    async fn handle(&self, ask: Ask) -> Result<Reply, Busy>;
}

/// No permit is free. Nothing has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Serves a target until it is dropped. Running asks continue.
pub struct SubscriptionGuard(pub Box<dyn FnOnce() + Send + Sync>);

impl Drop for SubscriptionGuard {
    fn drop(&mut self) {
        std::mem::replace(&mut self.0, Box::new(|| {}))();
    }
}

/// A job as its producer wrote it. The worker that receives the message parses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobMessage {
    /// The name of the job. A message with the id of an unacknowledged job is the same job.
    pub id: String,
    /// The command's name.
    pub command: String,
    /// The JSON of the fields of a tool call, whose body is the arguments alone.
    pub call: Option<String>,
    /// The address for the outcome, in the terms of the bus.
    pub reply: Option<String>,
    pub body: Bytes,
}

/// A job message that a worker holds. Without an acknowledgement the bus delivers it again.
pub struct JobDelivery {
    pub job: JobMessage,
    /// The number of this delivery. The first delivery is 1.
    pub attempt: u32,
    pub ack: Box<dyn JobAck>,
}

/// Acknowledges a delivery.
#[async_trait]
pub trait JobAck: Send + Sync {
    /// Removes the message from the bus and publishes the outcome, if there is one and the producer named an
    /// address. Without an outcome, a worker publishes it later with [`Bus::publish_outcome`].
    async fn ack(self: Box<Self>, outcome: Option<Result<Bytes, Bytes>>);
    /// Asks the bus to deliver the message again after this time.
    async fn nak_after(self: Box<Self>, after: Duration);
}

/// Receives the jobs of producers.
#[async_trait]
pub trait JobConsumer: Send + Sync {
    /// Waits for the next job. Returns `None` after the bus has ended.
    async fn next(&mut self) -> Option<JobDelivery>;
}

/// An entry of the log that its process signed after the append, so that other processes need not read it.
#[derive(Debug, Clone)]
pub struct SignedEntry {
    pub position: Position,
    /// JSON on one line. Its content belongs to `eventlog`.
    pub text: Arc<str>,
    pub signature: Bytes,
}

impl SignedEntry {
    /// The longest text in bytes. Listeners keep about a thousand hints.
    pub const MAX_TEXT: usize = 16 << 10;
}

/// Signs entries for the other processes of the deployment.
pub trait EntrySigner: Send + Sync {
    /// Returns the signature, or `None` if the process has no key.
    fn sign_entry(&self, text: &str) -> Option<Bytes>;
    /// Returns whether a process of this deployment made the signature.
    fn is_signed_entry(&self, text: &str, signature: &[u8]) -> bool;
}

/// News for all processes. A lost hint delays a reader and loses no data.
#[derive(Debug, Clone)]
pub enum Hint {
    /// The log has grown to this position.
    LogMoved(Position),
    /// The log has grown by this entry.
    EntryAppended(SignedEntry),
    /// The JSON of the `WorkerStatus` of one worker.
    Status(Bytes),
    /// An MCP client cancels a call, which may run at another facade. The digest names user, endpoint, session and
    /// request.
    McpCallCancelled(Digest),
    /// An MCP client has ended a session. The digest names user, endpoint and session.
    McpSessionEnded(Digest),
    /// A setting of the session of an MCP client has changed.
    McpSessionChanged(SessionChange),
    /// An MCP server reports that its prompts or resources have changed.
    UpstreamChanged(UpstreamChange),
}

/// Carries asks, jobs and hints.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sends an ask to one worker and waits for the reply, at most for `time_left`. Dropping the future
    /// cancels the ask. When the reply is there, all interim messages before it are in the channel.
    async fn request(&self, ask: Ask) -> Result<Reply, BusError>;
    /// Waits until other processes can reach all subscriptions so far, at most one second.
    async fn flush(&self) {}
    /// Serves a target until the returned guard is dropped.
    fn subscribe(&self, target: Target, handler: Arc<dyn AskHandler>) -> SubscriptionGuard;
    /// Publishes a job.
    async fn publish_job(&self, job: JobMessage) -> Result<(), BusError>;
    /// Joins the consumers of jobs.
    fn consume_jobs(&self) -> Box<dyn JobConsumer>;
    /// Publishes the outcome of a job to the address that its producer named.
    async fn publish_outcome(&self, reply: &str, outcome: Result<Bytes, Bytes>);
    /// Publishes the note about a dead letter. A lost note loses no data.
    async fn publish_dead_letter(&self, dead_letter: String, note: Bytes);
    /// Publishes a hint to all processes.
    fn publish(&self, hint: Hint);
    /// Returns whether hints reach other processes.
    fn reaches_processes(&self) -> bool {
        false
    }
    /// Returns the hints of all processes from now on.
    fn hints(&self) -> tokio::sync::broadcast::Receiver<Hint>;
    /// Returns the number of jobs on the bus for the metrics, or 0 if the bus cannot count them.
    async fn pending_jobs(&self) -> usize;
    /// Returns the number of received asks whose command did not belong to their subject.
    fn refused_asks(&self) -> u64 {
        0
    }
}
