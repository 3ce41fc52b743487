//! The public form of an event, and its place in the log.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::core::event::public::public_data;
use crate::core::event::{Actor, Entry, upcast};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, Position};
use crate::telemetry::error::internal_error;

/// The place of an event in the log, written as `<position>.<index>`. The default is the place
/// before the first event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    pub position: Position,
    pub index: usize,
}

impl EventId {
    /// Returns whether an event comes after this position. Every event comes after the default.
    pub fn is_before(self, event: Self) -> bool {
        self == Self::default() || self < event
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.position, self.index)
    }
}

impl FromStr for EventId {
    type Err = Failure;

    /// Parses `<position>.<index>`. The text `0` means the beginning of the log.
    fn from_str(text: &str) -> Result<Self, Failure> {
        if text == "0" {
            return Ok(Self::default());
        }
        let parsed = text.split_once('.').and_then(|(position, index)| {
            Some(Self {
                position: Position(position.parse().ok()?),
                index: index.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| {
            Failure::invalid(
                "after (or Last-Event-ID) must be the id of an event, such as 12.0, or 0 for the beginning",
            )
        })
    }
}

/// One event of the log.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EventView {
    /// `<position>.<index>`.
    id: String,
    /// Milliseconds since 1970.
    at: u64,
    #[serde(rename = "type")]
    pub type_name: String,
    v: u16,
    pub subject: String,
    /// The author of the change: its kind, and the user, token and subject if they are known.
    #[schema(value_type = Object)]
    actor: Actor,
    #[schema(value_type = String)]
    command_id: CommandId,
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

impl EventView {
    /// Returns the size of the event's data in bytes.
    pub(super) fn data_bytes(&self) -> usize {
        self.data.get().len()
    }
}

/// Returns the public form of all events of one entry.
///
/// # Errors
/// Returns an internal error if the data of an event are damaged.
pub(super) fn entry_views(entry: Entry) -> Result<Vec<(EventId, EventView)>, Failure> {
    let Entry {
        position,
        at,
        commits,
    } = entry;
    let events = commits.into_iter().flat_map(|commit| {
        let actor = commit.actor;
        let command_id = commit.command_id;
        commit
            .events
            .into_iter()
            .map(move |event| (actor.clone(), command_id, event))
    });
    events
        .enumerate()
        .map(|(index, (actor, command_id, stored))| {
            let id = EventId { position, index };
            let stored = upcast::current_form(&stored)
                .map_err(internal_error)?
                .into_owned();
            let data = public_data(&stored).map_err(internal_error)?;
            let view = EventView {
                id: id.to_string(),
                at,
                type_name: stored.type_name,
                v: stored.v,
                subject: stored.subject,
                actor,
                command_id,
                data,
            };
            Ok((id, view))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_the_beginning_of_the_log() {
        assert_eq!("0".parse::<EventId>().ok(), Some(EventId::default()));
        assert_eq!("0.0".parse::<EventId>().ok(), Some(EventId::default()));
    }

    #[test]
    fn a_text_that_is_no_event_id_is_refused() {
        for text in ["", "12", "-1", "a.b", "1.", ".1", "00"] {
            assert!(text.parse::<EventId>().is_err(), "{text}");
        }
    }
}
