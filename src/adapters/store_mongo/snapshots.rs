//! Snapshots in MongoDB: pieces below the size of a document, and a head that is written last.

use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};

use super::{MongoStore, damaged, duplicate, failed, timely};
use crate::core::names::Position;
use crate::ports::StoreError;

/// Bytes of one piece.
const PIECE: usize = 8 << 20;

impl MongoStore {
    /// The newest whole snapshot of that fold version.
    pub(super) async fn newest_snapshot(&self, fold: u32) -> Result<Option<Vec<u8>>, StoreError> {
        // Its pieces may go while they are read, because a newer one is there: then that one is read.
        for _ in 0..3 {
            let Some(head) = timely(self.snapshots.find_one(doc! { "_id": head_id(fold) })).await? else {
                return Ok(None);
            };
            let (position, length) =
                (head.get_i64("position").map_err(damaged)?, head.get_i64("length").map_err(damaged)?);
            let bytes = self.pieces(fold, position).await?;
            if bytes.len() as i64 == length {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    async fn pieces(&self, fold: u32, position: i64) -> Result<Vec<u8>, StoreError> {
        let found =
            self.snapshots.find(doc! { "fold": i64::from(fold), "position": position }).sort(doc! { "number": 1 });
        // Large, and read at start alone: no limit but the driver's.
        let pieces: Vec<Document> =
            async { found.await?.try_collect().await }.await.map_err(|error: mongodb::error::Error| failed(&error))?;
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend_from_slice(piece.get_binary_generic("bytes").map_err(damaged)?);
        }
        Ok(bytes)
    }

    /// Keeps a snapshot, and lets go of those before it.
    pub(super) async fn put_snapshot(&self, fold: u32, at: Position, bytes: &[u8]) -> Result<(), StoreError> {
        let (number, position) = (i64::from(fold), at.0 as i64);
        let head = timely(self.snapshots.find_one(doc! { "_id": head_id(fold) })).await?;
        if head.is_some_and(|head| head.get_i64("position").is_ok_and(|there| there >= position)) {
            return Ok(());
        }
        for (n, piece) in bytes.chunks(PIECE).enumerate() {
            let id = format!("{fold}/{position}/{n}");
            let binary = Binary { subtype: BinarySubtype::Generic, bytes: piece.to_vec() };
            let piece = doc! { "_id": &id, "fold": number, "position": position, "number": n as i64, "bytes": binary };
            let put = self.snapshots.replace_one(doc! { "_id": &id }, piece).upsert(true);
            put.await.map_err(|error| failed(&error))?;
        }
        // A slow older snapshot must not replace a newer one: where one is there, this is a duplicate.
        let older = doc! { "_id": head_id(fold), "position": { "$lt": position } };
        let head = doc! { "$set": { "position": position, "length": bytes.len() as i64 } };
        match self.snapshots.update_one(older, head).upsert(true).await {
            Err(error) if duplicate(&error).is_none() => return Err(failed(&error)),
            _ => {}
        }
        let old = doc! { "fold": number, "position": { "$lt": position } };
        self.snapshots.delete_many(old).await.map(drop).map_err(|error| failed(&error))
    }
}

fn head_id(fold: u32) -> String {
    format!("{fold}")
}
