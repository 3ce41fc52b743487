//! Reads and writes a child's lines. Replies to our own requests are taken out by id; what is the
//! protocol's own affair (the handshake, pings, whatever the server asks) goes to rmcp.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rmcp::RoleClient;
use rmcp::service::{RxJsonRpcMessage, TxJsonRpcMessage};
use rmcp::transport::Transport;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;

use super::frame::{Frame, plain};
use super::jsonrpc::{NotificationSink, RpcMessage, call_id, progress_of, subslice};
use super::mux::{Mux, RpcReply};
use crate::workers::runtime::log_buffer::shorten;

/// Messages that may wait for rmcp.
const FOR_RMCP: usize = 64;
/// Frames written at once.
const BATCH: usize = 64;
/// Of a line that is too long, how much of its beginning and end is looked at for its id.
const EDGE: usize = 4096;

/// rmcp's side of the tap: a transport that carries everything but our own requests.
pub struct RmcpBridge {
    mux: Arc<Mux>,
    inbox: mpsc::Receiver<RxJsonRpcMessage<RoleClient>>,
}

/// The reader's side.
pub struct LineReader {
    pub mux: Arc<Mux>,
    pub hearing: NotificationSink,
    /// Bytes of a result; see `RESULT_LIMIT`.
    pub result_limit: usize,
    to_rmcp: mpsc::Sender<RxJsonRpcMessage<RoleClient>>,
}

/// Joins a mux with rmcp.
pub fn new_bridge(
    mux: Arc<Mux>,
    hearing: NotificationSink,
    result_limit: usize,
) -> (RmcpBridge, LineReader) {
    let (to_rmcp, inbox) = mpsc::channel(FOR_RMCP);
    (
        RmcpBridge {
            mux: mux.clone(),
            inbox,
        },
        LineReader {
            mux,
            hearing,
            result_limit,
            to_rmcp,
        },
    )
}

impl Transport<RoleClient> for RmcpBridge {
    type Error = io::Error;

    fn send(
        &mut self,
        item: TxJsonRpcMessage<RoleClient>,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        let mux = self.mux.clone();
        async move {
            let mut line = serde_json::to_vec(&item)?;
            line.push(b'\n');
            mux.send(plain(line))
                .await
                .map_err(|_| io::ErrorKind::BrokenPipe.into())
        }
    }

    async fn receive(&mut self) -> Option<RxJsonRpcMessage<RoleClient>> {
        self.inbox.recv().await
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes frames until the connection ends, as many at once as wait.
pub async fn write_all(
    mut pipe: impl AsyncWrite + Unpin,
    mux: Arc<Mux>,
    mut frames: mpsc::Receiver<Frame>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut closed = std::pin::pin!(mux.closed());
    loop {
        let received = tokio::select! {
            biased;
            () = &mut closed => return,
            received = frames.recv_many(&mut batch, BATCH) => received,
        };
        // Lets whoever is ready to call do so first: one larger write wakes the child once. Where nobody else
        // calls there is nothing to wait for, and the pause would wake a second thread.
        if mux.calls() > batch.len() {
            tokio::task::yield_now().await;
        }
        while batch.len() < BATCH
            && let Ok(frame) = frames.try_recv()
        {
            batch.push(frame);
        }
        mux.keep_wanted(&mut batch);
        let written = tokio::select! {
            biased;
            () = &mut closed => return,
            written = write_batch(&mut pipe, &batch) => written,
        };
        if received == 0 || written.is_err() {
            // A server that takes no more questions has ended, whatever it still says.
            return mux.close();
        }
        batch.clear();
    }
}

async fn write_batch(pipe: &mut (impl AsyncWrite + Unpin), batch: &[Frame]) -> io::Result<()> {
    let mut slices: Vec<_> = batch
        .iter()
        .map(|frame| io::IoSlice::new(&frame.bytes))
        .collect();
    let mut left = &mut slices[..];
    while !left.is_empty() {
        let written = pipe.write_vectored(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        io::IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

impl LineReader {
    /// Reads until the server closes its output; then every call has ended.
    pub async fn read_all(self, from: impl AsyncRead + Unpin) {
        let mut from = BufReader::with_capacity(64 * 1024, from);
        // Room for what stands around a result in its line.
        let limit = self.result_limit + 64 * 1024;
        loop {
            match read_line(&mut from, limit).await {
                Ok(Some(ReadLine::Whole(line))) => self.take(line),
                Ok(Some(ReadLine::TooLong { head, tail })) => self.refuse(&head, &tail),
                Ok(None) | Err(_) => break,
            }
        }
        self.mux.close();
    }

    pub fn take(&self, line: Vec<u8>) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let bytes = Bytes::from(line);
        let Ok(line) = serde_json::from_slice::<RpcMessage>(&bytes) else {
            return self.reject(&bytes);
        };
        match (line.method.as_deref(), line.id.and_then(call_id)) {
            // A line with a method is never an answer, whatever its id.
            (Some(method), _) => self.hear(method, &line, &bytes),
            (None, Some(id)) => match (line.result, line.error) {
                (Some(result), _) if result.get().len() > self.result_limit => {
                    self.mux.complete(id, RpcReply::TooLarge)
                }
                (Some(result), _) => self
                    .mux
                    .complete(id, RpcReply::Result(subslice(&bytes, result))),
                (None, Some(error)) => self
                    .mux
                    .complete(id, RpcReply::Error(subslice(&bytes, error))),
                (None, None) => self
                    .mux
                    .complete(id, RpcReply::Result(Bytes::from_static(b"null"))),
            },
            (None, None) => self.pass_on(&bytes),
        }
    }

    fn hear(&self, method: &str, line: &RpcMessage, bytes: &Bytes) {
        match (method, line.id) {
            ("notifications/progress", None) => {
                if let Some(id) = line.params.and_then(progress_of) {
                    self.mux.progress(id);
                }
            }
            (_, None) => self.hearing.notification(method, line.params),
            (_, Some(_)) => self.pass_on(bytes),
        }
    }

    fn pass_on(&self, bytes: &Bytes) {
        match serde_json::from_slice(bytes) {
            // A server that asks faster than it is answered is not waited for: its calls go on.
            Ok(message) => {
                // Without room for the answers they would pile up in memory.
                if !self.mux.has_room() || self.to_rmcp.try_send(message).is_err() {
                    self.hearing.log_buffer.push(
                        "transport",
                        "the server asked too many questions at once; one was dropped",
                    );
                }
            }
            Err(_) => self.note("sent an answer to no question of ours", bytes),
        }
    }

    /// A line that cannot be read. Where it was to be the answer of a call (with a NaN in it, say, or bytes
    /// that are no UTF-8), the call ends with it; what a server merely prints is nobody's answer.
    fn reject(&self, line: &[u8]) {
        self.note("sent a line that is no JSON-RPC message", line);
        let (head, tail) = (
            &line[..line.len().min(EDGE)],
            &line[line.len().saturating_sub(EDGE)..],
        );
        let has = |key: &[u8]| {
            [head, tail]
                .iter()
                .any(|edge| memchr::memmem::find(edge, key).is_some())
        };
        if line.trim_ascii_start().starts_with(b"{")
            && !has(br#""method""#)
            && (has(br#""result""#) || has(br#""error""#))
        {
            let id = [head, tail]
                .into_iter()
                .flat_map(ids_in)
                .find(|id| self.mux.is_waiting(*id));
            // No result at all: whoever reads it says what is wrong.
            id.into_iter().for_each(|id| {
                self.mux
                    .complete(id, RpcReply::Result(Bytes::from_static(b"null")))
            });
        }
    }

    /// A line too long to be kept is the answer of one call, if its id can be found at either end.
    fn refuse(&self, head: &[u8], tail: &[u8]) {
        let id = [head, tail]
            .into_iter()
            .flat_map(ids_in)
            .find(|id| self.mux.is_waiting(*id));
        match id {
            Some(id) => self.mux.complete(id, RpcReply::TooLarge),
            None => self.note("sent a line that is too long", head),
        }
    }

    fn note(&self, what: &str, bytes: &[u8]) {
        let (kept, cut) = (&bytes[..bytes.len().min(EDGE)], bytes.len() > EDGE);
        let text = if cut {
            self.hearing.redactor.mask_cut(kept)
        } else {
            self.hearing.redactor.mask(&String::from_utf8_lossy(kept))
        };
        let text = text.trim_end();
        self.hearing.log_buffer.push(
            "transport",
            &format!("the server {what}: {}", shorten(text, 200)),
        );
    }
}

fn ids_in(bytes: &[u8]) -> Vec<u64> {
    const KEY: &[u8] = br#""id""#;
    let ids = memchr::memmem::find_iter(bytes, KEY).filter_map(|at| {
        // Not every encoder writes without blanks.
        let value = bytes[at + KEY.len()..]
            .trim_ascii_start()
            .strip_prefix(b":")?;
        let digits = value.trim_ascii_start().strip_prefix(b"\"c")?;
        let end = digits.iter().position(|b| !b.is_ascii_digit())?;
        std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
    });
    ids.collect()
}

enum ReadLine {
    Whole(Vec<u8>),
    TooLong { head: Vec<u8>, tail: Vec<u8> },
}

/// The next line, without keeping more of it than `limit` bytes. `None` at the end.
async fn read_line(
    from: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Option<ReadLine>> {
    let mut line = Vec::new();
    let mut tail: Option<Vec<u8>> = None;
    loop {
        let buffer = from.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(None);
        }
        let newline = memchr::memchr(b'\n', buffer);
        let taken = newline.unwrap_or(buffer.len());
        match &mut tail {
            None => line.extend_from_slice(&buffer[..taken]),
            Some(tail) => {
                tail.extend_from_slice(&buffer[..taken]);
                tail.drain(..tail.len().saturating_sub(EDGE));
            }
        }
        from.consume(taken + usize::from(newline.is_some()));
        if tail.is_none() && line.len() > limit {
            tail = Some(line.split_off(line.len() - EDGE));
            line.truncate(EDGE);
            line.shrink_to_fit();
        }
        if newline.is_some() {
            return Ok(Some(match tail {
                None => ReadLine::Whole(line),
                Some(tail) => ReadLine::TooLong { head: line, tail },
            }));
        }
    }
}
