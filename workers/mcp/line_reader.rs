//! Reads the lines of a server. Replies complete requests of the mux, notifications go to the sink, and the replies of the
//! handshake go to rmcp. A request of the server is answered here, because rmcp would log its text. A line that is no message is
//! a log line.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};

use super::frame::plain;
use super::host::{LogSource, LogText, NotificationSink};
use super::jsonrpc::{
    METHOD_NOT_FOUND, RpcMessage, WRONG_QUESTION, answer_without_client, note, notify,
    progress_token, request_id, response, scan_ids, subscription_id, subslice,
};
use super::mux::{FIRST_REQUEST_ID, Mux, RpcReply};
use super::rmcp_bridge::{RmcpInbox, RmcpRefusal};
use super::stdio::{ExclusiveCalls, NotAsked};
use crate::core::mcp::input_required::ClientMethod;

/// Bytes of a line around its result.
const ENVELOPE: usize = 64 * 1024;
/// Bytes at each end of an unreadable line that are searched for an id.
const EDGE: usize = 4096;
/// The longest id of a request that gets a reply, in bytes.
const MAX_ID: usize = 1024;
/// Lines that are read before other tasks of this thread have a turn.
const LINES_PER_TURN: usize = 16;
/// Bytes of an unreadable line in a log line.
const EXCERPT: usize = 200;
/// A byte order mark in UTF-8, which some servers write before each line.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub struct LineReader {
    pub mux: Arc<Mux>,
    pub sink: Arc<dyn NotificationSink>,
    /// The largest result in bytes (`RESULT_LIMIT`).
    pub result_limit: usize,
    pub rmcp: RmcpInbox,
    /// The calls whose clients the server may ask, and which get its log lines.
    pub exclusive: Option<Arc<ExclusiveCalls>>,
}

impl LineReader {
    /// Reads until the server closes its output, and then ends the connection.
    pub async fn read_all(self, output: impl AsyncRead + Unpin) {
        let mut output = BufReader::with_capacity(64 * 1024, output);
        let limit = self.result_limit + ENVELOPE;
        for number in 1_usize.. {
            // One read of a flood brings many lines. Without this, calls to other servers wait for all of them.
            if number.is_multiple_of(LINES_PER_TURN) {
                tokio::task::yield_now().await;
            }
            match read_line(&mut output, limit).await {
                Ok(Some(ReadLine::Whole(bytes))) => self.on_line(bytes.into()),
                Ok(Some(ReadLine::TooLong { head, tail })) => self.on_long_line(&head, &tail),
                Ok(None) | Err(_) => break,
            }
        }
        self.mux.close("it closed its output");
    }

    /// Handles one line: a message, a batch of messages (2025-03-26), or text.
    pub fn on_line(&self, bytes: Bytes) {
        let bytes = match bytes.strip_prefix(BYTE_ORDER_MARK) {
            Some(rest) => bytes.slice_ref(rest),
            None => bytes,
        };
        let text = bytes.trim_ascii_start();
        match text.first() {
            None => {}
            Some(b'{') => self.on_message(&bytes),
            Some(b'[') => self.on_batch(&bytes),
            Some(_) => self.log_line(&bytes),
        }
    }

    fn on_batch(&self, bytes: &Bytes) {
        let batch: Vec<&RawValue> = serde_json::from_slice(bytes).unwrap_or_default();
        if !batch.iter().any(|entry| entry.get().starts_with('{')) {
            return self.log_line(bytes);
        }
        for entry in batch {
            self.on_message(&subslice(bytes, entry));
        }
    }

    fn on_message(&self, bytes: &Bytes) {
        let Ok(message) = serde_json::from_slice::<RpcMessage>(bytes) else {
            let Some(messages) = messages_of_one_line(bytes) else {
                return self.on_broken_message(bytes);
            };
            for message in &messages {
                self.on_message(message);
            }
            return;
        };
        match message.method.as_deref() {
            // A message with a method is never a reply, even if its id is the id of a call.
            Some(method) => self.on_method(method, &message, bytes),
            None => self.on_reply(&message, bytes),
        }
    }

    fn on_method(&self, method: &str, message: &RpcMessage, bytes: &Bytes) {
        match (method, message.id) {
            ("notifications/progress", None) => {
                if let Some(params) = message.params
                    && let Some(id) = progress_token(params)
                {
                    self.mux.progress(id, params);
                }
            }
            ("notifications/subscriptions/acknowledged", None) => {
                if let Some(params) = message.params
                    && let Some(id) = subscription_id(params)
                {
                    self.mux.acknowledge(id, params);
                }
            }
            (_, None) => {
                if let Some((exclusive, params)) = self.exclusive.as_ref().zip(message.params) {
                    exclusive.on_notification(method, params);
                }
                notify(&*self.sink, method, message.params);
            }
            (_, Some(_)) => self.on_request(method, message, bytes),
        }
    }

    /// Handles a request of the server. The client of the running call answers it, or the program refuses it.
    fn on_request(&self, method: &str, message: &RpcMessage, bytes: &Bytes) {
        let asked = ClientMethod::parse(method);
        if asked.is_some_and(|asked| self.ask(asked, message)) {
            return;
        }
        let answer = if self.rmcp.is_gone() {
            // A server without sessions may send no requests (MCP 2026-07-28).
            METHOD_NOT_FOUND
        } else {
            answer_without_client(method)
        };
        self.reply(bytes, answer);
    }

    /// Asks the client of the running call. Returns whether it can be asked.
    fn ask(&self, method: ClientMethod, message: &RpcMessage) -> bool {
        let asked = match (&self.exclusive, message.id) {
            (Some(exclusive), Some(id)) => exclusive.ask(method, message.params, id),
            _ => Err(NotAsked::NoClient),
        };
        match asked {
            Ok(()) => return true,
            Err(NotAsked::NoClient) => self.sink.client_not_found(method),
            Err(NotAsked::Refused) => note(&*self.sink, WRONG_QUESTION),
        }
        false
    }

    fn on_reply(&self, message: &RpcMessage, bytes: &Bytes) {
        let id = message.id.and_then(request_id);
        match (id, message.result, message.error) {
            (Some(id), result, error) if id >= FIRST_REQUEST_ID => {
                self.mux
                    .complete(id, reply(result, error, bytes, self.result_limit));
            }
            (None, _, Some(error)) if message.id.is_none() => {
                self.on_error_without_id(error, bytes)
            }
            (None, None, None) => self.log_line(bytes),
            _ => self.pass_to_rmcp(bytes),
        }
    }

    /// A server that cannot read a request replies without its id. If only one request waits, the error ends it. If a caller
    /// has left a request lately, the error may concern that one, so it ends no other.
    fn on_error_without_id(&self, error: &RawValue, bytes: &Bytes) {
        match self.mux.only_waiting() {
            Some(id) if !self.mux.was_left_lately() => {
                let error = subslice(bytes, error);
                self.mux.complete_unnamed(id, RpcReply::Error(error));
            }
            None if self.rmcp.fail_waiting_request(error) => {}
            _ => self.note("sent an error that names no request", bytes),
        }
    }

    fn pass_to_rmcp(&self, bytes: &Bytes) {
        match self.rmcp.pass(bytes) {
            Ok(()) => {}
            Err(RmcpRefusal::Full | RmcpRefusal::Gone) => {
                self.note("sent a reply that the client cannot take", bytes);
            }
            Err(RmcpRefusal::Unreadable(_)) => {
                self.note("sent a reply to no request of the client", bytes);
            }
        }
    }

    /// Replies to a request of the server with a `result` or an `error`. A server that sends requests faster than it reads the
    /// replies gets none, because the replies would otherwise fill the memory.
    fn reply(&self, request: &[u8], member: &str) {
        let message = serde_json::from_slice::<RpcMessage>(request);
        let id = message.ok().and_then(|message| message.id);
        if let Some(id) = id.filter(|id| id.get().len() <= MAX_ID && self.mux.has_space()) {
            let line = response(id, member) + "\n";
            self.mux.try_send(plain(line.into()));
        }
    }

    /// Handles a JSON object that cannot be read. If it looks like the reply to a request (for example with a `NaN` in it, or
    /// with bytes that are no UTF-8), the request ends, because no other reply will come.
    fn on_broken_message(&self, bytes: &[u8]) {
        self.note("sent a line that is no JSON-RPC message", bytes);
        let edges = edges(bytes);
        if !looks_like_reply(&edges) {
            return;
        }
        if let Some(id) = self.waiting_request_in(edges) {
            // The reader of the result reports that it is none.
            let none = Bytes::from_static(b"null");
            self.mux.complete_unnamed(id, RpcReply::Result(none));
        }
    }

    /// A line that is too long is the reply to a request, if either end of the line holds the id.
    fn on_long_line(&self, head: &[u8], tail: &[u8]) {
        match self.waiting_request_in([head, tail]) {
            Some(id) if looks_like_reply(&[head]) => self.mux.complete(id, RpcReply::TooLarge),
            Some(id) => self.mux.complete_unnamed(id, RpcReply::TooLarge),
            None => self.note("sent a line that is too long", head),
        }
    }

    fn waiting_request_in(&self, edges: [&[u8]; 2]) -> Option<u64> {
        let mut ids = edges.into_iter().flat_map(scan_ids);
        ids.find(|id| self.mux.is_waiting(*id))
    }

    /// Stores a line that is no message. A server often prints there why it cannot start.
    fn log_line(&self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let text = if bytes.len() > ENVELOPE {
            LogText::Cut(&bytes[..ENVELOPE])
        } else {
            LogText::Plain(text.trim_end())
        };
        self.sink.log(LogSource::Stdout, text);
    }

    fn note(&self, event: &str, bytes: &[u8]) {
        let excerpt = self.sink.excerpt(bytes, EXCERPT);
        note(
            &*self.sink,
            &format!("the server {event}: {}", excerpt.trim_end()),
        );
    }
}

/// Returns the reply of a message.
pub fn reply(
    result: Option<&RawValue>,
    error: Option<&RawValue>,
    bytes: &Bytes,
    result_limit: usize,
) -> RpcReply {
    match (result, error) {
        (Some(result), _) if result.get().len() > result_limit => RpcReply::TooLarge,
        (Some(result), _) => RpcReply::Result(subslice(bytes, result)),
        (None, Some(error)) => RpcReply::Error(subslice(bytes, error)),
        (None, None) => RpcReply::Result(Bytes::from_static(b"null")),
    }
}

fn edges(bytes: &[u8]) -> [&[u8]; 2] {
    [
        &bytes[..bytes.len().min(EDGE)],
        &bytes[bytes.len().saturating_sub(EDGE)..],
    ]
}

/// Returns whether the beginning, or the end, of a JSON object is that of a reply.
fn looks_like_reply(edges: &[&[u8]]) -> bool {
    let has = |key: &[u8]| {
        let mut edges = edges.iter();
        edges.any(|edge| memchr::memmem::find(edge, key).is_some())
    };
    !has(br#""method""#) && (has(br#""result""#) || has(br#""error""#))
}

enum ReadLine {
    Whole(Vec<u8>),
    TooLong { head: Vec<u8>, tail: Vec<u8> },
}

/// Returns the next line without its line end, or `None` at the end of the output. A line above `limit` bytes keeps only
/// its two ends.
async fn read_line(
    output: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Option<ReadLine>> {
    let mut bytes = Vec::new();
    let mut tail: Option<Vec<u8>> = None;
    loop {
        let buffer = output.fill_buf().await?;
        if buffer.is_empty() {
            let rest = (!bytes.is_empty() && tail.is_none()).then_some(ReadLine::Whole(bytes));
            return Ok(rest);
        }
        let newline = memchr::memchr(b'\n', buffer);
        let length = newline.unwrap_or(buffer.len());
        match &mut tail {
            None => bytes.extend_from_slice(&buffer[..length]),
            Some(tail) => {
                tail.extend_from_slice(&buffer[..length]);
                tail.drain(..tail.len().saturating_sub(EDGE));
            }
        }
        output.consume(length + usize::from(newline.is_some()));
        if tail.is_none() && bytes.len() > limit {
            tail = Some(bytes.split_off(bytes.len() - EDGE));
            bytes.truncate(EDGE);
            bytes.shrink_to_fit();
        }
        if newline.is_some() {
            return Ok(Some(match tail {
                None => ReadLine::Whole(bytes),
                Some(tail) => ReadLine::TooLong { head: bytes, tail },
            }));
        }
    }
}

/// Returns the messages of a line that holds more than one. Threads of a server that write the end of a line in a second
/// step, as `print` of Python does, bring their messages onto one line.
fn messages_of_one_line(bytes: &Bytes) -> Option<Vec<Bytes>> {
    let values = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
    let values: Vec<&RawValue> = values.collect::<Result<_, _>>().ok()?;
    let are_messages = values.len() > 1 && values.iter().all(|value| value.get().starts_with('{'));
    are_messages.then(|| values.iter().map(|value| subslice(bytes, value)).collect())
}

#[cfg(test)]
mod tests;
