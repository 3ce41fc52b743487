//! The one road for every change: read, decide, append, publish. Nothing else writes state.
//!
//! One appender per process writes the commands that wait together as one append. Each is decided
//! against what the ones before it have made; the position is the only lock, so whoever finds it
//! taken catches up and decides again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::projection::Projection;
use crate::core::catalog::Catalog;
use crate::core::event::{Actor, Commit, Entry, Event};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::AppendError;
use crate::ports::vault::VaultValue;
use crate::telemetry::error::internal_error;
use crate::time::clock::now_ms;

/// Commands that may wait for the appender; a sender past that waits itself.
const QUEUE_LENGTH: usize = 1024;
/// Commands in one append.
const BATCH: usize = 256;
/// How long a command is tried again while others take the position.
const CONTENTION_WINDOW: Duration = Duration::from_secs(10);
/// How long an entry that took the position is waited for, where a majority has not stored it yet.
const CONFLICT_WAIT: Duration = Duration::from_millis(100);

/// The most entries of others that one lets pass, and the longest it waits for them.
const FOREIGN_APPEND_WINDOW: u64 = 16;
const TURN_LIMIT: Duration = Duration::from_millis(50);

/// Decides a command against a catalogue; called again when somebody else was first.
type Decide = Box<dyn Fn(&Catalog) -> Result<Vec<Event>, Failure> + Send + Sync>;

/// A change that has happened.
#[derive(Debug, Clone)]
pub struct Committed {
    pub position: Position,
    pub events: Arc<Vec<Event>>,
    /// The catalogue it was decided against; `None` when the same command had happened before.
    pub before: Option<Arc<Catalog>>,
}

struct PendingCommand {
    id: CommandId,
    actor: Actor,
    values: Vec<VaultValue>,
    decide: Decide,
    until: Instant,
    answer: oneshot::Sender<Result<Committed, Failure>>,
}

/// Hands changes to the process's appender.
#[derive(Clone)]
pub struct Appender {
    projection: Arc<Projection>,
    queue: mpsc::Sender<PendingCommand>,
}

impl Appender {
    pub fn start(projection: Arc<Projection>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(append_all(projection.clone(), waiting));
        Self { projection, queue }
    }

    /// Makes a change, once: the same `id` again finds its own commit and gets the same answer.
    /// It is carried through even when the caller stops waiting.
    pub async fn commit(
        &self,
        id: CommandId,
        actor: Actor,
        decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Send + Sync + 'static,
    ) -> Result<Committed, Failure> {
        self.commit_with_values(id, actor, vec![], decide).await
    }

    /// A change whose events name values: whatever the log names is in the Vault. Where it is refused, they may be
    /// there too, and are the caller's to remove.
    pub async fn commit_with_values(
        &self,
        id: CommandId,
        actor: Actor,
        values: Vec<VaultValue>,
        decide: impl Fn(&Catalog) -> Result<Vec<Event>, Failure> + Send + Sync + 'static,
    ) -> Result<Committed, Failure> {
        let values = match values.is_empty() {
            true => values,
            false => self
                .projection
                .log()
                .prepare_values(values)
                .await
                .map_err(|error| store_unavailable(&error))?,
        };
        let (answer, answered) = oneshot::channel();
        let until = Instant::now() + CONTENTION_WINDOW;
        let waiting = PendingCommand {
            id,
            actor,
            values,
            decide: Box::new(decide),
            until,
            answer,
        };
        let closed = || Failure::unavailable("mcp-api is stopping and makes no more changes");
        self.queue.send(waiting).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

async fn append_all(projection: Arc<Projection>, mut queue: mpsc::Receiver<PendingCommand>) {
    let mut batch = Vec::with_capacity(BATCH);
    let (mut turns, mut moves) = (ConflictBackoff::default(), projection.subscribe());
    while !batch.is_empty() || queue.recv_many(&mut batch, BATCH).await > 0 {
        turns.wait_for_turn(&mut moves).await;
        // Whoever has come while others were first goes along.
        while batch.len() < BATCH
            && let Ok(waiting) = queue.try_recv()
        {
            batch.push(waiting);
        }
        batch = append(&projection, batch, &mut turns).await;
    }
}

/// How processes that append at the same time take turns without a word: each lets as many entries of others pass
/// after its own as it has lost races, and fewer where fewer come in time. So few races are lost, and what waits
/// meanwhile goes along.
#[derive(Default)]
struct ConflictBackoff {
    others: u64,
    /// One's own newest entry, and until when others may follow it.
    own: Position,
    until: Option<Instant>,
}

impl ConflictBackoff {
    async fn wait_for_turn(&mut self, moves: &mut watch::Receiver<Position>) {
        let Some(until) = self.until.take() else {
            return;
        };
        let passed = |at: &Position| at.0.saturating_sub(self.own.0);
        if timeout_at(until, moves.wait_for(|at| passed(at) >= self.others))
            .await
            .is_err()
        {
            self.others = self.others.min(passed(&moves.borrow()));
        }
    }

    fn record_conflict(&mut self) {
        self.others = (self.others + 1).min(FOREIGN_APPEND_WINDOW);
    }

    /// Another's entry takes about as long as one's own. Waiting longer for it would lose more than the races do.
    fn record_append(&mut self, position: Position, took: Duration) {
        self.own = position;
        let wait = (took * self.others as u32).min(TURN_LIMIT);
        self.until = (self.others > 0).then(|| Instant::now() + wait);
    }
}

/// A batch decided: what to append, and what each command will be told once that has happened.
struct DecidedBatch {
    after: Catalog,
    commits: Vec<Commit>,
    values: Vec<VaultValue>,
    answers: Vec<Result<Committed, Failure>>,
}

/// Decides a batch, appends it and answers. What is to be decided again, after what others have made, is
/// given back.
async fn append(
    projection: &Projection,
    batch: Vec<PendingCommand>,
    turns: &mut ConflictBackoff,
) -> Vec<PendingCommand> {
    if let Some(unreadable) = projection.halted() {
        return fail_batch(
            batch,
            &Failure::unavailable(format!("No change is possible: {unreadable}")),
        );
    }
    let plan = match decide_batch(&projection.catalog(), &batch) {
        Ok(plan) => plan,
        Err(cause) => return fail_batch(batch, &internal_error(cause)),
    };
    if plan.commits.is_empty() {
        return answer_batch(projection, batch, plan.answers).await;
    }
    let position = plan.after.position;
    let entry = Entry {
        position,
        at: now_ms(),
        commits: plan.commits,
    };
    let began = Instant::now();
    match projection.log().append(&entry, &plan.values).await {
        Ok(()) => {
            turns.record_append(position, began.elapsed());
            projection.publish(plan.after);
            answer_batch(projection, batch, plan.answers).await
        }
        Err(AppendError::Taken) => {
            turns.record_conflict();
            // Until the winner's entry is here, the same would be tried in vain.
            projection.wait_for(position, CONFLICT_WAIT).await;
            let now = Instant::now();
            let (late, again): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|waiting| waiting.until <= now);
            fail_batch(
                late,
                &Failure::unavailable("Too many changes at once; ask again"),
            );
            again
        }
        Err(AppendError::Repeated(id)) => {
            let (repeated, rest): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|waiting| waiting.id == id);
            for waiting in repeated {
                let done = match find_commit(projection, id).await {
                    Ok(Some(done)) => {
                        // The commit may be one that this process has not read yet.
                        projection.wait_for(done.position, CONFLICT_WAIT).await;
                        Ok(done)
                    }
                    Ok(None) => Err(internal_error(
                        "a command is in the log and cannot be found there",
                    )),
                    Err(failure) => Err(failure),
                };
                let _ = waiting.answer.send(done);
            }
            rest
        }
        Err(AppendError::Store(error)) => fail_batch(batch, &store_unavailable(&error)),
    }
}

fn decide_batch(
    base: &Catalog,
    batch: &[PendingCommand],
) -> Result<DecidedBatch, serde_json::Error> {
    let mut after = base.clone();
    after.position = base.position.next();
    let (mut commits, mut values): (Vec<Commit>, Vec<VaultValue>) = Default::default();
    let mut answers: Vec<Result<Committed, Failure>> = Vec::with_capacity(batch.len());
    let mut planned = HashMap::with_capacity(batch.len());
    for (n, waiting) in batch.iter().enumerate() {
        // The same command twice in one batch is one change, and both senders get its answer.
        let first = *planned.entry(waiting.id).or_insert(n);
        if first < n {
            answers.push(answers[first].clone().map(|done| Committed {
                before: None,
                ..done
            }));
            continue;
        }
        let before = Arc::new(after.clone());
        let decided = (waiting.decide)(&before).map(Arc::new);
        if let Ok(events) = &decided
            && !events.is_empty()
        {
            let stored = events.iter().map(Event::encode).collect::<Result<_, _>>()?;
            commits.push(Commit {
                command_id: waiting.id,
                actor: waiting.actor,
                events: stored,
            });
            values.extend_from_slice(&waiting.values);
            events.iter().for_each(|event| after.apply(event));
        }
        answers.push(decided.map(|events| Committed {
            position: after.position,
            events,
            before: Some(before),
        }));
    }
    if commits.is_empty() {
        after.position = base.position;
        answers
            .iter_mut()
            .flatten()
            .for_each(|done| done.position = base.position);
    }
    Ok(DecidedBatch {
        after,
        commits,
        values,
        answers,
    })
}

/// A command that is refused, or finds nothing to do, may be one that has already happened.
async fn answer_batch(
    projection: &Projection,
    batch: Vec<PendingCommand>,
    answers: Vec<Result<Committed, Failure>>,
) -> Vec<PendingCommand> {
    for (waiting, answer) in batch.into_iter().zip(answers) {
        let answer = match answer {
            Ok(done) if !done.events.is_empty() => Ok(done),
            refused_or_nothing => match find_commit(projection, waiting.id).await {
                Ok(Some(done)) => Ok(done),
                Ok(None) => refused_or_nothing,
                Err(failure) => Err(failure),
            },
        };
        // Nobody may be listening any more; the change has happened all the same.
        let _ = waiting.answer.send(answer);
    }
    vec![]
}

async fn find_commit(projection: &Projection, id: CommandId) -> Result<Option<Committed>, Failure> {
    let log = projection.log();
    let Some(position) = log
        .find_commit(id)
        .await
        .map_err(|error| store_unavailable(&error))?
    else {
        return Ok(None);
    };
    let entries = log
        .read(Position(position.0 - 1), 1)
        .await
        .map_err(|error| store_unavailable(&error))?;
    let commit = entries
        .iter()
        .flat_map(|entry| &entry.commits)
        .find(|commit| commit.command_id == id);
    let events = commit.map(|commit| {
        commit
            .events
            .iter()
            .map(Event::decode)
            .collect::<Result<Vec<_>, _>>()
    });
    match events {
        Some(Ok(events)) => Ok(Some(Committed {
            position,
            events: events.into(),
            before: None,
        })),
        Some(Err(cause)) => Err(internal_error(cause)),
        None => Ok(None),
    }
}

fn fail_batch(batch: Vec<PendingCommand>, failure: &Failure) -> Vec<PendingCommand> {
    for waiting in batch {
        let _ = waiting.answer.send(Err(failure.clone()));
    }
    vec![]
}

fn store_unavailable(error: &StoreError) -> Failure {
    tracing::warn!(%error, "a change failed");
    // Nearly always it was not made; a store that fell silent in the middle of it may still have it.
    Failure::unavailable(
        "The store does not answer; ask again, and look first whether the change was made",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_has_lost_two_races_lets_two_entries_pass() {
        let (at, mut moves) = watch::channel(Position(7));
        let mut turns = ConflictBackoff::default();
        turns.record_append(Position(7), TURN_LIMIT);
        turns.wait_for_turn(&mut moves).await;
        turns.record_conflict();
        turns.record_conflict();
        turns.record_append(Position(7), Duration::from_secs(60));
        at.send_replace(Position(9));
        turns.wait_for_turn(&mut moves).await;
        assert_eq!(turns.others, 2);
    }

    #[tokio::test]
    async fn where_nobody_comes_nobody_is_waited_for_again() {
        let (at, mut moves) = watch::channel(Position(7));
        let mut turns = ConflictBackoff::default();
        (0..100).for_each(|_| turns.record_conflict());
        assert_eq!(turns.others, FOREIGN_APPEND_WINDOW);
        turns.record_append(Position(7), Duration::from_micros(1));
        at.send_replace(Position(8));
        turns.wait_for_turn(&mut moves).await;
        assert_eq!(turns.others, 1);
        turns.record_append(Position(9), Duration::from_micros(1));
        turns.wait_for_turn(&mut moves).await;
        assert_eq!((turns.others, turns.until), (0, None));
    }
}
