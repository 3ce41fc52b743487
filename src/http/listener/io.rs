//! The byte stream between a client and the HTTP parser.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::endless_body::Handover;
use super::rejection::Rejection;
use super::slots::ConnectionState;

/// Gives the parser the bytes of the first head again, and replaces hyper's own answers by answers
/// in the JSON envelope.
pub(super) struct ClientStream {
    stream: TcpStream,
    connection: Arc<ConnectionState>,
    handover: Arc<Handover>,
    head: Vec<u8>,
    head_read: usize,
    rejection: Vec<u8>,
    rejection_written: usize,
}

impl ClientStream {
    /// Creates a stream that begins with the bytes of `head`.
    pub(super) fn new(
        stream: TcpStream,
        connection: Arc<ConnectionState>,
        handover: Arc<Handover>,
        head: Vec<u8>,
    ) -> Self {
        Self {
            stream,
            connection,
            handover,
            head,
            head_read: 0,
            rejection: Vec::new(),
            rejection_written: 0,
        }
    }

    /// Returns the stream of the client.
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    fn poll_rejection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rejection_written < self.rejection.len() {
            let rest = &self.rejection[self.rejection_written..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rejection_written += written;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.head.is_empty() {
            let rest = &self.head[self.head_read..];
            let length = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..length]);
            self.head_read += length;
            if self.head_read == self.head.len() {
                self.head = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.connection.record_bytes();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rejection(cx))?;
        if let Some(rejection) = Rejection::from_hyper_answer(bytes) {
            self.rejection = rejection.to_bytes();
            self.rejection_written = 0;
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [bytes] = slices {
            return self.poll_write(cx, bytes);
        }
        ready!(self.poll_rejection(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rejection(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // The parser flushes when it has written all of its bytes.
        self.handover.record_flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rejection(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
