//! An event as readers outside see it, and where it stands.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::core::event::{Actor, Entry, Event};
use crate::core::failure::Failure;
use crate::core::ids::{CommandId, Position};
use crate::telemetry::error::internal_error;

/// Where an event stands: `<position>.<index>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    pub position: Position,
    pub index: usize,
}

impl EventId {
    /// Whether an event comes after this one; after the beginning, all do.
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
    fn from_str(text: &str) -> Result<Self, Failure> {
        let parsed = text
            .split_once('.')
            .and_then(|(p, i)| Some((p.parse().ok()?, i.parse().ok()?)));
        let (position, index) = parsed.ok_or_else(|| {
            Failure::invalid("after (or Last-Event-ID) must be the id of an event, such as 12.0")
        })?;
        Ok(Self {
            position: Position(position),
            index,
        })
    }
}

/// Something that has happened.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// `<position>.<index>`.
    id: String,
    /// Milliseconds since 1970.
    at: u64,
    #[serde(rename = "type")]
    pub type_name: String,
    v: u16,
    pub subject: String,
    #[schema(value_type = String)]
    actor: Actor,
    #[schema(value_type = String)]
    command_id: CommandId,
    #[schema(value_type = Object)]
    data: Box<RawValue>,
}

/// The events of one append.
pub fn views(entry: Entry) -> Result<Vec<(EventId, EventView)>, Failure> {
    let events = entry.commits.into_iter().flat_map(|commit| {
        commit
            .events
            .into_iter()
            .map(move |event| (commit.actor, commit.command_id, event))
    });
    let views = events
        .enumerate()
        .map(|(index, (actor, command_id, stored))| {
            let id = EventId {
                position: entry.position,
                index,
            };
            let data = Event::decode(&stored)
                .map_err(internal_error)?
                .public_data(&stored)
                .map_err(internal_error)?;
            let view = EventView {
                id: id.to_string(),
                at: entry.at,
                type_name: stored.type_name,
                v: stored.v,
                subject: stored.subject,
                actor,
                command_id,
                data,
            };
            Ok((id, view))
        });
    views.collect()
}
