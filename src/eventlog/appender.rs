//! The only path for a change: read, decide, append, publish. No other code writes state.
//!
//! Each process has one appender. It appends the waiting commands as one entry. It decides each
//! command against the catalog that the commands before it have made. The position is the only
//! lock: if another process has taken the position, the appender folds that entry and decides the
//! commands again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::ONE_ENTRY;
use super::conflict_backoff::ConflictBackoff;
use super::projection::Projection;
use crate::core::catalog::Catalog;
use crate::core::event::{Actor, Commit, Entry, Event};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::AppendError;
use crate::ports::vault::VaultValue;
use crate::telemetry::error::{error_chain, internal_error};
use crate::time::clock;

/// Commands that wait for the appender. A sender of one more command waits itself.
const QUEUE_LENGTH: usize = 1024;
/// The most commands in one entry.
const BATCH: usize = 256;
/// An entry takes no further command after this many bytes. Only a single larger command makes a larger
/// entry.
const BATCH_BYTES: usize = 4 << 20;
/// The bytes of the names and ids around the data of a commit and of an event, at most.
const COMMIT_OVERHEAD: usize = 128;
const EVENT_OVERHEAD: usize = 64;
/// The appender decides a command again for this long while other processes take the position.
const CONTENTION_WINDOW: Duration = Duration::from_secs(10);
/// The appender waits this long for the entry that took the position, because a majority of the
/// store's members may not have it yet.
const CONFLICT_WAIT: Duration = Duration::from_millis(100);

/// Decides a command against a catalog. The appender calls it again after each conflict.
type Decide = Box<dyn Fn(&Catalog) -> Result<Vec<Event>, Failure> + Send + Sync>;

/// A change that is in the log.
#[derive(Debug, Clone)]
pub struct Committed {
    pub position: Position,
    pub events: Arc<Vec<Event>>,
    /// The catalog of the decision. `None` if the command was in the log already.
    pub before: Option<Arc<Catalog>>,
}

struct PendingCommand {
    id: CommandId,
    actor: Actor,
    values: Vec<VaultValue>,
    decide: Decide,
    deadline: Instant,
    answer: oneshot::Sender<Result<Committed, Failure>>,
}

/// Sends changes to the appender task of this process.
#[derive(Clone)]
pub struct Appender {
    projection: Arc<Projection>,
    queue: mpsc::Sender<PendingCommand>,
}

impl Appender {
    /// Starts the appender task.
    pub fn start(projection: Arc<Projection>) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(append_batches(projection.clone(), pending));
        Self { projection, queue }
    }

    /// Commits a change once: a repeat with the same `id` finds the first commit and returns it.
    /// The appender completes the change even if the caller stops waiting.
    ///
    /// # Errors
    /// Returns the failure of the decision, `payload_too_large` if the store cannot hold the events, or
    /// `unavailable` if the store does not answer, other processes take the position for ten seconds,
    /// or this process stops.
    pub fn commit(
        &self,
        id: CommandId,
        actor: Actor,
        decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<Committed, Failure>> {
        self.commit_with_values(id, actor, vec![], decide)
    }

    /// Commits a change whose events name values. The values are in the Vault before the log names
    /// them.
    ///
    /// # Errors
    /// Returns the same failures as [`Appender::commit`]. After a failure the values may be in the
    /// Vault, and the caller removes them.
    pub fn commit_with_values(
        &self,
        id: CommandId,
        actor: Actor,
        values: Vec<VaultValue>,
        decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Send + Sync + 'static,
    ) -> impl Future<Output = Result<Committed, Failure>> {
        self.enqueue(id, actor, values, Box::new(decide))
    }

    /// Queues a command and waits for its commit. The boxed decision keeps this function free of type parameters, so the
    /// compiler builds it once.
    async fn enqueue(
        &self,
        id: CommandId,
        actor: Actor,
        values: Vec<VaultValue>,
        decide: Decide,
    ) -> Result<Committed, Failure> {
        let values = if values.is_empty() {
            values
        } else {
            let log = self.projection.log();
            let prepared = log.prepare_values(values).await;
            prepared.map_err(|error| append_failed(&error))?
        };
        let (answer, answered) = oneshot::channel();
        let pending = PendingCommand {
            id,
            actor,
            values,
            decide,
            deadline: clock::monotonic() + CONTENTION_WINDOW,
            answer,
        };
        self.queue.send(pending).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }
}

fn stopping() -> Failure {
    Failure::unavailable("mcp-api is stopping and makes no more changes")
}

async fn append_batches(projection: Arc<Projection>, mut queue: mpsc::Receiver<PendingCommand>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut backoff = ConflictBackoff::default();
    let mut positions = projection.subscribe();
    while !batch.is_empty() || queue.recv_many(&mut batch, BATCH).await > 0 {
        backoff.wait_for_turn(&mut positions).await;
        // Commands that arrived during the wait join the batch.
        while batch.len() < BATCH
            && let Ok(pending) = queue.try_recv()
        {
            batch.push(pending);
        }
        batch = append_batch(&projection, batch, &mut backoff).await;
    }
}

/// A decided batch: the entry to append, and the answers of its commands after the append. The batch may
/// have more commands than answers; the next entry takes the others.
struct DecidedBatch {
    after: Catalog,
    commits: Vec<Commit>,
    bytes: usize,
    values: Vec<VaultValue>,
    answers: Vec<Result<Committed, Failure>>,
}

/// Decides a batch, appends it and answers its commands. Returns the commands that must be decided
/// again.
async fn append_batch(
    projection: &Projection,
    mut batch: Vec<PendingCommand>,
    backoff: &mut ConflictBackoff,
) -> Vec<PendingCommand> {
    if let Some(halted) = projection.halted() {
        let failure = Failure::unavailable(format!("No change is possible: {halted}"));
        return fail_batch(batch, &failure);
    }
    let limit = projection.log().max_entry_bytes();
    let decided = match decide_batch(&projection.catalog(), &batch, limit) {
        Ok(decided) => decided,
        Err(error) => return fail_batch(batch, &internal_error(error)),
    };
    let undecided = batch.split_off(decided.answers.len());
    if decided.commits.is_empty() {
        answer_batch(projection, batch, decided.answers).await;
        return undecided;
    }
    let position = decided.after.position;
    let entry = Entry {
        position,
        at: clock::now_ms(),
        commits: decided.commits,
    };
    let began = clock::monotonic();
    match projection.log().append(&entry, &decided.values).await {
        Ok(()) => {
            backoff.record_append(position, began.elapsed());
            projection.publish(decided.after, &entry);
            answer_batch(projection, batch, decided.answers).await;
            undecided
        }
        Err(AppendError::Taken) => {
            backoff.record_conflict();
            // Before the entry of the winner is folded, the same append would fail again.
            projection.wait_for(position, CONFLICT_WAIT).await;
            batch.extend(undecided);
            retain_undecided(batch)
        }
        Err(AppendError::Repeated(id)) => {
            batch.extend(undecided);
            answer_repeated(projection, batch, id).await
        }
        Err(AppendError::Store(error)) => {
            fail_batch(batch, &append_failed(&error));
            undecided
        }
    }
}

/// Fails the commands whose deadline has passed, and returns the other commands.
fn retain_undecided(batch: Vec<PendingCommand>) -> Vec<PendingCommand> {
    let now = clock::monotonic();
    let is_late = |pending: &PendingCommand| pending.deadline <= now;
    let (late, retained): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_late);
    let failure = Failure::unavailable("Too many changes at once; retry the request");
    fail_batch(late, &failure);
    retained
}

/// Answers the command that is in the log already, and returns the other commands.
async fn answer_repeated(
    projection: &Projection,
    batch: Vec<PendingCommand>,
    id: CommandId,
) -> Vec<PendingCommand> {
    let (repeated, retained): (Vec<_>, Vec<_>) =
        batch.into_iter().partition(|pending| pending.id == id);
    for pending in repeated {
        let committed = match find_commit(projection, id).await {
            Ok(Some(committed)) => {
                // This process may not have folded the commit yet.
                projection.wait_for(committed.position, CONFLICT_WAIT).await;
                Ok(committed)
            }
            Ok(None) => Err(internal_error(
                "the store says that a command is in the log, and the log has no such command",
            )),
            Err(failure) => Err(failure),
        };
        // The caller may have left.
        let _ = pending.answer.send(committed);
    }
    retained
}

/// Decides the commands of a batch until their events fill an entry. `limit` is the most bytes of one
/// entry; a command with more bytes fails alone.
fn decide_batch(
    base: &Catalog,
    batch: &[PendingCommand],
    limit: usize,
) -> Result<DecidedBatch, serde_json::Error> {
    let mut decided = DecidedBatch {
        after: base.clone(),
        commits: Vec::new(),
        bytes: 0,
        values: Vec::new(),
        answers: Vec::with_capacity(batch.len()),
    };
    decided.after.position = base.position.next();
    let mut decided_at = HashMap::with_capacity(batch.len());
    for (index, pending) in batch.iter().enumerate() {
        // The same command twice in one batch is one change, and both senders get its answer.
        let first = *decided_at.entry(pending.id).or_insert(index);
        if first < index {
            let repeated = decided.answers[first].clone().map(|committed| Committed {
                before: None,
                ..committed
            });
            decided.answers.push(repeated);
        } else if !decided.add(pending, limit)? {
            break;
        }
    }
    if decided.commits.is_empty() {
        decided.after.position = base.position;
        for committed in decided.answers.iter_mut().flatten() {
            committed.position = base.position;
        }
    }
    Ok(decided)
}

impl DecidedBatch {
    /// Decides one more command. Returns false if the entry has no space for its events.
    fn add(&mut self, pending: &PendingCommand, limit: usize) -> Result<bool, serde_json::Error> {
        let before = Arc::new(self.after.clone());
        let events = match (pending.decide)(&before) {
            Ok(events) => Arc::new(events),
            Err(failure) => {
                self.answers.push(Err(failure));
                return Ok(true);
            }
        };
        if !events.is_empty() {
            let commit = encode_commit(pending, &events)?;
            let bytes = commit_bytes(&commit);
            if bytes > limit {
                let error = StoreError::TooLarge { bytes, limit };
                self.answers.push(Err(error.failure()));
                return Ok(true);
            }
            if !self.commits.is_empty() && self.bytes + bytes > BATCH_BYTES.min(limit) {
                return Ok(false);
            }
            self.bytes += bytes;
            self.commits.push(commit);
            self.values.extend_from_slice(&pending.values);
            for event in events.iter() {
                self.after.apply(event);
            }
        }
        self.answers.push(Ok(Committed {
            position: self.after.position,
            events,
            before: Some(before),
        }));
        Ok(true)
    }
}

fn encode_commit(pending: &PendingCommand, events: &[Event]) -> Result<Commit, serde_json::Error> {
    Ok(Commit {
        command_id: pending.id,
        actor: pending.actor.clone(),
        events: events.iter().map(Event::encode).collect::<Result<_, _>>()?,
    })
}

/// Returns at least the bytes of the JSON of a commit.
fn commit_bytes(commit: &Commit) -> usize {
    let events = commit.events.iter().map(|event| {
        EVENT_OVERHEAD + event.type_name.len() + event.subject.len() + event.data.get().len()
    });
    COMMIT_OVERHEAD + events.sum::<usize>()
}

/// Answers the decided commands of a batch. A command that was refused or that changed nothing may be a
/// repeat, so its first commit is looked up.
async fn answer_batch(
    projection: &Projection,
    batch: Vec<PendingCommand>,
    answers: Vec<Result<Committed, Failure>>,
) {
    for (pending, answer) in batch.into_iter().zip(answers) {
        let answer = match answer {
            Ok(committed) if !committed.events.is_empty() => Ok(committed),
            refused_or_empty => match find_commit(projection, pending.id).await {
                Ok(Some(committed)) => Ok(committed),
                Ok(None) => refused_or_empty,
                Err(failure) => Err(failure),
            },
        };
        // The caller may have left. The change is in the log all the same.
        let _ = pending.answer.send(answer);
    }
}

/// Returns the commit of a command that is in the log.
async fn find_commit(projection: &Projection, id: CommandId) -> Result<Option<Committed>, Failure> {
    let log = projection.log();
    let found = log.find_commit(id).await;
    let Some(position) = found.map_err(|error| append_failed(&error))? else {
        return Ok(None);
    };
    let entries = log.read(Position(position.0 - 1), ONE_ENTRY).await;
    let entries = entries.map_err(|error| append_failed(&error))?;
    let Some(commit) = entries
        .iter()
        .flat_map(|entry| &entry.commits)
        .find(|commit| commit.command_id == id)
    else {
        return Ok(None);
    };
    let events: Vec<Event> = commit
        .events
        .iter()
        .map(Event::decode)
        .collect::<Result<_, _>>()
        .map_err(internal_error)?;
    Ok(Some(Committed {
        position,
        events: Arc::new(events),
        before: None,
    }))
}

fn fail_batch(batch: Vec<PendingCommand>, failure: &Failure) -> Vec<PendingCommand> {
    for pending in batch {
        // The caller may have left.
        let _ = pending.answer.send(Err(failure.clone()));
    }
    vec![]
}

/// Returns the failure of a change that the store has not stored. If the store has not answered, the
/// change may be in the log, but almost never is.
fn append_failed(error: &StoreError) -> Failure {
    tracing::warn!(error = %error_chain(error), "the appender cannot write to the store");
    match error {
        StoreError::DiskFull(_) | StoreError::TooLarge { .. } => error.failure(),
        _ => Failure::unavailable(
            "The store does not answer; check whether the change was made, then retry the request",
        ),
    }
}
