//! Snapshots in SQLite: one row for each piece, and a head that is written last.

use rusqlite::{OptionalExtension, Row, Transaction, params};
use uuid::Uuid;

use super::SqliteStore;
use super::error::store_error;
use crate::core::ids::Position;
use crate::ports::error::StoreError;
use crate::ports::event_log::SnapshotHead;

impl SqliteStore {
    pub(super) async fn load_snapshot_head(
        &self,
        fold: u32,
    ) -> Result<Option<SnapshotHead>, StoreError> {
        let sql = "SELECT id, position, pieces FROM snapshot_head WHERE fold = ?1";
        let head = move |row: &Row<'_>| {
            Ok(SnapshotHead {
                id: Uuid::from_bytes(row.get(0)?),
                fold,
                at: Position(row.get::<_, i64>(1)? as u64),
                pieces: row.get(2)?,
            })
        };
        self.readers
            .read(move |connection| connection.query_row(sql, params![fold], head).optional())
            .await
    }

    pub(super) async fn load_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        n: u32,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT bytes FROM snapshot_piece WHERE id = ?1 AND n = ?2";
        let id = snapshot.id;
        self.readers
            .read(move |connection| {
                let bytes = connection.query_row(sql, params![id.as_bytes(), n], |row| row.get(0));
                bytes.optional()
            })
            .await
    }

    pub(super) async fn store_snapshot_piece(
        &self,
        snapshot: &SnapshotHead,
        piece: Vec<u8>,
    ) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO snapshot_piece (id, n, fold, position, bytes) VALUES (?1, ?2, ?3, ?4, ?5)";
        let head = *snapshot;
        let insert = move |transaction: &Transaction<'_>| {
            let id = head.id.as_bytes();
            let values = params![id, head.pieces, head.fold, head.at.0 as i64, piece];
            let inserted = transaction.execute(sql, values);
            inserted.map(|_| ()).map_err(store_error)
        };
        self.writer.write(insert).await
    }

    /// Makes the snapshot the newest of its fold, unless a slow writer comes too late, and removes
    /// the pieces of older snapshots.
    pub(super) async fn store_snapshot_head(
        &self,
        snapshot: &SnapshotHead,
    ) -> Result<(), StoreError> {
        let newest =
            "INSERT INTO snapshot_head (fold, id, position, pieces) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (fold) DO UPDATE SET id = excluded.id, position = excluded.position,
             pieces = excluded.pieces WHERE excluded.position > snapshot_head.position";
        let unused = "DELETE FROM snapshot_piece WHERE fold = ?1 AND position <= ?2
                      AND id <> (SELECT id FROM snapshot_head WHERE fold = ?1)";
        let head = *snapshot;
        let finish = move |transaction: &Transaction<'_>| {
            let position = head.at.0 as i64;
            let values = params![head.fold, head.id.as_bytes(), position, head.pieces];
            transaction.execute(newest, values).map_err(store_error)?;
            let removed = transaction.execute(unused, params![head.fold, position]);
            removed.map(|_| ()).map_err(store_error)
        };
        self.writer.write(finish).await
    }
}
