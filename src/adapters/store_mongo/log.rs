//! The log in MongoDB: one document for each entry. The `_id` of the document is the position.
//!
//! `commits` holds the ids of the commands, for the unique index, and the types of the events, for
//! people. `body` holds the commits as JSON text, because BSON has no unsigned and no large numbers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::options::ReadConcern;
use tokio::time::Instant;

use super::MongoStore;
use super::error::{
    OPERATION_LIMIT, damaged, is_duplicate, store_error, timed_out, was_refused, with_timeout,
};
use crate::core::error_chain::error_chain;
use crate::core::event::Entry;
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::{AppendError, EventLog, ReadLimit, SnapshotHead};
use crate::ports::vault::VaultValue;
use crate::time::clock::monotonic;

/// The longest time for finding the outcome of an append.
const RESOLVE_LIMIT: Duration = Duration::from_secs(6);
/// The longest time of one attempt to append.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The most bytes of the commits of one document. The rest of the 16 MiB of a document is for the
/// ids of the commands and the types of the events.
const MAX_BODY: usize = 15 << 20;
/// The most bytes of a document.
const MAX_DOCUMENT: usize = 16 << 20;

/// The outcome of one attempt to insert a document.
enum InsertOutcome {
    Stored,
    Taken,
    /// The log has one of the commands already.
    Repeated,
    /// The server has not executed the insert.
    NotExecuted(StoreError),
    /// The server may have executed the insert.
    Unknown(StoreError),
}

#[async_trait]
impl EventLog for MongoStore {
    fn max_entry_bytes(&self) -> usize {
        MAX_BODY
    }

    async fn append(&self, entry: &Entry, values: &[VaultValue]) -> Result<(), AppendError> {
        if entry.position == Position(0) {
            // No position precedes the first position.
            return Err(AppendError::Taken);
        }
        self.check_gap(entry.position).await?;
        let document = encode(entry)?;
        self.vault_writer.put_all(values).await?;
        let deadline = monotonic() + RESOLVE_LIMIT;
        let mut was_sent = false;
        loop {
            // A second insert of the same document shows the outcome of the first insert, because
            // its keys are unique.
            match self.insert(&document, was_sent).await {
                InsertOutcome::Stored => {
                    self.known.fetch_max(entry.position.0, Ordering::AcqRel);
                    return Ok(());
                }
                InsertOutcome::Taken => return Err(AppendError::Taken),
                InsertOutcome::Repeated => return Err(self.repeated(entry, deadline).await),
                InsertOutcome::NotExecuted(error) if !was_sent => return Err(error.into()),
                InsertOutcome::NotExecuted(error) | InsertOutcome::Unknown(error) => {
                    was_sent = true;
                    if monotonic() >= deadline {
                        return Err(StoreError::OutcomeUnknown(std::sync::Arc::new(error)).into());
                    }
                    tracing::warn!(
                        error = error_chain(&error),
                        position = %entry.position,
                        "the store has not confirmed an append; retrying"
                    );
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Stores the values now, because MongoDB has no transaction here, and the command may have to
    /// wait for the appender anyway.
    async fn prepare_values(&self, values: Vec<VaultValue>) -> Result<Vec<VaultValue>, StoreError> {
        self.vault_writer.put_all(&values).await?;
        Ok(vec![])
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let newest = self.log.find_one(doc! {}).sort(doc! { "_id": -1 });
        let newest = with_timeout(newest.projection(doc! { "_id": 1 })).await?;
        let head = newest.as_ref().map_or(Ok(0), position_of)?;
        self.known.fetch_max(head, Ordering::AcqRel);
        Ok(Position(head))
    }

    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, StoreError> {
        let log = self.log.clone_with_type::<RawDocumentBuf>();
        let found = log
            .find(doc! { "_id": { "$gt": after.0 as i64 } })
            .sort(doc! { "_id": 1 })
            .limit(i64::try_from(limit.entries).unwrap_or(i64::MAX))
            .projection(doc! { "at": 1, "body": 1 });
        let documents = with_timeout(async {
            let mut cursor = found.await?;
            let mut documents = Vec::new();
            let mut bytes = 0;
            while bytes < limit.bytes
                && let Some(document) = cursor.try_next().await?
            {
                bytes += document.as_bytes().len();
                documents.push(document);
            }
            Ok(documents)
        })
        .await?;
        let entries = documents
            .into_iter()
            .map(|document| decode(&Document::try_from(document).map_err(damaged)?))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(newest) = entries.last() {
            self.known.fetch_max(newest.position.0, Ordering::AcqRel);
        }
        Ok(entries)
    }

    fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    fn record_entry(&self, position: Position) {
        self.known.fetch_max(position.0, Ordering::AcqRel);
    }

    async fn find_commit(&self, command: CommandId) -> Result<Option<Position>, StoreError> {
        let filter = doc! { "commits.commandId": command.to_string() };
        let found = self.log.find_one(filter).projection(doc! { "_id": 1 });
        let found = with_timeout(found).await?;
        found
            .map(|document| position_of(&document).map(Position))
            .transpose()
    }

    async fn newest_snapshot(&self, fold: u32) -> Result<Option<SnapshotHead>, StoreError> {
        self.load_snapshot_head(fold).await
    }

    async fn snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.load_snapshot_piece(snapshot, n).await
    }

    async fn put_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.store_snapshot_piece(snapshot, &piece).await
    }

    async fn finish_snapshot(&self, snapshot: &SnapshotHead) -> Result<(), StoreError> {
        self.store_snapshot_head(snapshot).await
    }

    async fn remove_entries(&self, through: Position, limit: ReadLimit) -> Result<u64, StoreError> {
        let oldest = self.log.find_one(doc! {}).sort(doc! { "_id": 1 });
        let oldest = with_timeout(oldest.projection(doc! { "_id": 1 })).await?;
        let Some(oldest) = oldest.as_ref().map(position_of).transpose()? else {
            return Ok(0);
        };
        // The newest entry stays, because the next append follows it.
        let newest_removed = self.head().await?.0.saturating_sub(1);
        let page_end = oldest + (limit.entries as u64).saturating_sub(1);
        let last = through.0.min(newest_removed).min(page_end);
        let filter = doc! { "_id": { "$lte": last as i64 } };
        Ok(with_timeout(self.log.delete_many(filter))
            .await?
            .deleted_count)
    }
}

impl MongoStore {
    /// Checks that the entry before a position is in the log. The check asks the server only about
    /// positions that this process has neither read nor appended.
    async fn check_gap(&self, position: Position) -> Result<(), StoreError> {
        let before = position.0.saturating_sub(1);
        if before <= self.known.load(Ordering::Acquire) {
            return Ok(());
        }
        let head = self.head().await?;
        if before <= head.0 {
            return Ok(());
        }
        Err(StoreError::Gap { position, head })
    }

    /// Inserts a document. If `was_sent`, an earlier attempt may have inserted the same document. The
    /// server itself recognizes an insert that the driver has sent again.
    async fn insert(&self, document: &Document, was_sent: bool) -> InsertOutcome {
        let insert = self.log.insert_one(document).into_future();
        let error = match tokio::time::timeout(ATTEMPT_LIMIT, insert).await {
            Ok(Ok(_)) => return InsertOutcome::Stored,
            Ok(Err(error)) => error,
            Err(_) => {
                return InsertOutcome::Unknown(StoreError::TimedOut {
                    limit: ATTEMPT_LIMIT,
                });
            }
        };
        if is_duplicate(&error) {
            return self.resolve_duplicate(document, was_sent).await;
        }
        if was_refused(&error) {
            return InsertOutcome::NotExecuted(store_error(error));
        }
        InsertOutcome::Unknown(store_error(error))
    }

    /// Finds the unique key that refused a document: its position, or one of its commands. If an earlier
    /// attempt of this call inserted the document, the document is stored once a majority has it.
    async fn resolve_duplicate(&self, document: &Document, was_sent: bool) -> InsertOutcome {
        let position = doc! { "_id": document.get("_id") };
        let local = self.log.find_one(position.clone());
        let existing = with_timeout(local.read_concern(ReadConcern::local())).await;
        let existing = match existing {
            Ok(Some(existing)) => existing,
            Ok(None) => return InsertOutcome::Repeated,
            Err(error) => return InsertOutcome::Unknown(error),
        };
        if !was_sent || existing.get("body") != document.get("body") {
            return InsertOutcome::Taken;
        }
        let stored = self.log.find_one(position).projection(doc! { "_id": 1 });
        match with_timeout(stored).await {
            Ok(Some(_)) => InsertOutcome::Stored,
            Ok(None) => InsertOutcome::Unknown(timed_out()),
            Err(error) => InsertOutcome::Unknown(error),
        }
    }

    /// Finds the command of the entry that the log has already. A majority of the servers may get the
    /// commit of the command a little later.
    async fn repeated(&self, entry: &Entry, deadline: Instant) -> AppendError {
        loop {
            for commit in &entry.commits {
                match self.find_commit(commit.command_id).await {
                    Ok(Some(_)) => return AppendError::Repeated(commit.command_id),
                    Ok(None) => {}
                    Err(error) => return error.into(),
                }
            }
            if monotonic() >= deadline {
                return StoreError::TimedOut {
                    limit: OPERATION_LIMIT,
                }
                .into();
            }
            tokio::time::sleep(RETRY_PAUSE / 10).await;
        }
    }
}

fn encode(entry: &Entry) -> Result<Document, AppendError> {
    let body = serde_json::to_string(&entry.commits).map_err(StoreError::failed)?;
    if body.len() > MAX_BODY {
        return Err(too_large(body.len(), MAX_BODY));
    }
    let mut ids = std::collections::HashSet::new();
    let mut commits = Vec::with_capacity(entry.commits.len());
    for commit in &entry.commits {
        // A unique index compares documents, and not the parts of one document.
        if !ids.insert(commit.command_id) {
            return Err(AppendError::Repeated(commit.command_id));
        }
        let types: Vec<_> = commit
            .events
            .iter()
            .map(|event| Bson::from(event.type_name.clone()))
            .collect();
        let id = commit.command_id.to_string();
        commits.push(Bson::from(doc! { "commandId": id, "events": types }));
    }
    let document = doc! {
        "_id": entry.position.0 as i64,
        "at": entry.at as i64,
        "commits": commits,
        "body": body,
    };
    let bytes = RawDocumentBuf::try_from(&document)
        .map_err(StoreError::failed)?
        .as_bytes()
        .len();
    if bytes > MAX_DOCUMENT {
        return Err(too_large(bytes, MAX_DOCUMENT));
    }
    Ok(document)
}

fn too_large(bytes: usize, limit: usize) -> AppendError {
    StoreError::TooLarge { bytes, limit }.into()
}

fn position_of(document: &Document) -> Result<u64, StoreError> {
    Ok(document.get_i64("_id").map_err(damaged)? as u64)
}

fn decode(document: &Document) -> Result<Entry, StoreError> {
    let position = position_of(document)?;
    let name = || format!("entry {position} of the log");
    let at = document.get_i64("at");
    let at = at.map_err(|error| StoreError::damaged(name(), error))?;
    let body = document.get_str("body");
    let body = body.map_err(|error| StoreError::damaged(name(), error))?;
    let commits = serde_json::from_str(body);
    Ok(Entry {
        position: Position(position),
        at: at as u64,
        commits: commits.map_err(|error| StoreError::damaged(name(), error))?,
    })
}
