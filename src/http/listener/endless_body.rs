//! Sends a body without an end outside of the HTTP parser. The parser holds two buffers of 8 KiB and its futures as long
//! as it sends a body, which is most of the memory of a quiet event stream.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use super::slots::RequestGuard;

/// The chunk that ends a body (RFC 9112, section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The most bytes that are discarded.
const MAX_DISCARDED: usize = 64 << 10;

/// A body without an end. Its request counts as running until the body is dropped.
pub(super) struct EndlessBody {
    pub body: Body,
    pub _guard: RequestGuard,
}

impl EndlessBody {
    /// Sends the body in chunks until it ends or the client disconnects. The head must have been sent, and its
    /// `Transfer-Encoding` must be `chunked`.
    pub(super) async fn send(self, mut stream: TcpStream) {
        let (mut received, mut sent) = stream.split();
        tokio::select! {
            _ = send_chunks(self.body, &mut sent) => {}
            () = until_disconnected(&mut received) => {}
        }
    }
}

async fn send_chunks(mut body: Body, to: &mut WriteHalf<'_>) -> io::Result<()> {
    while let Some(frame) = body.frame().await {
        // After an error, the missing last chunk tells the client that the body is incomplete.
        let frame = frame.map_err(io::Error::other)?;
        if let Ok(data) = frame.into_data()
            && !data.is_empty()
        {
            send_chunk(data, to).await?;
        }
    }
    to.write_all(LAST_CHUNK).await?;
    to.shutdown().await
}

async fn send_chunk(data: Bytes, to: &mut WriteHalf<'_>) -> io::Result<()> {
    let size = Bytes::from(format!("{:X}\r\n", data.len()));
    let mut chunk = size.chain(data).chain(&b"\r\n"[..]);
    to.write_all_buf(&mut chunk).await
}

/// Waits until the client disconnects. Bytes that it sends after its request are discarded, because the head of the
/// response has announced that the connection closes. From a client that sends more and more, nothing is read any more, so
/// only a failed write shows that it has disconnected.
async fn until_disconnected(from: &mut ReadHalf<'_>) {
    let mut discarded = 0;
    while discarded <= MAX_DISCARDED {
        if from.readable().await.is_err() {
            return;
        }
        // The buffer is not part of the future, because it does not exist while the future waits.
        match from.try_read(&mut [0; 1024]) {
            Ok(0) => return,
            Ok(length) => discarded += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    std::future::pending().await
}

/// Passes an endless body from the service of a connection to the connection, which sends it after the parser has
/// sent the head.
#[derive(Default)]
pub(super) struct Handover {
    has_body: AtomicBool,
    state: Mutex<HandoverState>,
}

#[derive(Default)]
struct HandoverState {
    body: Option<EndlessBody>,
    is_head_sent: bool,
}

impl Handover {
    /// Takes the body of a response whose head the parser writes next.
    pub(super) fn put(&self, body: EndlessBody) {
        self.state.lock().body = Some(body);
        self.has_body.store(true, Ordering::Release);
    }

    /// Records that the parser has written all of its bytes to the client.
    pub(super) fn record_flush(&self) {
        if self.has_body.load(Ordering::Acquire) {
            self.state.lock().is_head_sent = true;
        }
    }

    /// Returns the body after the client has been sent the head.
    pub(super) fn take(&self) -> Option<EndlessBody> {
        if !self.has_body.load(Ordering::Acquire) {
            return None;
        }
        let mut state = self.state.lock();
        state.is_head_sent.then(|| state.body.take()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::stream;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::http::listener::slots::ConnectionState;

    type Part = Result<&'static str, io::Error>;

    /// A client, the sender of the body's parts, and the connection that sends them.
    async fn open() -> (TcpStream, mpsc::Sender<Part>, Arc<ConnectionState>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (stream, _) = listener.accept().await.expect("a connection");
        let (parts, receiver) = mpsc::channel(8);
        let connection = Arc::new(ConnectionState::default());
        let parts_of_body = stream::unfold(receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        });
        let body = EndlessBody {
            body: Body::from_stream(parts_of_body),
            _guard: connection.start_request(),
        };
        tokio::spawn(body.send(stream));
        (client, parts, connection)
    }

    async fn read_to_end(client: &mut TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("UTF-8");
        text
    }

    #[tokio::test]
    async fn each_part_is_a_chunk_and_the_end_has_the_last_chunk() {
        let (mut client, parts, connection) = open().await;
        for part in ["one", "", "0123456789abcdef"] {
            parts.send(Ok(part)).await.expect("a reader");
        }
        drop(parts);
        let text = read_to_end(&mut client).await;
        assert_eq!(text, "3\r\none\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n");
        assert!(!connection.has_request());
    }

    #[tokio::test]
    async fn an_error_ends_the_body_without_its_last_chunk() {
        let (mut client, parts, _) = open().await;
        parts.send(Ok("one")).await.expect("a reader");
        parts
            .send(Err(io::Error::other("broken")))
            .await
            .expect("a reader");
        assert_eq!(read_to_end(&mut client).await, "3\r\none\r\n");
    }

    #[tokio::test]
    async fn a_client_that_disconnects_ends_the_body() {
        let (client, parts, connection) = open().await;
        assert!(connection.has_request());
        drop(client);
        parts.closed().await;
        assert!(!connection.has_request());
    }

    #[tokio::test]
    async fn bytes_of_the_client_change_nothing() {
        let (mut client, parts, _) = open().await;
        client.write_all(&[b'x'; 5000]).await.expect("written");
        parts.send(Ok("one")).await.expect("a reader");
        let mut chunk = [0; 8];
        client.read_exact(&mut chunk).await.expect("a chunk");
        assert_eq!(&chunk, b"3\r\none\r\n");
        client.shutdown().await.expect("closed");
        parts.closed().await;
    }

    #[tokio::test]
    async fn a_client_that_floods_still_gets_its_parts() {
        let (client, parts, _) = open().await;
        let (mut from, mut to) = client.into_split();
        let flood = tokio::spawn(async move { while to.write_all(&[b'x'; 4096]).await.is_ok() {} });
        for _ in 0..100 {
            parts.send(Ok("one")).await.expect("a reader");
            let mut chunk = [0; 8];
            from.read_exact(&mut chunk).await.expect("a chunk");
            assert_eq!(&chunk, b"3\r\none\r\n");
        }
        assert!(!flood.is_finished());
        flood.abort();
    }

    #[test]
    fn a_body_is_taken_after_its_head_was_sent() {
        let handover = Handover::default();
        handover.record_flush();
        assert!(handover.take().is_none());
        handover.put(EndlessBody {
            body: Body::empty(),
            _guard: Arc::new(ConnectionState::default()).start_request(),
        });
        assert!(
            handover.take().is_none(),
            "the parser has not written the head"
        );
        handover.record_flush();
        assert!(handover.take().is_some());
        assert!(handover.take().is_none());
    }
}
