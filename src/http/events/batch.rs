//! Events as text, encoded once for all listeners.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::pages::{READ_LIMIT, read_entries};
use super::view::{EventId, EventView, entry_views};
use crate::core::event::Entry;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::eventlog::projection::Projection;
use crate::telemetry::error::internal_error;

/// The events of consecutive entries.
pub struct Batch {
    /// The position before the first entry.
    pub from: Position,
    /// The position of the last entry.
    pub to: Position,
    /// The text of all events.
    pub text: Bytes,
    pub events: Vec<EncodedEvent>,
}

/// The text of one event.
pub struct EncodedEvent {
    pub id: EventId,
    pub subject: String,
    pub text: Bytes,
}

/// Reads and encodes the entries after a position. Returns `None` at the end of the log.
///
/// # Errors
/// Returns `unavailable` if the store does not answer.
pub(super) async fn read_batch(
    projection: &Projection,
    from: Position,
) -> Result<Option<Batch>, Failure> {
    let entries = read_entries(projection, from, READ_LIMIT).await?;
    let Some(last) = entries.last() else {
        return Ok(None);
    };
    let to = last.position;
    let mut text = BytesMut::new();
    let mut encoded = Vec::new();
    for entry in entries {
        encode_entry(entry, &mut text, &mut encoded)?;
    }
    let text = text.freeze();
    let events = encoded
        .into_iter()
        .map(|event| EncodedEvent {
            id: event.id,
            subject: event.subject,
            text: text.slice(event.range),
        })
        .collect();
    Ok(Some(Batch {
        from,
        to,
        text,
        events,
    }))
}

/// An event whose text is still a part of a growing buffer.
struct EventRange {
    id: EventId,
    subject: String,
    range: Range<usize>,
}

fn encode_entry(
    entry: Entry,
    text: &mut BytesMut,
    encoded: &mut Vec<EventRange>,
) -> Result<(), Failure> {
    for (id, event) in entry_views(entry)? {
        let start = text.len();
        encode_event(id, &event, text)?;
        encoded.push(EventRange {
            id,
            subject: event.subject,
            range: start..text.len(),
        });
    }
    Ok(())
}

/// Appends one message of the event stream. JSON has no line breaks of its own.
fn encode_event(id: EventId, event: &EventView, text: &mut BytesMut) -> Result<(), Failure> {
    let data = serde_json::to_string(event).map_err(internal_error)?;
    let message = format!("id: {id}\nevent: {}\ndata: {data}\n\n", event.type_name);
    text.extend_from_slice(message.as_bytes());
    Ok(())
}
