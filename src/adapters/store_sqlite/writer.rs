//! The one writer: a thread that commits whatever waits in one transaction (group commit).

use std::thread;

use rusqlite::{Connection, Transaction};
use tokio::sync::{mpsc, oneshot};

use super::failed;
use crate::ports::error::StoreError;

/// Writes that may wait; a sender past that waits itself.
const WAITING: usize = 1024;
/// Writes in one transaction.
const BATCH: usize = 256;

/// One write: does its work inside the transaction, and returns what answers it after the commit.
type Write = Box<dyn FnOnce(&Transaction<'_>) -> WriteResult + Send>;
/// Told whether the transaction was committed.
type WriteResult = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

pub struct Writer {
    queue: mpsc::Sender<Write>,
}

impl Writer {
    pub fn start(connection: Connection) -> Result<Self, StoreError> {
        let (queue, waiting) = mpsc::channel(WAITING);
        thread::Builder::new()
            .name("sqlite-writer".into())
            .spawn(move || write_all(connection, waiting))
            .map_err(|error| StoreError(error.to_string()))?;
        Ok(Self { queue })
    }

    /// Runs `work` in the next transaction and answers when that is on disk. An error of `work`
    /// undoes its own writes and nobody else's.
    pub async fn write<T, E>(
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
                let _ = answer.send(committed.map_err(E::from).and(result));
            })
        });
        let gone = || E::from(StoreError("the writer has stopped".into()));
        self.queue.send(write).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

/// A savepoint a write, so that one that fails half-way leaves nothing in the others' transaction.
fn isolated<T, E: From<StoreError>>(
    transaction: &Transaction<'_>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<T, E> {
    let run = |sql| {
        transaction
            .prepare_cached(sql)
            .and_then(|mut s| s.execute([]))
            .map_err(|e| E::from(failed(e)))
    };
    run("SAVEPOINT one")?;
    let result = work(transaction);
    if result.is_err() {
        run("ROLLBACK TO one")?;
    }
    run("RELEASE one")?;
    result
}

fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Write>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        let mut answers = Vec::with_capacity(batch.len());
        let committed = commit(&mut connection, batch.drain(..), &mut answers);
        if let Err(error) = &committed {
            tracing::error!(%error, "writes were lost before they were acknowledged");
        }
        for answer in answers {
            answer(committed.clone());
        }
    }
}

fn commit(
    connection: &mut Connection,
    batch: impl Iterator<Item = Write>,
    answers: &mut Vec<WriteResult>,
) -> Result<(), StoreError> {
    let transaction = connection.transaction().map_err(failed)?;
    answers.extend(batch.map(|write| write(&transaction)));
    transaction.commit().map_err(failed)
}
