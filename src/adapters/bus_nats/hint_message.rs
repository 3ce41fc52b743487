//! The format of hints.

use async_nats::header::{HeaderMap, HeaderName};
use async_nats::message::OutboundMessage;
use async_nats::{HeaderValue, Message};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD as URL_SAFE, Engine as _};
use bytes::Bytes;

use super::wire::text;
use crate::core::ids::Position;
use crate::ports::bus::{Hint, SignedEntry};

/// The entry of a hint, as JSON on one line, and its signature in base64. A position without them is a hint too.
static ENTRY: HeaderName = HeaderName::from_static("Mcp-Entry");
static SIGNATURE: HeaderName = HeaderName::from_static("Mcp-Signature");
/// The process that sent a hint. This process ignores its own hints, because its listeners have them already.
static FROM: HeaderName = HeaderName::from_static("Mcp-From");

/// Returns a hint of this process as a message.
pub(super) fn hint(subject: String, from: &str, payload: Bytes) -> OutboundMessage {
    let mut headers = HeaderMap::new();
    headers.insert(FROM.clone(), from);
    OutboundMessage {
        subject: subject.into(),
        reply: None,
        payload,
        headers: Some(headers),
    }
}

/// Adds the entry to a hint about its position. A text that a header cannot carry stays away.
pub(super) fn add_entry(message: &mut OutboundMessage, entry: &SignedEntry) {
    let Ok(text) = entry.text.parse::<HeaderValue>() else {
        return;
    };
    let headers = message.headers.get_or_insert_default();
    headers.insert(ENTRY.clone(), text);
    headers.insert(SIGNATURE.clone(), URL_SAFE.encode(&entry.signature));
}

/// Returns the position of a hint, with the entry if the hint has it.
pub(super) fn parse_log_hint(message: &Message) -> Option<Hint> {
    let position = std::str::from_utf8(&message.payload).ok()?;
    let position = Position(position.trim().parse().ok()?);
    let signature = text(message, &SIGNATURE).and_then(|text| URL_SAFE.decode(text).ok());
    let entry = text(message, &ENTRY).filter(|text| text.len() <= SignedEntry::MAX_TEXT);
    let entry = entry.zip(signature);
    Some(match entry {
        Some((text, signature)) => Hint::EntryAppended(SignedEntry {
            position,
            text: text.into(),
            signature: signature.into(),
        }),
        None => Hint::LogMoved(position),
    })
}

pub(super) fn is_from(message: &Message, process: &str) -> bool {
    text(message, &FROM) == Some(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_whose_entry_has_a_line_break_names_the_position_only() {
        for (text, is_carried) in [("{}", true), ("{\n}", false), ("{\r}", false)] {
            let entry = SignedEntry {
                position: Position(7),
                text: text.into(),
                signature: Bytes::from_static(b"s"),
            };
            let mut message = hint("subject".into(), "me", "7".into());
            add_entry(&mut message, &entry);
            let headers = message.headers.expect("headers");
            assert_eq!(headers.get(ENTRY.clone()).is_some(), is_carried, "{text:?}");
        }
    }
}
