//! Snapshots in MongoDB: one document for each piece, and a head that is written last.

use mongodb::bson::doc;
use uuid::Uuid;

use super::MongoStore;
use super::error::{damaged, unless_duplicate, with_timeout};
use super::vault::binary;
use crate::core::ids::Position;
use crate::ports::error::StoreError;
use crate::ports::event_log::{BEGINNING_FOLD, SnapshotHead};

impl MongoStore {
    pub(super) async fn load_snapshot_head(
        &self,
        fold: u32,
    ) -> Result<Option<SnapshotHead>, StoreError> {
        let filter = doc! { "_id": head_id(fold) };
        let Some(head) = with_timeout(self.snapshots.find_one(filter)).await? else {
            return Ok(None);
        };
        // A head without pieces is a snapshot of an early version, which is not used.
        let (Ok(id), Ok(pieces)) = (head.get_str("snapshot"), head.get_i64("pieces")) else {
            return Ok(None);
        };
        let position = head.get_i64("position").map_err(damaged)?;
        Ok(Some(SnapshotHead {
            id: id.parse().map_err(damaged)?,
            fold,
            at: Position(position as u64),
            pieces: pieces as u32,
        }))
    }

    pub(super) async fn load_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let filter = doc! { "_id": piece_id(snapshot.id, n) };
        let piece = with_timeout(self.snapshots.find_one(filter)).await?;
        piece
            .map(|piece| piece.get_binary_generic("bytes").cloned().map_err(damaged))
            .transpose()
    }

    pub(super) async fn store_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let piece = doc! {
            "_id": piece_id(snapshot.id, snapshot.pieces),
            "bytes": binary(bytes),
            "fold": i64::from(snapshot.fold),
            "position": snapshot.at.0 as i64,
            "snapshot": snapshot.id.to_string(),
        };
        with_timeout(self.snapshots.insert_one(piece)).await?;
        Ok(())
    }

    /// Makes the snapshot the newest of its fold, unless a slow writer comes too late, and removes
    /// the pieces that no head names.
    pub(super) async fn store_snapshot_head(
        &self,
        snapshot: &SnapshotHead,
    ) -> Result<(), StoreError> {
        let fold = i64::from(snapshot.fold);
        let position = snapshot.at.0 as i64;
        let id = snapshot.id.to_string();
        // If a newer head exists, the filter finds nothing, and the upsert is a duplicate.
        let older = doc! { "_id": head_id(snapshot.fold), "position": { "$lt": position } };
        let head = doc! { "$set": {
            "position": position, "snapshot": &id, "pieces": i64::from(snapshot.pieces),
        } };
        let stored = self.snapshots.update_one(older, head).upsert(true);
        let is_newest = unless_duplicate(stored).await?.is_some();
        let unused = if is_newest {
            // A program of an earlier version that still runs folds the log at its next start. The
            // beginning replaces only an earlier beginning.
            let folds = if snapshot.fold == BEGINNING_FOLD {
                doc! { "$eq": fold }
            } else {
                doc! { "$lte": fold }
            };
            doc! { "fold": folds, "position": { "$lte": position }, "snapshot": { "$ne": &id } }
        } else {
            doc! { "fold": fold, "snapshot": &id }
        };
        with_timeout(self.snapshots.delete_many(unused)).await?;
        Ok(())
    }
}

fn head_id(fold: u32) -> String {
    format!("{fold}")
}

fn piece_id(snapshot: Uuid, n: u32) -> String {
    format!("{snapshot}/{n}")
}
