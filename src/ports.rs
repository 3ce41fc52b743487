//! What the rules need of the world: a log, a vault, leases and a bus. Each has adapters, and one
//! contract suite in `tests/it` that every adapter passes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use crate::core::command::{Area, CallTool};
use crate::core::event::Entry;
use crate::core::names::{CommandId, LeaseId, Position, ServerId, ValueId, WorkerId};

/// A store that cannot be reached or does not obey. Nobody knows a better remedy than asking again.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the store failed: {0}")]
pub struct StoreError(pub String);

/// Why an append did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Somebody else was first at this position: read on and decide again.
    #[error("the position is taken")]
    Taken,
    /// The log already holds a commit of this command.
    #[error("command {0} is in the log already")]
    Repeated(CommandId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The log: a gapless total order of appends. What is acknowledged survives a kill -9 and a power cut.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends at `entry.position`, which must be the head's next: the position is the only lock. `values`, which
    /// its events name, are in the Vault before it can be read; where it is refused, they may be there too.
    async fn append(&self, entry: &Entry, values: &[SealedAt]) -> Result<(), AppendError>;
    /// Puts such values into the Vault before the append's turn has come, and gives back what is to go with the
    /// append itself: all of them, where the store does both at once.
    async fn put_ahead(&self, values: Vec<SealedAt>) -> Result<Vec<SealedAt>, StoreError> {
        Ok(values)
    }
    /// The newest position, 0 of an empty log.
    async fn head(&self) -> Result<Position, StoreError>;
    /// Up to `limit` appends after `after`, in order and without gaps.
    async fn read(&self, after: Position, limit: usize) -> Result<Vec<Entry>, StoreError>;
    /// Where a command was committed.
    async fn find(&self, command: CommandId) -> Result<Option<Position>, StoreError>;
    /// The newest finished snapshot of that fold version.
    async fn newest_snapshot(&self, fold: u32) -> Result<Option<Snapshot>, StoreError>;
    /// One of its pieces; `None` where it has been replaced.
    async fn snapshot_piece(&self, snapshot: &Snapshot, n: u32) -> Result<Option<Vec<u8>>, StoreError>;
    /// Puts the next piece of a snapshot that is being made: it has `snapshot.pieces` already.
    async fn put_snapshot_piece(&self, snapshot: &Snapshot, piece: Vec<u8>) -> Result<(), StoreError>;
    /// Makes it the newest where none is as new, and drops all pieces that are in vain then.
    async fn finish_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError>;
}

/// A catalogue in the store; its bytes lie in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Two that are made of the same position are two.
    pub id: Uuid,
    pub fold: u32,
    pub at: Position,
    pub pieces: u32,
}

/// Sealed bytes: safe to store and to send to a Vault, useless without the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Bytes);

impl Sealed {
    /// The first bytes are the wrapping: which of the deployment's keys they lie under, and the value's own
    /// key wrapped by it.
    pub const WRAPPING: usize = 69;

    /// The wrapping, and the rest; of bytes that are too few to have one, all of them.
    pub fn split(&self) -> (Bytes, Bytes) {
        let at = self.0.len().min(Self::WRAPPING);
        (self.0.slice(..at), self.0.slice(at..))
    }

    /// The same value in another wrapping.
    pub fn wrapped(wrapping: &[u8], rest: &[u8]) -> Self {
        Self([wrapping, rest].concat().into())
    }
}

/// A value for the Vault.
#[derive(Clone)]
pub struct SealedAt {
    pub id: ValueId,
    pub sealed: Sealed,
}

/// Another wrapping for a value, in the place of the one it was made from.
#[derive(Clone)]
pub struct Rewrap {
    pub id: ValueId,
    pub from: Bytes,
    pub to: Bytes,
}

/// The salt and the check value of a deployment's key, stored once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    pub salt: [u8; 16],
    pub check: Vec<u8>,
}

/// Sealed values under ids. A value is put once and never changed, so whoever has it has it right. Only its
/// wrapping may be another one later: who keeps sealed bytes has to keep the key they lie under too.
#[async_trait]
pub trait Vault: Send + Sync {
    async fn put(&self, id: ValueId, sealed: Sealed) -> Result<(), StoreError>;
    /// The values in the order of their ids; `None` for one that is not there.
    async fn get(&self, ids: &[ValueId]) -> Result<Vec<Option<Sealed>>, StoreError>;
    /// Removes values; one that is not there is no error.
    async fn remove(&self, ids: &[ValueId]) -> Result<(), StoreError>;
    /// The ids of values put longer ago than `age`, by the store's clock.
    async fn older_than(&self, age: Duration) -> Result<Vec<ValueId>, StoreError>;
    /// The wrappings of up to `limit` values after an id, in the order of their ids.
    async fn wrappings(&self, after: Option<ValueId>, limit: usize) -> Result<Vec<(ValueId, Bytes)>, StoreError>;
    /// Gives values another wrapping, each where it still has the one that was read, and says how many were
    /// given one. `from` and `to` are equally long.
    async fn rewrap(&self, changes: Vec<Rewrap>) -> Result<usize, StoreError>;
    /// The stored key record; `proposed` becomes it where there is none.
    async fn key_record(&self, proposed: Option<KeyRecord>) -> Result<Option<KeyRecord>, StoreError>;
    /// Puts another check value in the place of this record's. False: it is not the stored one.
    async fn renew_key_record(&self, from: &KeyRecord, check: Vec<u8>) -> Result<bool, StoreError>;
}

/// Who runs or does what, for a limited time by the store's clock.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes a free or expired lease, or one that is the holder's own. The fencing token grows with
    /// every change of hands. `None`: somebody else holds it.
    async fn take(&self, what: LeaseId, holder: WorkerId, ttl: Duration) -> Result<Option<u64>, StoreError>;
    /// Renews all leases of a holder that have not expired and says which they are.
    async fn renew(&self, holder: WorkerId, ttl: Duration) -> Result<Vec<LeaseId>, StoreError>;
    /// Gives a lease back; a no-op for one that is not the holder's.
    async fn release(&self, what: LeaseId, holder: WorkerId) -> Result<(), StoreError>;
}

/// Where an ask goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Any one worker of the area's pool.
    Pool(Area),
    /// The worker that runs this server.
    Holder(ServerId),
    /// That one worker.
    Worker(WorkerId),
}

/// A question on the bus.
pub struct Ask {
    pub to: Place,
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
    NobodyThere,
    /// Everybody there has as much work as is allowed; nothing was begun.
    #[error("everybody there is busy")]
    Busy,
    /// Time is up. The work was cancelled, but may have been done.
    #[error("time is up")]
    TimedOut,
    /// The worker that had begun it fell silent: whether it was done is unknown.
    #[error("the worker fell silent")]
    Silent,
    /// The bus itself is away or full; nothing was begun.
    #[error("the bus is away")]
    Away,
}

/// Takes asks: `Err(Busy)` where no permit is free. Dropping the future cancels an ask.
#[async_trait]
pub trait Serve: Send + Sync {
    async fn serve(&self, ask: Ask) -> Result<Reply, Busy>;
}

/// All permits are taken; nothing was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

/// Ends the serving of a place when dropped; asks under way go on.
pub struct Serving(pub Box<dyn FnOnce() + Send + Sync>);

impl Drop for Serving {
    fn drop(&mut self) {
        std::mem::replace(&mut self.0, Box::new(|| {}))();
    }
}

/// A job on its way in, as its sender wrote it: whoever takes it reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
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
pub struct Delivery {
    pub job: Job,
    /// How often it was handed out, this time included.
    pub attempt: u32,
    pub settle: Box<dyn Settle>,
}

/// What becomes of a delivery. Silence means "again".
#[async_trait]
pub trait Settle: Send + Sync {
    /// It does not come back. A sender that named a place for it is told the outcome, where there is one yet;
    /// else whoever has taken the job tells it later ([`Bus::tell`]).
    async fn done(self: Box<Self>, outcome: Option<Result<Bytes, Bytes>>);
    /// It comes back after that time.
    async fn again(self: Box<Self>, after: Duration);
}

/// The workers' side of the job lane.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// The next job; waits until there is one. `None`: the bus has ended.
    async fn next(&mut self) -> Option<Delivery>;
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
    async fn call(&self, ask: Ask) -> Result<Reply, BusError>;
    /// Waits until others can reach what is served so far, a second at most.
    async fn settled(&self) {}
    /// Serves a place until the returned guard is dropped.
    fn serve(&self, place: Place, taker: Arc<dyn Serve>) -> Serving;
    /// Puts a job on its lane.
    async fn submit(&self, job: Job) -> Result<(), BusError>;
    /// Joins the takers of jobs.
    fn jobs(&self) -> Box<dyn Jobs>;
    /// Tells the outcome of a job where its sender wanted it told. Nobody may be there any more.
    async fn tell(&self, reply: &str, outcome: Result<Bytes, Bytes>);
    /// Shows producers that a message was set aside, and why. Nothing depends on it.
    async fn set_aside(&self, letter: String, note: Bytes);
    fn publish(&self, hint: Hint);
    fn hints(&self) -> tokio::sync::broadcast::Receiver<Hint>;
    /// Jobs that wait, for the metrics; 0 where nobody can tell.
    async fn waiting(&self) -> usize;
}
