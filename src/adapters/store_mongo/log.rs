//! The log in MongoDB: a document per append, whose `_id` is its position.
//!
//! `commits` names the commands, for the unique index, and the types of their events, for whoever looks at
//! it; the commits themselves are JSON text, since BSON knows no unsigned and no large numbers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::options::ReadConcern;
use tokio::time::Instant;

use super::{MongoStore, damaged, failed, is_duplicate, with_timeout};
use crate::core::event::Entry;
use crate::core::ids::{CommandId, Position};
use crate::ports::error::StoreError;
use crate::ports::event_log::{AppendError, EventLog, ReadLimit, SnapshotHead};
use crate::ports::vault::VaultValue;
use crate::time::clock::monotonic;

/// How long an append whose outcome is unknown is looked into.
const RESOLVE: Duration = Duration::from_secs(6);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(3);
const AGAIN: Duration = Duration::from_millis(100);
/// Bytes of commits in one document, below MongoDB's 16 MB.
const LARGEST: usize = 15 << 20;

/// What one attempt to insert has shown.
enum InsertOutcome {
    Done,
    Taken,
    /// One of its commands is in the log already.
    Repeated,
    /// It was not sent.
    Away(StoreError),
    /// It may have been carried out.
    Unknown(StoreError),
}

#[async_trait]
impl EventLog for MongoStore {
    async fn append(&self, entry: &Entry, values: &[VaultValue]) -> Result<(), AppendError> {
        if entry.position == Position(0) {
            // Nothing is before the first.
            return Err(AppendError::Taken);
        }
        self.check_gap(entry.position).await?;
        let document = encode(entry)?;
        self.put_all(values).await?;
        let until = monotonic() + RESOLVE;
        let mut sent = false;
        loop {
            // Inserting the same again is how an unknown outcome becomes known: its keys are unique.
            match self.insert(&document, sent).await {
                InsertOutcome::Done => {
                    self.known.fetch_max(entry.position.0, Ordering::AcqRel);
                    return Ok(());
                }
                InsertOutcome::Taken => return Err(AppendError::Taken),
                InsertOutcome::Repeated => return Err(self.repeated(entry, until).await),
                InsertOutcome::Away(error) if !sent => return Err(error.into()),
                InsertOutcome::Away(error) | InsertOutcome::Unknown(error) => {
                    sent = true;
                    if monotonic() >= until {
                        let unknown =
                            format!("whether the change was made is not known yet: {}", error.0);
                        return Err(StoreError(unknown).into());
                    }
                    tracing::warn!(%error, position = %entry.position, "an append has no answer; asking again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Without a transaction it cannot be done at once; and whoever waits for a turn may as well put meanwhile.
    async fn prepare_values(&self, values: Vec<VaultValue>) -> Result<Vec<VaultValue>, StoreError> {
        self.put_all(&values).await.map(|()| vec![])
    }

    async fn head(&self) -> Result<Position, StoreError> {
        let newest = with_timeout(
            self.log
                .find_one(doc! {})
                .sort(doc! { "_id": -1 })
                .projection(doc! { "_id": 1 }),
        )
        .await?;
        let head = match newest {
            Some(newest) => newest.get_i64("_id").map_err(damaged)? as u64,
            None => 0,
        };
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
            .map(|document| decode(Document::try_from(document).map_err(damaged)?))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(newest) = entries.last() {
            self.known.fetch_max(newest.position.0, Ordering::AcqRel);
        }
        Ok(entries)
    }

    async fn find_commit(&self, command: CommandId) -> Result<Option<Position>, StoreError> {
        let named = doc! { "commits.commandId": command.to_string() };
        let found = with_timeout(self.log.find_one(named).projection(doc! { "_id": 1 })).await?;
        found
            .map(|found| Ok(Position(found.get_i64("_id").map_err(damaged)? as u64)))
            .transpose()
    }

    async fn newest_snapshot(&self, fold: u32) -> Result<Option<SnapshotHead>, StoreError> {
        self.head_of_snapshots(fold).await
    }

    async fn snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.piece(snapshot, n).await
    }

    async fn put_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError> {
        self.put_piece(snapshot, &piece).await
    }

    async fn finish_snapshot(&self, snapshot: &SnapshotHead) -> Result<(), StoreError> {
        self.finish(snapshot).await
    }
}

impl MongoStore {
    /// What an appender has read or written is there; only a position that comes from nowhere is looked up.
    async fn check_gap(&self, position: Position) -> Result<(), StoreError> {
        let before = position.0.saturating_sub(1);
        if before <= self.known.load(Ordering::Acquire) {
            return Ok(());
        }
        let head = self.head().await?;
        if before <= head.0 {
            return Ok(());
        }
        Err(StoreError(format!(
            "append at {position} after {head} would leave a gap"
        )))
    }

    /// Inserts, for the first time or again: then a duplicate may be one's own. (What the driver itself sends again
    /// the server knows by the number of the write.)
    async fn insert(&self, document: &Document, again: bool) -> InsertOutcome {
        let error = match tokio::time::timeout(ATTEMPT, self.log.insert_one(document).into_future())
            .await
        {
            Ok(Ok(_)) => return InsertOutcome::Done,
            Ok(Err(error)) => error,
            Err(_) => {
                return InsertOutcome::Unknown(StoreError("MongoDB did not answer".to_owned()));
            }
        };
        if is_duplicate(&error) {
            return self.resolve_duplicate(document, again).await;
        }
        match &*error.kind {
            ErrorKind::ServerSelection { .. } => InsertOutcome::Away(failed(&error)),
            _ if was_refused(&error) => InsertOutcome::Away(failed(&error)),
            _ => InsertOutcome::Unknown(failed(&error)),
        }
    }

    /// Finds out which unique key refused a document: its position, or one of its commands. A document that an
    /// earlier attempt inserted (`again`) counts as stored after a majority has it.
    async fn resolve_duplicate(&self, document: &Document, again: bool) -> InsertOutcome {
        let position = doc! { "_id": document.get("_id") };
        let existing = with_timeout(
            self.log
                .find_one(position.clone())
                .read_concern(ReadConcern::local()),
        )
        .await;
        match existing {
            Err(error) => InsertOutcome::Unknown(error),
            Ok(None) => InsertOutcome::Repeated,
            Ok(Some(existing)) if again && existing.get("body") == document.get("body") => {
                match with_timeout(self.log.find_one(position).projection(doc! { "_id": 1 })).await
                {
                    Ok(Some(_)) => InsertOutcome::Done,
                    Ok(None) => InsertOutcome::Unknown(StoreError(
                        "a majority has not stored it yet".to_owned(),
                    )),
                    Err(error) => InsertOutcome::Unknown(error),
                }
            }
            Ok(Some(_)) => InsertOutcome::Taken,
        }
    }

    /// Which of its commands is in the log, as a majority knows it.
    async fn repeated(&self, entry: &Entry, until: Instant) -> AppendError {
        loop {
            for commit in &entry.commits {
                match self.find_commit(commit.command_id).await {
                    Ok(Some(_)) => return AppendError::Repeated(commit.command_id),
                    Ok(None) => {}
                    Err(error) => return error.into(),
                }
            }
            if monotonic() >= until {
                return StoreError("a repeated command cannot be found".to_owned()).into();
            }
            tokio::time::sleep(AGAIN / 10).await;
        }
    }
}

/// Whether the server itself says that it has done nothing.
fn was_refused(error: &Error) -> bool {
    /// Unauthorized, AuthenticationFailed, BSONObjectTooLarge, IllegalOperation: no later attempt differs.
    const REFUSED: [i32; 4] = [13, 18, 10334, 20];
    matches!(&*error.kind, ErrorKind::Command(error) if REFUSED.contains(&error.code))
        || matches!(
            &*error.kind,
            ErrorKind::Authentication { .. } | ErrorKind::InvalidArgument { .. }
        )
}

fn encode(entry: &Entry) -> Result<Document, AppendError> {
    let body =
        serde_json::to_string(&entry.commits).map_err(|error| StoreError(error.to_string()))?;
    if body.len() > LARGEST {
        let large = format!(
            "the change has {} bytes, and MongoDB takes {LARGEST} in one document",
            body.len()
        );
        return Err(StoreError(large).into());
    }
    let mut ids = std::collections::HashSet::new();
    let mut commits = Vec::with_capacity(entry.commits.len());
    for commit in &entry.commits {
        // A unique index tells documents apart, and not the parts of one.
        if !ids.insert(commit.command_id) {
            return Err(AppendError::Repeated(commit.command_id));
        }
        let types: Vec<_> = commit
            .events
            .iter()
            .map(|event| Bson::from(event.type_name.clone()))
            .collect();
        commits.push(Bson::from(
            doc! { "commandId": commit.command_id.to_string(), "events": types },
        ));
    }
    Ok(
        doc! { "_id": entry.position.0 as i64, "at": entry.at as i64, "commits": commits, "body": body },
    )
}

fn decode(document: Document) -> Result<Entry, StoreError> {
    let position = document.get_i64("_id").map_err(damaged)? as u64;
    let broken =
        |what: String| StoreError(format!("the log's document {position} is damaged: {what}"));
    let at = document
        .get_i64("at")
        .map_err(|error| broken(error.to_string()))? as u64;
    let body = document
        .get_str("body")
        .map_err(|error| broken(error.to_string()))?;
    let commits = serde_json::from_str(body).map_err(|error| broken(error.to_string()))?;
    Ok(Entry {
        position: Position(position),
        at,
        commits,
    })
}
