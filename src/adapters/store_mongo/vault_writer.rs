//! Inserts sealed values. All values that wait are one insert, because the server flushes its journal for each insert.

use futures::future::try_join_all;
use mongodb::Collection;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::error::{Error, ErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::error::{DUPLICATE_KEY, OPERATION_LIMIT, timed_out, with_timeout};
use super::vault::binary;
use crate::ports::error::StoreError;
use crate::ports::vault::VaultValue;

/// Values that wait for the writer. The sender of one more value waits itself.
const QUEUE_LENGTH: usize = 256;
/// The most values in one insert.
const BATCH: usize = 128;
/// The most inserts at the same time.
const MAX_INSERTS: usize = 2;
/// An insert takes no further value after this many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// The most bytes of one value. The rest of the 16 MiB of a document is for the other fields.
const MAX_VALUE: usize = (16 << 20) - (64 << 10);
/// The server replaces this time by its own.
const SERVER_TIME: Bson = Bson::Timestamp(Timestamp {
    time: 0,
    increment: 0,
});

struct PendingValue {
    value: VaultValue,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// Sends values to the writer task of this process.
pub(super) struct VaultWriter {
    queue: mpsc::Sender<PendingValue>,
    task: JoinHandle<()>,
}

impl VaultWriter {
    /// Starts the writer task.
    pub(super) fn start(vault: Collection<Document>) -> Self {
        let (queue, pending) = mpsc::channel(QUEUE_LENGTH);
        let task = tokio::spawn(insert_batches(vault, pending));
        Self { queue, task }
    }

    /// Stores a value. A value that is stored already does not change.
    ///
    /// # Errors
    /// Returns an error if the value is too large, or if the server does not confirm it within 4 seconds.
    pub(super) async fn put(&self, value: VaultValue) -> Result<(), StoreError> {
        let bytes = value.sealed.0.len();
        if bytes > MAX_VALUE {
            let limit = MAX_VALUE;
            return Err(StoreError::TooLarge { bytes, limit });
        }
        let (answer, answered) = oneshot::channel();
        let inserting = async {
            let pending = PendingValue { value, answer };
            self.queue.send(pending).await.ok()?;
            answered.await.ok()
        };
        match timeout(OPERATION_LIMIT, inserting).await {
            Ok(answer) => answer.unwrap_or(Err(StoreError::Stopping)),
            Err(_) => Err(timed_out()),
        }
    }

    /// Stores several values.
    ///
    /// # Errors
    /// Returns the first error. The other values may be stored.
    pub(super) async fn put_all(&self, values: &[VaultValue]) -> Result<(), StoreError> {
        try_join_all(values.iter().map(|value| self.put(value.clone()))).await?;
        Ok(())
    }
}

impl Drop for VaultWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn insert_batches(vault: Collection<Document>, mut queue: mpsc::Receiver<PendingValue>) {
    let mut next = None;
    let mut inserts = JoinSet::new();
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match queue.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        // One slow insert does not delay the other values. More inserts at the same time would be smaller.
        if inserts.len() == MAX_INSERTS {
            inserts.join_next().await;
        }
        // Other tasks that are ready may have values too.
        tokio::task::yield_now().await;
        let batch;
        (batch, next) = take_batch(first, &mut queue);
        inserts.spawn(insert_batch(vault.clone(), batch));
        while inserts.try_join_next().is_some() {}
    }
}

/// Returns the values of one insert, and a value that does not fit. Drops the value of a caller that has left.
fn take_batch(
    first: PendingValue,
    queue: &mut mpsc::Receiver<PendingValue>,
) -> (Vec<PendingValue>, Option<PendingValue>) {
    let mut bytes = 0;
    let mut batch = Vec::new();
    let mut next = Some(first);
    while let Some(pending) = next.take().or_else(|| queue.try_recv().ok()) {
        if pending.answer.is_closed() {
            continue;
        }
        bytes += pending.value.sealed.0.len();
        if !batch.is_empty() && bytes > BATCH_BYTES {
            return (batch, Some(pending));
        }
        batch.push(pending);
        if batch.len() == BATCH {
            break;
        }
    }
    (batch, None)
}

async fn insert_batch(vault: Collection<Document>, batch: Vec<PendingValue>) {
    if batch.is_empty() {
        return;
    }
    let documents: Vec<_> = batch.iter().map(|pending| encode(&pending.value)).collect();
    let inserting = vault.insert_many(documents).ordered(false);
    let inserted = with_timeout(async {
        match inserting.await {
            // A repeat, after a failure of unknown outcome, changes nothing.
            Err(error) if has_only_duplicates(&error) => Ok(()),
            other => other.map(|_| ()),
        }
    })
    .await;
    for pending in batch {
        // A caller may have left by now. The sweep of the Vault removes each value that no event names.
        let _ = pending.answer.send(inserted.clone());
    }
}

fn has_only_duplicates(error: &Error) -> bool {
    let ErrorKind::InsertMany(error) = &*error.kind else {
        return false;
    };
    let failed = error.write_errors.as_deref().unwrap_or_default();
    let are_duplicates = failed.iter().all(|error| error.code == DUPLICATE_KEY);
    error.write_concern_error.is_none() && !failed.is_empty() && are_duplicates
}

fn encode(VaultValue { id, sealed }: &VaultValue) -> Document {
    let (wrapping, rest) = sealed.clone().split();
    doc! {
        "_id": id.to_string(),
        "putAt": SERVER_TIME,
        "wrapping": binary(&wrapping),
        "sealed": binary(&rest),
    }
}
