//! A keep-alive connection that sends any request line, header and body.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fuzz::Fuzzed;
use crate::harness::PATIENCE;

/// An event stream has no end, so the client reads it until it is quiet for this long.
const QUIET: Duration = Duration::from_millis(20);

pub struct Reply {
    pub status: u16,
    /// The headers, one in each line. Their names are in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body);
        let body: String = body.chars().take(2000).collect();
        write!(formatter, "{} {}\n{body}", self.status, self.head)
    }
}

pub struct Connection {
    address: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub fn new(url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("a URL").to_owned();
        Self {
            address,
            sender: None,
        }
    }

    /// Sends a request and returns the reply. A connection that the program has closed is opened again once.
    pub async fn send(&mut self, fuzzed: &Fuzzed) -> Reply {
        for is_last in [false, true] {
            let request = fuzzed.to_http(&self.address);
            let reply = match timeout(PATIENCE, self.try_send(request)).await {
                Ok(reply) => reply,
                Err(_) => panic!("no reply to {fuzzed:?}"),
            };
            match reply {
                Ok(reply) => return reply,
                Err(error) => assert!(!is_last, "no reply to {fuzzed:?}: {error}"),
            }
            self.sender = None;
        }
        unreachable!("the last attempt returns")
    }

    async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        let mut sender = match self.sender.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => connect(&self.address).await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let mut head = String::new();
        for (name, value) in response.headers() {
            let value = String::from_utf8_lossy(value.as_bytes());
            head.push_str(&format!("{name}: {value}\n"));
        }
        let body = if head.contains("text/event-stream") {
            read_stream(response).await
        } else {
            let collected = response.into_body().collect().await?;
            self.sender = Some(sender);
            collected.to_bytes().to_vec()
        };
        Ok(Reply { status, head, body })
    }
}

async fn connect(address: &str) -> hyper::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn read_stream(response: Response<Incoming>) -> Vec<u8> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Ok(Some(Ok(frame))) = timeout(QUIET, body.frame()).await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
    }
    bytes
}
