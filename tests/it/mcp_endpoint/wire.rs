//! A connection that writes HTTP by itself. It costs a small part of a client library, so a test can send many messages.

use std::fmt::Write as _;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A connection with one request at a time.
pub struct Wire {
    stream: TcpStream,
    host: String,
    buffer: Vec<u8>,
}

impl Wire {
    pub async fn open(url: &str) -> Self {
        let host = url.trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self {
            stream,
            host,
            buffer: Vec::with_capacity(4096),
        }
    }

    /// Sends a POST that takes JSON and event streams. Each header ends with a line break.
    pub async fn send(&mut self, path: &str, headers: &str, body: &str) {
        let mut request = String::with_capacity(1024);
        let _ = write!(
            request,
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            self.host,
            body.len(),
        );
        let sent = self.stream.write_all(request.as_bytes()).await;
        sent.expect("a request that is sent");
    }

    /// Reads to the end of an event stream. Returns the head and the body of the response, with the sizes of its chunks.
    pub async fn read_events(&mut self) -> &str {
        self.buffer.clear();
        while !self.buffer.ends_with(b"\r\n0\r\n\r\n") {
            let read = self.stream.read_buf(&mut self.buffer).await;
            assert_ne!(read.expect("a response"), 0, "{}", self.text());
        }
        self.text()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.buffer).expect("UTF-8")
    }
}
