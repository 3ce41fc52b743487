//! The log in pages.

use super::view::{EventId, EventView, views};
use crate::core::event::Entry;
use crate::core::failure::Failure;
use crate::core::ids::Position;
use crate::eventlog::projection::Projection;

/// Appends read at once.
const PAGE: usize = 200;
/// Appends that one request looks at: what is asked for may be rare, or not there.
const LOOKED_AT: usize = 20_000;

/// Up to `limit` events after one, and the id after which the next page begins.
pub async fn read(
    projection: &Projection,
    after: EventId,
    limit: usize,
    subject: Option<&str>,
    until: Option<Position>,
) -> Result<(Vec<EventView>, EventId), Failure> {
    let (mut events, mut next) = (Vec::new(), after);
    let mut from = before(after);
    let mut looked_at = 0;
    'reading: while looked_at < LOOKED_AT {
        let entries = entries(projection, from).await?;
        let Some(last) = entries.last() else { break };
        from = last.position;
        looked_at += entries.len();
        for entry in entries {
            if until.is_some_and(|until| entry.position > until) {
                break 'reading;
            }
            for (id, event) in views(entry)? {
                if !after.is_before(id) {
                    continue;
                }
                if subject.is_none_or(|subject| event.subject == subject) {
                    if events.len() == limit {
                        break 'reading;
                    }
                    events.push(event);
                }
                next = id;
            }
        }
    }
    Ok((events, next))
}

/// The position whose next append is to be read: the one of `after` itself is read again, since further events
/// may stand there.
pub fn before(after: EventId) -> Position {
    Position(after.position.0.saturating_sub(1))
}

/// The appends after a position, as far as this process has folded them: what it cannot read, it does not show.
pub async fn entries(projection: &Projection, from: Position) -> Result<Vec<Entry>, Failure> {
    let head = projection.position();
    if from >= head {
        return Ok(vec![]);
    }
    let entries = projection.log().read(from, PAGE).await;
    let mut entries = entries.map_err(|_| Failure::unavailable("The store cannot be reached"))?;
    entries.retain(|entry| entry.position <= head);
    Ok(entries)
}
