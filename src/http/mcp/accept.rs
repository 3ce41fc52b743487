//! The header `Accept`: whether a client takes JSON, an event stream, or both.

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// The value that the official SDKs send. It needs no parser.
const USUAL: &str = "application/json, text/event-stream";

/// The answers that a client takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Accepted {
    pub json: bool,
    pub events: bool,
}

impl Accepted {
    /// Reads the header. Without it, the client takes both.
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let is_usual = headers.get(ACCEPT).is_none_or(|value| value == USUAL);
        let mut accepted = Self {
            json: is_usual,
            events: is_usual,
        };
        let values = headers.get_all(ACCEPT).iter().skip(usize::from(is_usual));
        for range in values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
        {
            accepted.add(range);
        }
        accepted
    }

    fn add(&mut self, range: &str) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        // A weight of 0 means "not acceptable" (RFC 9110, section 12.4.2).
        if parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000")) {
            return;
        }
        let is = |name: &str| media_type.eq_ignore_ascii_case(name);
        self.json |= is("*/*") || is("application/*") || is("application/json");
        self.events |= is("*/*") || is("text/*") || is("text/event-stream");
    }

    /// Returns whether the client names none of the two types.
    pub(super) fn is_empty(self) -> bool {
        !self.json && !self.events
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn an_accept_header_names_the_types() {
        for (values, json, events) in [
            (&[][..], true, true),
            (&["application/json, text/event-stream"], true, true),
            (&["application/json", "text/event-stream"], true, true),
            (&["Application/JSON;q=0.5"], true, false),
            (&["text/event-stream"], false, true),
            (&["*/*"], true, true),
            (&["text/html, application/*;q=0.8"], true, false),
            (&["text/html"], false, false),
            (&["application/json;q=0, text/event-stream"], false, true),
            (&[""], false, false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(
                Accepted::read(&headers),
                Accepted { json, events },
                "{values:?}"
            );
        }
    }
}
