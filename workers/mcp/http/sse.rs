//! Server-sent events (WHATWG HTML, 9.2), read as they arrive and never more of one than is allowed.
//!
//! Parsers there are do not bound an event; a server that never ends one would fill the memory.

use bytes::{Buf, Bytes, BytesMut};

use crate::workers::http_client::StreamedResponse;

/// One event that says something.
#[derive(Debug, PartialEq)]
pub struct SseEvent {
    /// `message` where none is given.
    pub name: String,
    pub data: Bytes,
}

/// Why there are no more events.
#[derive(Debug, PartialEq)]
pub enum SseError {
    /// An event is above the limit.
    TooLong,
    /// The stream was cut off.
    Cut(String),
}

/// The events of an answer.
pub struct SseReader {
    response: StreamedResponse,
    parser: Parser,
}

impl SseReader {
    pub fn new(response: StreamedResponse, limit: usize) -> Self {
        Self {
            response,
            parser: Parser::new(limit),
        }
    }

    /// The next event, nothing at the end. Dropped while it waits, it loses nothing.
    pub async fn next(&mut self) -> Result<Option<SseEvent>, SseError> {
        loop {
            if let Some(event) = self.parser.next()? {
                return Ok(Some(event));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.parser.push(&chunk),
                Ok(None) if self.parser.is_within_event() => {
                    return Err(SseError::Cut("it ended in the middle of an event".into()));
                }
                Ok(None) => return Ok(None),
                Err(error) => return Err(SseError::Cut(error)),
            }
        }
    }

    /// The id of the last event, by which the stream can be resumed.
    pub fn last_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// The server's wish: milliseconds before a new attempt.
    pub fn retry(&self) -> Option<u64> {
        self.parser.retry
    }
}

struct Parser {
    buffer: BytesMut,
    /// How much of the buffer holds no end of line.
    seen: usize,
    /// The last line ended with CR: a LF that follows belongs to it.
    after_cr: bool,
    first: bool,
    name: String,
    data: Option<BytesMut>,
    /// Of the event that is being read.
    id: Option<String>,
    /// Of the last whole event: one that was cut off is to come again.
    last_id: Option<String>,
    retry: Option<u64>,
    limit: usize,
}

impl Parser {
    fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            seen: 0,
            after_cr: false,
            first: true,
            name: String::new(),
            data: None,
            id: None,
            last_id: None,
            retry: None,
            limit,
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    fn is_within_event(&self) -> bool {
        !self.buffer.is_empty() || self.data.is_some()
    }

    fn next(&mut self) -> Result<Option<SseEvent>, SseError> {
        while let Some(line) = self.line() {
            if line.is_empty() {
                self.last_id.clone_from(&self.id);
                let name = std::mem::take(&mut self.name);
                if let Some(data) = self.data.take() {
                    let name = if name.is_empty() {
                        "message".into()
                    } else {
                        name
                    };
                    return Ok(Some(SseEvent {
                        name,
                        data: data.freeze(),
                    }));
                }
                continue;
            }
            self.field(line);
            if self
                .data
                .as_ref()
                .is_some_and(|data| data.len() > self.limit)
            {
                return Err(SseError::TooLong);
            }
        }
        if self.buffer.len() + self.data.as_ref().map_or(0, BytesMut::len) > self.limit {
            return Err(SseError::TooLong);
        }
        Ok(None)
    }

    fn line(&mut self) -> Option<BytesMut> {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let Some(at) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.seen..]) else {
            self.seen = self.buffer.len();
            return None;
        };
        let at = self.seen + at;
        self.seen = 0;
        self.after_cr = self.buffer[at] == b'\r';
        let mut line = self.buffer.split_to(at);
        self.buffer.advance(1);
        if std::mem::take(&mut self.first) && line.starts_with("\u{feff}".as_bytes()) {
            line.advance(3);
        }
        Some(line)
    }

    fn field(&mut self, mut line: BytesMut) {
        let colon = memchr::memchr(b':', &line);
        let field = line.split_to(colon.unwrap_or(line.len()));
        if colon.is_some() {
            line.advance(1);
            if line.first() == Some(&b' ') {
                line.advance(1);
            }
        }
        let text = |line: &BytesMut| String::from_utf8(line.to_vec()).ok();
        match &field[..] {
            b"data" => match &mut self.data {
                None => self.data = Some(line),
                Some(data) => {
                    data.extend_from_slice(b"\n");
                    data.extend_from_slice(&line);
                }
            },
            b"event" => self.name = text(&line).unwrap_or_default(),
            b"id" if !line.contains(&0) => self.id = text(&line).filter(|id| !id.is_empty()),
            b"retry" => {
                self.retry = text(&line)
                    .and_then(|line| line.parse().ok())
                    .or(self.retry)
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of a stream, however it is cut into pieces.
    fn events(text: &str) -> Vec<(String, String)> {
        let read = |size: usize| {
            let (mut parser, mut events) = (Parser::new(1000), Vec::new());
            for chunk in text.as_bytes().chunks(size) {
                parser.push(chunk);
                while let Some(event) = parser.next().expect("short events") {
                    events.push((
                        event.name,
                        String::from_utf8(event.data.to_vec()).expect("UTF-8"),
                    ));
                }
            }
            events
        };
        let whole = read(text.len());
        (1..text.len()).for_each(|size| assert_eq!(read(size), whole, "in pieces of {size}"));
        whole
    }

    fn named(name: &str, data: &str) -> (String, String) {
        (name.into(), data.into())
    }

    #[test]
    fn events_are_read_as_the_standard_has_it() {
        let text = "\u{feff}data: a\n\n: a comment\nevent: endpoint\ndata:/x\r\n\r\ndata\ndata: b\rdata:  c\r\r\nid: 7\n\ndata: cut";
        assert_eq!(
            events(text),
            [
                named("message", "a"),
                named("endpoint", "/x"),
                named("message", "\nb\n c")
            ]
        );
    }

    #[test]
    fn ids_and_retries_are_kept() {
        let mut parser = Parser::new(100);
        parser.push(
            b"id: 7\nretry: 20\ndata: x\n\nid: a\0b\nretry: soon\ndata: y\n\nid: 8\ndata: cut",
        );
        while parser.next().expect("events").is_some() {}
        assert_eq!(
            (parser.last_id.as_deref(), parser.retry),
            (Some("7"), Some(20))
        );
        assert!(parser.is_within_event());
    }

    #[test]
    fn no_event_is_kept_beyond_the_limit() {
        for text in [
            "data: ".to_owned() + &"x".repeat(200),
            "data: 0123456789\n".repeat(20),
        ] {
            let mut parser = Parser::new(100);
            parser.push(text.as_bytes());
            assert_eq!(parser.next(), Err(SseError::TooLong));
        }
    }
}
