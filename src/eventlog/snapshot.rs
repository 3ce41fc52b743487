//! Stores a catalog and loads it again, piece by piece, so that neither needs memory for a second
//! catalog.

use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::reader::Beginning;
use crate::core::catalog::{Catalog, FOLD_VERSION};
use crate::ports::error::StoreError;
use crate::ports::event_log::{BEGINNING_FOLD, EventLog, SnapshotHead};
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
    match load(log, FOLD_VERSION, decode_catalog).await? {
        Some(Err(error)) => {
            tracing::warn!(
                error = %error_chain(&error),
                "the snapshot cannot be decoded; folding the whole log"
            );
            Ok(None)
        }
        Some(Ok(catalog)) => Ok(Some(catalog)),
        None => Ok(None),
    }
}

/// Loads the catalog at the beginning of a shortened log. Returns `None` for a log that has all its
/// entries.
///
/// # Errors
/// Returns an error if the store cannot be read, `Newer` if a newer program stored the beginning, and
/// `Damaged` if the beginning cannot be decoded. The removed entries cannot replace it.
pub async fn load_beginning(log: &dyn EventLog) -> Result<Option<Catalog>, StoreError> {
    match load(log, BEGINNING_FOLD, decode_beginning).await? {
        Some(Ok(Ok(catalog))) => Ok(Some(catalog)),
        Some(Ok(Err(newer))) => Err(newer),
        Some(Err(error)) => Err(StoreError::damaged("the beginning of the log", error)),
        None => Ok(None),
    }
}

/// Returns the place where a shortened log begins. Returns `None` for a log that has all its entries.
///
/// # Errors
/// Returns the same errors as [`load_beginning`].
pub async fn load_beginning_head(log: &dyn EventLog) -> Result<Option<Beginning>, StoreError> {
    for _ in 0..LOAD_ATTEMPTS {
        let Some(head) = log.newest_snapshot(BEGINNING_FOLD).await? else {
            return Ok(None);
        };
        // A newer beginning may replace the pieces of this one.
        if let Some(piece) = log.snapshot_piece(&head, 0).await? {
            let text = piece.split(|byte| *byte == SEPARATOR).next();
            let header: BeginningHeader = serde_json::from_slice(text.unwrap_or_default())
                .map_err(|error| StoreError::damaged("the beginning of the log", error))?;
            return Ok(Some(Beginning {
                position: head.at,
                last_index: header.last_index,
            }));
        }
    }
    Err(StoreError::Unusable("the beginning of the log is missing"))
}

/// Loads and decodes a snapshot. Returns `None` if there is none.
async fn load<T: Send + 'static>(
    log: &dyn EventLog,
    fold: u32,
    decode: fn(PieceReader) -> io::Result<T>,
) -> Result<Option<io::Result<T>>, StoreError> {
    for attempt in 1.. {
        let Some(head) = log.newest_snapshot(fold).await? else {
            break;
        };
        let (pieces, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
        let decoding = spawn_blocking(move || decode(PieceReader::new(receiver)));
        let is_complete = send_pieces(log, &head, pieces).await?;
        let decoded = decoding.await.map_err(StoreError::failed)?;
        // Another process may replace the snapshot during the read.
        if decoded.is_ok() || is_complete || attempt == LOAD_ATTEMPTS {
            return Ok(Some(decoded));
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
    save(log, catalog, None).await
}

/// Stores a catalog as the beginning of the log, unless the log has a newer beginning. `last_index` is
/// the index of the last event at the position of the catalog.
///
/// # Errors
/// Returns an error if the catalog cannot be encoded or the store cannot be written.
pub async fn save_beginning(
    log: &dyn EventLog,
    catalog: Arc<Catalog>,
    last_index: usize,
) -> Result<(), StoreError> {
    let header = BeginningHeader {
        fold: FOLD_VERSION,
        last_index,
    };
    save(log, catalog, Some(header)).await
}

async fn save(
    log: &dyn EventLog,
    catalog: Arc<Catalog>,
    header: Option<BeginningHeader>,
) -> Result<(), StoreError> {
    let mut head = SnapshotHead {
        id: Uuid::now_v7(),
        fold: if header.is_some() {
            BEGINNING_FOLD
        } else {
            FOLD_VERSION
        },
        at: catalog.position,
        pieces: 0,
    };
    let (pieces, mut encoded) = mpsc::channel(PIECES_IN_FLIGHT);
    let encoding = spawn_blocking(move || {
        let mut writer = PieceWriter::new(pieces);
        if let Some(header) = header {
            writer.write_text(&serde_json::to_vec(&header)?)?;
        }
        encode_catalog(&catalog, writer)
    });
    while let Some(piece) = encoded.recv().await {
        log.put_snapshot_piece(&head, piece).await?;
        head.pieces += 1;
    }
    let encoded = encoding.await.map_err(StoreError::failed)?;
    encoded.map_err(StoreError::failed)?;
    log.finish_snapshot(&head).await
}

/// The first text of a beginning.
///
/// No entries can replace a beginning, so it must stay readable like an event. A later program reads
/// the beginnings of all earlier fold versions: every new field of a part has a default, and every
/// other change of a part converts the earlier form. `core::catalog` tests this with stored samples.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BeginningHeader {
    /// The fold version of the program that stored the beginning.
    fold: u32,
    /// The index of the last event of the entry at this position.
    last_index: usize,
}

fn encode_catalog(catalog: &Catalog, mut writer: PieceWriter) -> io::Result<()> {
    for text in catalog.snapshot() {
        writer.write_text(&text?)?;
    }
    writer.send_piece()
}

fn decode_catalog(mut reader: PieceReader) -> io::Result<Catalog> {
    let mut catalog = Catalog::default();
    while !catalog.restore_part(&read_text(&mut reader)?)? {}
    Ok(catalog)
}

/// Decodes a beginning. Returns an error inside if a newer program stored it, because this program does
/// not know all its parts.
fn decode_beginning(mut reader: PieceReader) -> io::Result<Result<Catalog, StoreError>> {
    let header: BeginningHeader = serde_json::from_slice(&read_text(&mut reader)?)?;
    if header.fold > FOLD_VERSION {
        return Ok(Err(StoreError::Newer {
            found: header.fold,
            known: FOLD_VERSION,
        }));
    }
    decode_catalog(reader).map(Ok)
}

/// Returns the next text without its separator.
fn read_text(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    reader.read_until(SEPARATOR, &mut text)?;
    if text.pop() != Some(SEPARATOR) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
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

    fn write_text(&mut self, text: &[u8]) -> io::Result<()> {
        self.write_all(text)?;
        self.write_all(&[SEPARATOR])
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
