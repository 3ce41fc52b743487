//! The catalogue in the store and back, piece by piece: so neither costs memory of the catalogue's size again.

use std::io;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::core::catalog::{Catalog, FOLD_VERSION};
use crate::ports::error::StoreError;
use crate::ports::event_log::{EventLog, SnapshotHead};

/// Bytes of one piece, well below the size of a MongoDB document.
const PIECE: usize = 1 << 20;
/// Pieces on their way between the store and whoever makes or reads them.
const ON_THE_WAY: usize = 2;
/// Stands after each text, and in none: the record separator of RFC 7464.
const END: u8 = 0x1e;
/// How often another is read where the one at hand has been replaced meanwhile.
const TRIES: u32 = 3;

/// The newest catalogue that is stored and can be read.
pub async fn load_snapshot(log: &dyn EventLog) -> Result<Option<Catalog>, StoreError> {
    for _ in 0..TRIES {
        let Some(snapshot) = log.newest_snapshot(FOLD_VERSION).await? else {
            return Ok(None);
        };
        let (pieces, read) = mpsc::channel(ON_THE_WAY);
        let reading = spawn_blocking(move || {
            read_from(PieceReader {
                pieces: read,
                piece: vec![],
                at: 0,
            })
        });
        let whole = send_all(log, &snapshot, pieces).await?;
        let read = reading
            .await
            .map_err(|error| StoreError(error.to_string()))?;
        match read {
            Ok(catalog) => return Ok(Some(catalog)),
            Err(error) if whole => {
                tracing::warn!(%error, "the snapshot cannot be read; folding the whole log");
                return Ok(None);
            }
            Err(_) => {}
        }
    }
    Ok(None)
}

/// False: it is not there any more, because a newer one is.
async fn send_all(
    log: &dyn EventLog,
    snapshot: &SnapshotHead,
    pieces: mpsc::Sender<Vec<u8>>,
) -> Result<bool, StoreError> {
    for n in 0..snapshot.pieces {
        let Some(piece) = log.snapshot_piece(snapshot, n).await? else {
            return Ok(false);
        };
        // Whoever finds it unreadable reads no further.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(true)
}

/// Stores a catalogue, where no newer one is stored.
pub async fn save_snapshot(log: &dyn EventLog, catalog: Arc<Catalog>) -> Result<(), StoreError> {
    let mut snapshot = SnapshotHead {
        id: Uuid::now_v7(),
        fold: FOLD_VERSION,
        at: catalog.position,
        pieces: 0,
    };
    let (pieces, mut made) = mpsc::channel(ON_THE_WAY);
    let making = spawn_blocking(move || {
        let mut writer = PieceWriter {
            pieces,
            piece: Vec::with_capacity(PIECE),
        };
        for text in catalog.snapshot() {
            writer.write_all(&text?)?;
            writer.write_all(&[END])?;
        }
        writer.send()
    });
    while let Some(piece) = made.recv().await {
        log.put_snapshot_piece(&snapshot, piece).await?;
        snapshot.pieces += 1;
    }
    let made = making
        .await
        .map_err(|error| StoreError(error.to_string()))?;
    made.map_err(|error| StoreError(format!("it could not be made: {error}")))?;
    log.finish_snapshot(&snapshot).await
}

fn read_from(mut pieces: impl BufRead) -> io::Result<Catalog> {
    let (mut catalog, mut text) = (Catalog::default(), Vec::new());
    loop {
        text.clear();
        pieces.read_until(END, &mut text)?;
        if text.pop() != Some(END) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if catalog.restore_part(&text)? {
            return Ok(catalog);
        }
    }
}

struct PieceWriter {
    pieces: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl PieceWriter {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.pieces
            .blocking_send(piece)
            .map_err(|_| io::Error::other("the store takes no more of it"))
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.send()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct PieceReader {
    pieces: mpsc::Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl BufRead for PieceReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() {
            (self.piece, self.at) = (self.pieces.blocking_recv().unwrap_or_default(), 0);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
    }
}

impl Read for PieceReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}
