//! The event log: the ordered list of all entries.

use async_trait::async_trait;
use uuid::Uuid;

use super::error::StoreError;
use super::vault::VaultValue;
use crate::core::event::Entry;
use crate::core::ids::{CommandId, Position};

/// The number under which the beginning of a shortened log is stored, in place of a fold version. The
/// beginning is a snapshot that no other snapshot replaces.
pub const BEGINNING_FOLD: u32 = 1_000_000;

/// The reason why an append failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// Another process has appended at this position. The appender reads the entry and decides again.
    #[error("the position is taken")]
    Taken,
    /// The log already holds a commit of this command.
    #[error("command {0} is in the log already")]
    Repeated(CommandId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A total order of entries without gaps. An acknowledged entry survives `kill -9` and a power cut.
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Returns the most bytes of the commits of one entry, as JSON. A larger append is `TooLarge`.
    fn max_entry_bytes(&self) -> usize;
    /// Appends an entry at `entry.position`, which must follow the head. The position is the only
    /// lock. The Vault holds `values`, which the events name, before a reader sees the entry, and it
    /// may hold them after a failure.
    async fn append(&self, entry: &Entry, values: &[VaultValue]) -> Result<(), AppendError>;
    /// Stores values before the append, and returns the values that go with the append itself. A
    /// store that writes both in one transaction returns all of them.
    async fn prepare_values(&self, values: Vec<VaultValue>) -> Result<Vec<VaultValue>, StoreError> {
        Ok(values)
    }
    /// Returns the newest position, or 0 for an empty log.
    async fn head(&self) -> Result<Position, StoreError>;
    /// Returns the entries after `after` in order, up to both limits. The result is empty only if the
    /// log ends at `after`. It has a gap only where [`EventLog::remove_entries`] has removed entries;
    /// `eventlog::reader` finds the gap.
    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, StoreError>;
    /// Returns a text that no other log has, except a physical copy of this one. A log of one process needs none.
    fn identity(&self) -> Option<&str> {
        None
    }
    /// Records that the entry at this position is in the log, because another process has appended it.
    fn record_entry(&self, _position: Position) {}
    /// Returns the position of the commit of a command.
    async fn find_commit(&self, command: CommandId) -> Result<Option<Position>, StoreError>;
    /// Returns the newest finished snapshot of a fold version.
    async fn newest_snapshot(&self, fold: u32) -> Result<Option<SnapshotHead>, StoreError>;
    /// Returns one piece of a snapshot, or `None` if another snapshot has replaced it.
    async fn snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError>;
    /// Stores the next piece of a snapshot, which has `snapshot.pieces` pieces so far.
    async fn put_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError>;
    /// Makes the snapshot the newest, unless a newer snapshot exists, and removes all pieces that no
    /// snapshot needs.
    async fn finish_snapshot(&self, snapshot: &SnapshotHead) -> Result<(), StoreError>;
    /// Removes the oldest entries, none after `through`, up to the limit, with the index of their
    /// commands. Returns the number of removed entries. The newest entry always stays.
    async fn remove_entries(&self, through: Position, limit: ReadLimit) -> Result<u64, StoreError>;
    /// Gives the space of removed entries back to the file system, if the store can.
    async fn reclaim_space(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The limits of one read or removal. It covers at least one entry, however large the entry is.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// The most entries.
    pub entries: usize,
    /// The read ends with the entry that reaches this number of stored bytes.
    pub bytes: usize,
}

impl ReadLimit {
    /// Returns a limit of entries without a limit of bytes.
    pub const fn entries(entries: usize) -> Self {
        Self {
            entries,
            bytes: usize::MAX,
        }
    }
}

/// A stored catalog. Its bytes are in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Tells two snapshots of one position apart.
    pub id: Uuid,
    pub fold: u32,
    pub at: Position,
    pub pieces: u32,
}
