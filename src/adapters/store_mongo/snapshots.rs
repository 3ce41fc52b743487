//! Snapshots in MongoDB: a document a piece, and a head that is written last.

use mongodb::bson::{Document, doc};
use uuid::Uuid;

use super::vault::binary;
use super::{MongoStore, damaged, is_duplicate, with_timeout};
use crate::core::ids::Position;
use crate::ports::error::StoreError;
use crate::ports::event_log::SnapshotHead;

impl MongoStore {
    pub(super) async fn head_of_snapshots(
        &self,
        fold: u32,
    ) -> Result<Option<SnapshotHead>, StoreError> {
        let Some(head) =
            with_timeout(self.snapshots.find_one(doc! { "_id": head_id(fold) })).await?
        else {
            return Ok(None);
        };
        // One that an earlier version has written says nothing of pieces.
        let (Ok(id), Ok(pieces)) = (head.get_str("snapshot"), head.get_i64("pieces")) else {
            return Ok(None);
        };
        let at = Position(head.get_i64("position").map_err(damaged)? as u64);
        Ok(Some(SnapshotHead {
            id: id.parse().map_err(damaged)?,
            fold,
            at,
            pieces: pieces as u32,
        }))
    }

    pub(super) async fn piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let piece = with_timeout(
            self.snapshots
                .find_one(doc! { "_id": piece_id(snapshot.id, n) }),
        )
        .await?;
        piece
            .map(|piece| piece.get_binary_generic("bytes").cloned().map_err(damaged))
            .transpose()
    }

    pub(super) async fn put_piece(
        &self,
        snapshot: &SnapshotHead,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let SnapshotHead {
            id,
            fold,
            at,
            pieces,
        } = *snapshot;
        let of =
            doc! { "fold": i64::from(fold), "position": at.0 as i64, "snapshot": id.to_string() };
        let mut piece = doc! { "_id": piece_id(id, pieces), "bytes": binary(bytes) };
        piece.extend(of);
        with_timeout(self.snapshots.insert_one(piece))
            .await
            .map(drop)
    }

    pub(super) async fn finish(&self, snapshot: &SnapshotHead) -> Result<(), StoreError> {
        let SnapshotHead {
            id,
            fold,
            at,
            pieces,
        } = *snapshot;
        let (fold, position, id) = (i64::from(fold), at.0 as i64, id.to_string());
        // A slow older snapshot must not replace a newer one: where one is there, this is a duplicate.
        let older = doc! { "_id": head_id(snapshot.fold), "position": { "$lt": position } };
        let head =
            doc! { "$set": { "position": position, "snapshot": &id, "pieces": i64::from(pieces) } };
        let newest = match self.snapshots.update_one(older, head).upsert(true).await {
            Ok(_) => true,
            Err(error) if is_duplicate(&error) => false,
            Err(error) => return Err(super::failed(&error)),
        };
        let in_vain: Document = match newest {
            // Those of earlier programs too: one that still runs folds the log at its next start.
            true => {
                doc! { "fold": { "$lte": fold }, "position": { "$lte": position }, "snapshot": { "$ne": &id } }
            }
            false => doc! { "fold": fold, "snapshot": &id },
        };
        with_timeout(self.snapshots.delete_many(in_vain))
            .await
            .map(drop)
    }
}

fn head_id(fold: u32) -> String {
    format!("{fold}")
}

fn piece_id(snapshot: Uuid, n: u32) -> String {
    format!("{snapshot}/{n}")
}
