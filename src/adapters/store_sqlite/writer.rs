//! The only writer of the file: a thread that commits the waiting writes in one transaction (group commit).
//!
//! The write-ahead log still holds the bytes of removed values, so the thread truncates it soon after a
//! removal and when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot};

use super::connection::BUSY_LIMIT;
use super::error::store_error;
use crate::core::error_chain::error_chain;
use crate::ports::error::StoreError;

/// The largest number of waiting orders. A further sender waits.
const MAX_WAITING: usize = 1024;
/// The largest number of writes in one transaction.
const MAX_BATCH: usize = 256;
/// The time between a removal and the truncation of the write-ahead log.
const TRUNCATE_AFTER: Duration = Duration::from_secs(1);
/// The time for which the last truncation waits for readers.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// The pages that one step gives back. Writes wait for one step.
const RECLAIM_PAGES: u32 = 2_000;

/// One write: it works inside the transaction and returns the function that reports the commit.
type Write = Box<dyn FnOnce(&Transaction<'_>) -> WriteResult + Send>;
/// Receives the result of the commit.
type WriteResult = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

enum Order {
    Write(Write),
    /// Truncates the write-ahead log and reports whether no reader prevented it.
    Truncate(oneshot::Sender<bool>),
    /// Gives free pages back to the file system and reports whether some are left.
    Reclaim(oneshot::Sender<Result<bool, StoreError>>),
}

pub(super) struct Writer {
    /// `None` only while the writer stops.
    queue: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
    /// A task waits to truncate the write-ahead log.
    truncating: Arc<AtomicBool>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system starts no thread.
    pub(super) fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, orders) = mpsc::channel(MAX_WAITING);
        let thread = thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || write_all(connection, orders))
            .map_err(StoreError::failed)?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            truncating: Arc::default(),
        })
    }

    /// Runs `work` in the next transaction and returns after the commit. An error of `work` undoes its own
    /// writes only.
    pub(super) async fn write<T, E>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let write: Write = Box::new(move |transaction| {
            let result = isolated(transaction, work);
            Box::new(move |committed| {
                // The caller may have left.
                let _ = answer.send(committed.map_err(E::from).and(result));
            })
        });
        let stopping = || E::from(StoreError::Stopping);
        let queue = self.queue.as_ref().ok_or_else(stopping)?;
        queue
            .send(Order::Write(write))
            .await
            .map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Gives some free pages back to the file system. Returns whether some are left.
    pub(super) async fn reclaim(&self) -> Result<bool, StoreError> {
        let (answer, answered) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Stopping)?;
        let sent = queue.send(Order::Reclaim(answer)).await;
        sent.map_err(|_| StoreError::Stopping)?;
        answered.await.map_err(|_| StoreError::Stopping)?
    }

    /// Truncates the write-ahead log now, or soon if a reader prevents it.
    pub(super) async fn truncate(&self) -> Result<(), StoreError> {
        let (answer, truncated) = oneshot::channel();
        let queue = self.queue.as_ref().ok_or(StoreError::Stopping)?;
        let sent = queue.send(Order::Truncate(answer)).await;
        sent.map_err(|_| StoreError::Stopping)?;
        if truncated.await != Ok(true) {
            self.truncate_soon();
        }
        Ok(())
    }

    /// Truncates the write-ahead log soon. One truncation serves all removals of a second.
    pub(super) fn truncate_soon(&self) {
        let Some(queue) = self.queue.as_ref().map(mpsc::Sender::downgrade) else {
            return;
        };
        if self.truncating.swap(true, Ordering::AcqRel) {
            return;
        }
        let truncating = self.truncating.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TRUNCATE_AFTER).await;
                truncating.store(false, Ordering::Release);
                let Some(queue) = queue.upgrade() else {
                    return;
                };
                let (answer, truncated) = oneshot::channel();
                if queue.send(Order::Truncate(answer)).await.is_err() {
                    return;
                }
                if truncated.await != Ok(false) || truncating.swap(true, Ordering::AcqRel) {
                    return;
                }
            }
        });
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the store panicked");
        }
    }
}

/// Runs a write in a savepoint, so that a failed write leaves nothing in the transaction.
fn isolated<T, E: From<StoreError>>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql| {
        transaction
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map_err(|error| E::from(store_error(error)))
    };
    run("SAVEPOINT one")?;
    let result = work(transaction);
    if result.is_err() {
        run("ROLLBACK TO one")?;
    }
    run("RELEASE one")?;
    result
}

fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Order>) {
    let mut orders = Vec::with_capacity(MAX_BATCH);
    while queue.blocking_recv_many(&mut orders, MAX_BATCH) > 0 {
        let mut writes = Vec::with_capacity(orders.len());
        let mut truncations = vec![];
        let mut reclaims = vec![];
        for order in orders.drain(..) {
            match order {
                Order::Write(write) => writes.push(write),
                Order::Truncate(answer) => truncations.push(answer),
                Order::Reclaim(answer) => reclaims.push(answer),
            }
        }
        commit_batch(&mut connection, writes);
        for answer in reclaims {
            // The caller may have left.
            let _ = answer.send(reclaim_pages(&connection).map_err(store_error));
        }
        for answer in truncations {
            // The caller may have left.
            let _ = answer.send(truncate_log(&connection, Duration::ZERO));
        }
    }
    truncate_log(&connection, STOP_LIMIT);
}

fn commit_batch(connection: &mut Connection, writes: Vec<Write>) {
    if writes.is_empty() {
        return;
    }
    let mut answers = Vec::with_capacity(writes.len());
    let committed = commit(connection, writes, &mut answers);
    if let Err(error) = &committed {
        tracing::error!(
            error = error_chain(&error),
            "the store lost writes before it acknowledged them"
        );
    }
    for answer in answers {
        answer(committed.clone());
    }
}

fn commit(
    connection: &mut Connection,
    writes: Vec<Write>,
    answers: &mut Vec<WriteResult>,
) -> Result<(), StoreError> {
    let transaction = connection.transaction().map_err(store_error)?;
    answers.extend(writes.into_iter().map(|write| write(&transaction)));
    transaction.commit().map_err(store_error)
}

/// Gives some free pages back to the file system. Returns whether some are left. A file of an early
/// version has no list of its free pages, so it is written again once, without them.
fn reclaim_pages(connection: &Connection) -> rusqlite::Result<bool> {
    const INCREMENTAL: i64 = 2;
    let number = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    if number("PRAGMA auto_vacuum")? != INCREMENTAL {
        connection.execute_batch("PRAGMA auto_vacuum=INCREMENTAL; VACUUM;")?;
        return Ok(false);
    }
    let mut statement =
        connection.prepare(&format!("PRAGMA incremental_vacuum({RECLAIM_PAGES})"))?;
    let mut pages = statement.query([])?;
    while pages.next()?.is_some() {}
    Ok(number("PRAGMA freelist_count")? > 0)
}

/// Moves the write-ahead log into the file and empties it. Returns `false` if a reader prevents it for longer
/// than `limit`.
fn truncate_log(connection: &Connection, limit: Duration) -> bool {
    let truncated = connection.busy_timeout(limit).and_then(|()| {
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i64>(0)
        })
    });
    let restored = connection.busy_timeout(BUSY_LIMIT);
    match truncated.and_then(|busy| restored.map(|()| busy)) {
        Ok(busy) => busy == 0,
        Err(error) => {
            tracing::warn!(%error, "the store cannot truncate its write-ahead log");
            false
        }
    }
}
