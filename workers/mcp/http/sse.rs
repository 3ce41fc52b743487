//! Reads server-sent events (WHATWG HTML, section 9.2) as they arrive.
//!
//! Published parsers do not limit an event, so a server that never ends an event would fill the memory.

use bytes::{Buf, Bytes, BytesMut};

use crate::http_client::StreamedResponse;

/// One event with data.
#[derive(Debug, PartialEq)]
pub struct SseEvent {
    /// `message` unless the event names a type.
    pub name: String,
    pub data: Bytes,
}

/// Why there are no more events.
#[derive(Debug, PartialEq)]
pub enum SseError {
    /// An event is larger than the limit.
    TooLong,
    /// The stream was cut off.
    Cut(String),
}

/// The events of a response.
pub struct SseReader {
    response: StreamedResponse,
    parser: Parser,
}

impl SseReader {
    /// Reads events of at most `limit` bytes.
    pub fn new(response: StreamedResponse, limit: usize) -> Self {
        Self {
            response,
            parser: Parser::new(limit),
        }
    }

    /// Returns the next event, or `None` at the end of the stream. Dropping the future loses no event.
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
                Err(error) => return Err(SseError::Cut(error.to_string())),
            }
        }
    }

    /// Returns the id of the last event. The stream can be resumed after it.
    pub fn last_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// Returns the pause before a new attempt that the server asks for, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.parser.retry
    }
}

/// Splits the bytes of a stream into events.
pub struct Parser {
    buffer: BytesMut,
    /// The bytes of the buffer that hold no line end.
    scanned: usize,
    /// The last line ended with CR, so a LF that follows belongs to that line end.
    after_cr: bool,
    is_first_line: bool,
    name: String,
    data: Option<BytesMut>,
    /// The id of the current event.
    id: Option<String>,
    /// The id of the last complete event, because an event that was cut off must come again.
    last_id: Option<String>,
    retry: Option<u64>,
    limit: usize,
}

impl Parser {
    /// Creates a parser of events of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            after_cr: false,
            is_first_line: true,
            name: String::new(),
            data: None,
            id: None,
            last_id: None,
            retry: None,
            limit,
        }
    }

    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    fn is_within_event(&self) -> bool {
        !self.buffer.is_empty() || self.data.is_some()
    }

    /// Returns the next event, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// Fails if an event is too long. The stream cannot be read further.
    #[expect(
        clippy::should_implement_trait,
        reason = "the end of an iterator is final, and `None` is not"
    )]
    pub fn next(&mut self) -> Result<Option<SseEvent>, SseError> {
        while let Some(text) = self.next_line() {
            if text.is_empty() {
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
            self.on_field(text);
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

    fn next_line(&mut self) -> Option<BytesMut> {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        let Some(offset) = memchr::memchr2(b'\n', b'\r', &self.buffer[self.scanned..]) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let end = self.scanned + offset;
        self.scanned = 0;
        self.after_cr = self.buffer[end] == b'\r';
        let mut text = self.buffer.split_to(end);
        self.buffer.advance(1);
        if std::mem::take(&mut self.is_first_line) && text.starts_with("\u{feff}".as_bytes()) {
            text.advance(3);
        }
        Some(text)
    }

    fn on_field(&mut self, mut value: BytesMut) {
        let colon = memchr::memchr(b':', &value);
        let field = value.split_to(colon.unwrap_or(value.len()));
        if colon.is_some() {
            value.advance(1);
            if value.first() == Some(&b' ') {
                value.advance(1);
            }
        }
        let as_text = |value: &BytesMut| String::from_utf8(value.to_vec()).ok();
        match &field[..] {
            b"data" => match &mut self.data {
                None => self.data = Some(value),
                Some(data) => {
                    data.extend_from_slice(b"\n");
                    data.extend_from_slice(&value);
                }
            },
            b"event" => self.name = as_text(&value).unwrap_or_default(),
            b"id" if !value.contains(&0) => self.id = as_text(&value).filter(|id| !id.is_empty()),
            b"retry" => {
                self.retry = as_text(&value)
                    .and_then(|text| text.parse().ok())
                    .or(self.retry)
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the events of a text, and checks that chunks of every size give the same events.
    fn events(text: &str) -> Vec<(String, String)> {
        let read = |size: usize| {
            let mut parser = Parser::new(1000);
            let mut events = Vec::new();
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
        for size in 1..text.len() {
            assert_eq!(read(size), whole, "in chunks of {size}");
        }
        whole
    }

    fn named(name: &str, data: &str) -> (String, String) {
        (name.into(), data.into())
    }

    #[test]
    fn events_are_read_as_the_standard_says() {
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
    fn the_last_id_and_pause_are_kept() {
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
    fn an_event_above_the_limit_is_an_error() {
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
