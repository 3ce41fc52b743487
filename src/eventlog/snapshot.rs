//! Stores a catalog and loads it again, piece by piece, so that neither needs memory for a second
//! catalog.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::core::catalog::{Catalog, FOLD_VERSION};
use crate::ports::error::StoreError;
use crate::ports::event_log::{EventLog, SnapshotHead};
use crate::telemetry::error::error_chain;

/// Bytes of one piece, far below the limit of a MongoDB document.
const PIECE: usize = 1 << 20;
/// Pieces in memory between the store and the task that encodes or decodes them.
const PIECES_IN_FLIGHT: usize = 2;
/// Ends each text of a catalog and occurs in none: the record separator of RFC 7464.
const SEPARATOR: u8 = 0x1e;
/// Attempts to load a snapshot while other processes replace it.
const LOAD_ATTEMPTS: u32 = 3;

/// Loads the newest snapshot of this fold version. Returns `None` if there is none, or if it
/// cannot be decoded; the caller then folds the whole log.
///
/// # Errors
/// Returns an error if the store cannot be read.
pub async fn load_snapshot(log: &dyn EventLog) -> Result<Option<Catalog>, StoreError> {
    for _ in 0..LOAD_ATTEMPTS {
        let Some(head) = log.newest_snapshot(FOLD_VERSION).await? else {
            return Ok(None);
        };
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let decoding = spawn_blocking(move || decode_catalog(PieceReader::new(receiver)));
        let is_complete = send_pieces(log, &head, pieces).await?;
        let decoded = decoding
            .await
            .map_err(|error| StoreError(error.to_string()))?;
        match decoded {
            Ok(catalog) => return Ok(Some(catalog)),
            Err(error) if is_complete => {
                tracing::warn!(
                    error = %error_chain(&error),
                    "the snapshot cannot be decoded; folding the whole log"
                );
                return Ok(None);
            }
            // Another process has replaced the snapshot during the read.
            Err(_) => {}
        }
    }
    Ok(None)
}

/// Sends the pieces of a snapshot to the decoder. Returns false if another process has replaced
/// the snapshot.
async fn send_pieces(
    log: &dyn EventLog,
    head: &SnapshotHead,
    pieces: mpsc::Sender<Vec<u8>>,
) -> Result<bool, StoreError> {
    for number in 0..head.pieces {
        let Some(piece) = log.snapshot_piece(head, number).await? else {
            return Ok(false);
        };
        // The decoder stops at the first error.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(true)
}

/// Stores a catalog, unless the store has a newer snapshot.
///
/// # Errors
/// Returns an error if the catalog cannot be encoded or the store cannot be written.
pub async fn save_snapshot(log: &dyn EventLog, catalog: Arc<Catalog>) -> Result<(), StoreError> {
    let mut head = SnapshotHead {
        id: Uuid::now_v7(),
        fold: FOLD_VERSION,
        at: catalog.position,
        pieces: 0,
    };
    let (pieces, mut encoded) = mpsc::channel(PIECES_IN_FLIGHT);
    let encoding = spawn_blocking(move || encode_catalog(&catalog, PieceWriter::new(pieces)));
    while let Some(piece) = encoded.recv().await {
        log.put_snapshot_piece(&head, piece).await?;
        head.pieces += 1;
    }
    let result = encoding
        .await
        .map_err(|error| StoreError(error.to_string()))?;
    result.map_err(|error| StoreError(format!("the snapshot cannot be encoded: {error}")))?;
    log.finish_snapshot(&head).await
}

fn encode_catalog(catalog: &Catalog, mut writer: PieceWriter) -> io::Result<()> {
    for text in catalog.snapshot() {
        writer.write_all(&text?)?;
        writer.write_all(&[SEPARATOR])?;
    }
    writer.send_piece()
}

fn decode_catalog(mut reader: impl BufRead) -> io::Result<Catalog> {
    let mut catalog = Catalog::default();
    let mut text = Vec::new();
    loop {
        text.clear();
        reader.read_until(SEPARATOR, &mut text)?;
        if text.pop() != Some(SEPARATOR) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if catalog.restore_part(&text)? {
            return Ok(catalog);
        }
    }
}

/// Cuts the encoded catalog into pieces and sends them to the task that stores them.
struct PieceWriter {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl PieceWriter {
    fn new(pieces: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            pieces,
            piece: Vec::with_capacity(PIECE),
        }
    }

    fn send_piece(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.pieces
            .blocking_send(piece)
            .map_err(|_| io::Error::other("the store accepts no more pieces"))
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.send_piece()?;
        }
        let written = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the pieces that the store sends as one text.
struct PieceReader {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    consumed: usize,
}

impl PieceReader {
    fn new(pieces: mpsc::Receiver<Vec<u8>>) -> Self {
        Self {
            pieces,
            piece: vec![],
            consumed: 0,
        }
    }
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.piece.len() {
            self.piece = self.pieces.blocking_recv().unwrap_or_default();
            self.consumed = 0;
        }
        Ok(&self.piece[self.consumed..])
    }

    fn consume(&mut self, bytes: usize) {
        self.consumed += bytes;
    }
}

impl Read for PieceReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
