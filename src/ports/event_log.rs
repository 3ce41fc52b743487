//!

use async_trait::async_trait;
use uuid::Uuid;

use super::error::StoreError;
use super::vault::VaultValue;
use crate::core::event::Entry;
use crate::core::ids::{CommandId, Position};

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
    async fn append(&self, entry: &Entry, values: &[VaultValue]) -> Result<(), AppendError>;
    /// Puts such values into the Vault before the append's turn has come, and gives back what is to go with the
    /// append itself: all of them, where the store does both at once.
    async fn prepare_values(&self, values: Vec<VaultValue>) -> Result<Vec<VaultValue>, StoreError> {
        Ok(values)
    }
    /// The newest position, 0 of an empty log.
    async fn head(&self) -> Result<Position, StoreError>;
    /// Returns the entries after `after`, in order and without gaps, up to both limits. The result
    /// is empty only if the log ends at `after`.
    async fn read(&self, after: Position, limit: ReadLimit) -> Result<Vec<Entry>, StoreError>;
    /// Where a command was committed.
    async fn find_commit(&self, command: CommandId) -> Result<Option<Position>, StoreError>;
    /// The newest finished snapshot of that fold version.
    async fn newest_snapshot(&self, fold: u32) -> Result<Option<SnapshotHead>, StoreError>;
    /// One of its pieces; `None` where it has been replaced.
    async fn snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError>;
    /// Puts the next piece of a snapshot that is being made: it has `snapshot.pieces` already.
    async fn put_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError>;
    /// Makes it the newest where none is as new, and drops all pieces that are in vain then.
    async fn finish_snapshot(&self, snapshot: &SnapshotHead) -> Result<(), StoreError>;
}

/// The limits of one read of the log. A read returns at least one entry, however large it is.
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

/// A catalogue in the store; its bytes lie in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotHead {
    /// Two that are made of the same position are two.
    pub id: Uuid,
    pub fold: u32,
    pub at: Position,
    pub pieces: u32,
}
